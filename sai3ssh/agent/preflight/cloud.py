"""All az:// and gs:// targets of the plan: the library, the way to each endpoint, and what the workload will do there, by its engine."""

from __future__ import annotations

import contextlib
import secrets
import time
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from sai3ssh.agent.engines import obstore_module
from sai3ssh.agent.engines.base import DELETE, GET, PUT, STAT, Task
from sai3ssh.agent.engines.cloud import (
    CONTAINER,
    NO_CONTAINER,
    CloudCredentials,
    CloudRoot,
    endpoint_of,
    explain_cloud,
    find_cloud_credentials,
    parse_root,
)
from sai3ssh.agent.engines.endpoint import EndpointMap
from sai3ssh.agent.engines.sigv4 import ANONYMOUS
from sai3ssh.agent.preflight.checks import Sheet, failure, ok, side_by_side, skipped, warning
from sai3ssh.agent.preflight.endpoint import REQUEST_S, Path
from sai3ssh.agent.preflight.request import Storage
from sai3ssh.dataset import Content
from sai3ssh.errors import TargetError
from sai3ssh.findings import Finding, Level
from sai3ssh.model import Deadlines, Retry, Target

Given = Optional[Mapping[str, Optional[str]]]
_BODY_BYTES = 47
_OPERATIONS = {"put": PUT, "get": GET, "stat": STAT, "delete": DELETE}


def check_cloud(sheet: Sheet, storage: Sequence[Storage], given: Given, deadline: float) -> None:
    """All storage.* checks, with the given keys or this host's own; `deadline` is of time.monotonic()."""
    if sheet.skips("storage"):
        sheet.ask("storage", lambda: ok(""))
        return
    if sheet.ask("storage.engine", _library) is Level.FAILURE:
        sheet.add("storage.credentials", skipped("not done, nor what follows, because storage.engine failed"))
        return
    credentials: Dict[Tuple[str, Optional[str]], Optional[CloudCredentials]] = {}
    endpoints: Dict[str, List[Tuple[CloudRoot, Storage]]] = {}
    for entry in storage:
        try:
            root = parse_root(entry.uri)
            whose = (root.service, entry.account)
            if whose not in credentials:
                credentials[whose] = _credentials(sheet, *whose, given)
            found = credentials[whose]
            if found is not None:
                endpoints.setdefault(endpoint_of(_target(entry), root.service, found.account), []).append((root, entry))
        except TargetError as error:
            unusable = failure(error.message, "a target that can be used as it is written", error.remedy or "Correct the target")
            sheet.add("storage.dns", unusable, entry.uri)
    jobs = [partial(_check_endpoint, url=url, targets=targets, given=given, deadline=deadline) for url, targets in endpoints.items()]
    side_by_side(sheet, jobs, deadline)


def _library() -> Finding:
    """storage.engine: whether this Python has the library."""
    try:
        version = obstore_module().VERSION
    except TargetError as error:
        return failure(error.message, "obstore in the Python that runs the agent", error.remedy or "")
    return ok(f"obstore {version}", version=version)


def _credentials(sheet: Sheet, service: str, account: Optional[str], given: Given) -> Optional[CloudCredentials]:
    found: List[CloudCredentials] = []

    def find() -> Finding:
        try:
            found.append(find_cloud_credentials(service, account, given))
        except TargetError as error:
            return failure(error.message, "keys for the storage", error.remedy or "")
        if given is not None:
            return ok("keys of the run")
        return ok("this host's own identity" if found[0].own else "keys of this host's environment")

    sheet.ask("storage.credentials", find)
    if not found:  # it failed, or was not to be checked
        with contextlib.suppress(TargetError):
            found.append(find_cloud_credentials(service, account, given))
    return found[0] if found else None


def _target(entry: Storage) -> Target:
    return Target("obstore", entry.endpoint_url, account=entry.account)


def _check_endpoint(sheet: Sheet, url: str, targets: Sequence[Tuple[CloudRoot, Storage]], given: Given, deadline: float) -> None:
    root, first = targets[0]
    where = EndpointMap(Target("s3", url), ANONYMOUS).root(f"s3://{root.bucket}/")
    path = Path(where, first)
    path.check(sheet)
    lacking = path.failed or ("storage.tcp" if path.address is None else "")
    if lacking:
        for root, _ in targets:
            sheet.add("storage.list", skipped(f"not done, nor what follows, because {lacking} failed"), f"{root.uri} at {url}")
        return
    jobs = [partial(_Container(root.uri, entry, given, url).check, until=deadline - 2 * REQUEST_S) for root, entry in targets]
    side_by_side(sheet, jobs, deadline)


