"""All targets of the plan on S3 endpoints: each endpoint once, then its targets, side by side."""

from __future__ import annotations

import time
from functools import partial
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from sai3ssh.agent.engines.credentials import find_credentials
from sai3ssh.agent.engines.endpoint import EndpointMap, S3Root
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.engines.sigv4 import ANONYMOUS, Credentials
from sai3ssh.agent.preflight.bucket import Bucket
from sai3ssh.agent.preflight.checks import Sheet, failure, ok, side_by_side, skipped
from sai3ssh.agent.preflight.endpoint import REQUEST_S, Path
from sai3ssh.agent.preflight.exchange import Client
from sai3ssh.agent.preflight.probe import CLEANUP_S, Probe
from sai3ssh.agent.preflight.request import Storage
from sai3ssh.errors import TargetError
from sai3ssh.findings import Level
from sai3ssh.model import Target

_RESERVE_S = 2 * CLEANUP_S
"""Kept free at the end: a probe object that was put must be gone when the time is up."""

Targets = List[Tuple[S3Root, Storage]]


def check_storage(sheet: Sheet, storage: Sequence[Storage], given: Optional[Mapping[str, Optional[str]]], deadline: float) -> None:
    """All storage.* checks, with the given keys or this host's own; `deadline` is of time.monotonic()."""
    if sheet.skips("storage"):
        sheet.ask("storage", lambda: ok(""))
        return
    credentials: Optional[Credentials] = None
    finding = ok("keys of the run" if given is not None else "keys of this host: environment, profile or instance role")
    try:
        if storage and all(entry.anonymous for entry in storage):
            credentials, finding = ANONYMOUS, ok("none needed: requests are not signed")
        else:
            credentials = find_credentials(given)
    except TargetError as error:
        finding = failure(error.message, "keys for the storage", error.remedy or "Give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    sheet.ask("storage.credentials", lambda: finding)
    maps: Dict[Target, EndpointMap] = {}
    endpoints: Dict[Tuple[Target, str], Targets] = {}
    for entry in storage:
        target = Target(
            "s3",
            entry.endpoint_url,
            entry.region,
            path_style=entry.path_style,
            verify_tls=entry.verify_tls,
            ca_file=entry.ca_file,
            anonymous=entry.anonymous,
        )
        try:
            if target not in maps:
                maps[target] = EndpointMap(target, ANONYMOUS if entry.anonymous else credentials or ANONYMOUS)
            root = maps[target].root(entry.uri)
        except TargetError as error:
            check = "storage.tls" if entry.ca_file and entry.ca_file in error.message else "storage.dns"
            unusable = failure(error.message, "a target that can be used as it is written", error.remedy or "Correct the target")
            sheet.add(check, unusable, entry.uri)
            continue
        endpoints.setdefault((target, root.endpoint.url), []).append((root, entry))
    side_by_side(
        sheet,
        [
            partial(_check_endpoint, where=maps[target], targets=targets, credentials=credentials, deadline=deadline)
            for (target, _), targets in endpoints.items()
        ],
        deadline,
    )


def _check_endpoint(sheet: Sheet, where: EndpointMap, targets: Targets, credentials: Optional[Credentials], deadline: float) -> None:
    root, first = targets[0]
    path = Path(root, first)
    path.check(sheet)
    lacking = path.failed or ("storage.credentials" if credentials is None else "storage.tcp" if path.address is None else "")
    if lacking or path.address is None or credentials is None:
        for root, _ in targets:
            sheet.add("storage.list", skipped(f"not done, nor what follows, because {lacking} failed"), _name(root))
        return
    jobs = [
        partial(
            _check_target,
            client=Client(root.endpoint, path.address, credentials),
            where=where,
            root=root,
            entry=entry,
            until=deadline - _RESERVE_S,
        )
        for root, entry in targets
    ]
    side_by_side(sheet, jobs, deadline)


def _name(root: S3Root) -> str:
    return f"{root.uri} at {root.endpoint.url}"


def _check_target(sheet: Sheet, client: Client, where: EndpointMap, root: S3Root, entry: Storage, until: float) -> None:
    """One target, over one connection; requests begin before `until`."""

    def left() -> float:
        seconds = min(REQUEST_S, until - time.monotonic())
        if seconds < 0.1:
            raise Failure("timeout_total", "no time was left for it: what came before took too long")
        return seconds

    subject = _name(root)
    bucket = Bucket(client, root, entry, left, partial(where.elsewhere, root))
    try:
        if sheet.ask("storage.list", partial(bucket.answer, "list", bucket.may_list), subject) is Level.FAILURE and not bucket.denied:
            sheet.add("storage.rtt", skipped("not done, nor what follows, because storage.list failed"), subject)
            return
        for check, question in (
            ("storage.rtt", bucket.rtt),
            ("storage.versioning", bucket.versioning),
            ("storage.object_lock", bucket.object_lock),
            ("storage.lifecycle", bucket.lifecycle),
        ):
            sheet.ask(check, partial(bucket.answer, check.partition(".")[2], question), subject)
            if bucket.broken:
                sheet.add("storage.put", skipped(f"not done, nor what follows, because {check} failed"), subject)
                return
        Probe(bucket).check(sheet, subject)
    finally:
        bucket.client.close()