class _Container:
    """One target, asked through the engine that the workload will use."""

    def __init__(self, uri: str, entry: Storage, given: Given, url: str) -> None:
        self._module = obstore_module()
        deadlines = Deadlines(REQUEST_S, REQUEST_S, REQUEST_S)
        self._engine: Any = self._module.ObstoreEngine(_target(entry), given, deadlines, Retry(max_retries=0))
        self._entry = entry
        self._uri = uri
        self._subject = f"{uri} at {url}"
        self._key = f".sai3ssh-preflight-{secrets.token_hex(8)}"
        self._there = ""
        """The name of an object below the prefix."""
        self._written = False
        """Whether the probe may be there."""
        self._denied = False

    def check(self, sheet: Sheet, until: float) -> None:
        """storage.list, and what the workload uses on a probe object, which is removed whatever happens; one that puts nothing has
        nothing written. Requests begin before `until`."""
        try:
            self._root = self._engine.root(self._uri)
        except TargetError as error:
            unusable = failure(error.message, "credentials that can be used", error.remedy or "")
            sheet.add("storage.credentials", unusable, self._subject)
            return
        if sheet.ask("storage.list", partial(self._answer, "list", self._list), self._subject) is Level.FAILURE and not self._denied:
            sheet.add("storage.put", skipped("not done, nor what follows, because storage.list failed"), self._subject)
            return
        lacking = ""
        try:
            for name in _OPERATIONS:
                if name not in self._entry.operations:
                    continue
                if not lacking and time.monotonic() > until:
                    lacking = "what came before it took too long"
                if lacking:
                    sheet.add(f"storage.{name}", skipped(f"not done: {lacking}"), self._subject)
                    continue
                question = partial(self._answer, name, partial(self._try, name))
                if sheet.ask(f"storage.{name}", question, self._subject) is Level.FAILURE and name == "put":
                    lacking = "storage.put failed"
        finally:
            if self._written:
                self._remove(sheet)

    def _answer(self, name: str, question: Callable[[], Finding]) -> Finding:
        try:
            return question()
        except self._module.CloudFailure as failed:
            found = failed.refusal
            # The identity is known, and may have other rights.
            self._denied = name == "list" and found.status == 403 and "authenticat" not in found.detail.lower()
            what, remedy = explain_cloud(found, self._root.service)
            return failure(f"{name}: {what}", f"a {name} that succeeds", remedy, status=found.status, code=found.code)

    def _list(self) -> Finding:
        self._there = self._engine.first_key(self._root) or ""
        if not self._there and {"get", "stat"} & set(self._entry.operations) and not self._entry.puts:
            return warning(
                "may be listed, but nothing is below the prefix",
                "objects to read, since this workload puts none",
                "Prepare the objects first, or correct the prefix of the target",
                empty=True,
            )
        found = "there are objects below the prefix" if self._there else "nothing is below the prefix yet"
        return ok(f"may be listed; {found}", empty=not self._there)

    def _try(self, name: str) -> Finding:
        began = time.perf_counter()
        operation = _OPERATIONS[name]
        try:
            if operation == PUT:
                self._written = True  # also when the answer gets lost
            if operation in (GET, STAT) and not self._written and self._there:
                self._engine.look_at(self._root, self._there, operation == GET)
            else:
                self._engine.perform(self._task(operation))
        except self._module.CloudFailure as failed:
            # What is not there is said only to those who may read.
            if not self._written and failed.refusal.status == 404 and failed.refusal.code not in NO_CONTAINER:
                return ok(f"{name} may be done: there is no object to try it on")
            if operation == PUT:
                self._written = failed.refusal.status == 0 or failed.refusal.status >= 500
            raise
        if operation == DELETE:
            self._written = False
        ms = (time.perf_counter() - began) * 1e3
        return ok(f"{name} in {ms:.1f} ms", ms=round(ms, 3))

    def _task(self, operation: int) -> Task:
        return Task(operation, self._root, self._key, _BODY_BYTES, 0, Content(0, "zero"), 0)

    def _remove(self, sheet: Sheet) -> None:
        try:
            self._engine.perform(self._task(DELETE))
        except self._module.CloudFailure as failed:
            left = warning(
                f"the probe object {self._key} could not be removed: {failed.detail}",
                "a probe that is gone",
                f"Remove {self._uri}{self._key} by hand; allow this identity to delete in the {CONTAINER[self._root.service]}",
            )
            sheet.add("storage.probe", left, self._subject)
