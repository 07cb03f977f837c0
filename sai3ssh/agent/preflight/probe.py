"""One small object, made, read, looked at and removed: whether this key may do what the workload will do."""

from __future__ import annotations

import secrets
from typing import Callable, List, Optional

from sai3ssh.agent.engines.response import Failure, header
from sai3ssh.agent.engines.s3_errors import Refusal
from sai3ssh.agent.engines.sigv4 import encode_path, encode_query
from sai3ssh.agent.preflight.bucket import Bucket
from sai3ssh.agent.preflight.checks import Sheet, failure, ok, skipped, warning
from sai3ssh.agent.preflight.exchange import Reply
from sai3ssh.findings import Finding, Level

CLEANUP_S = 3.0
"""For each request that removes the probe; kept free at the end of the time that a target has."""

_BODY = b"sai3ssh preflight probe, to be removed at once\n"


class Probe:
    """The operations of a workload on a key of its own.

    A workload that puts gets a probe object, which is removed whatever happens. One that does not put has nothing written: its get and
    stat are tried on an object that is there, its delete on a key that is not.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.key = f".sai3ssh-preflight-{secrets.token_hex(8)}"
        self._versions: List[str] = []
        """What the server calls what was left by PUT and DELETE, on a bucket with versions."""
        self._written = False
        """Whether the probe may be there."""
        self._deleted = False

    def check(self, sheet: Sheet, subject: str) -> None:
        """Tries what the workload uses, in an order in which each has what it needs."""
        uses = self._bucket.storage.operations
        asked = {"put": self._put, "get": self._get, "stat": self._stat, "delete": self._delete}
        lacking = ""
        try:
            for operation, question in asked.items():
                if operation not in uses:
                    continue
                if operation == "put" and self._bucket.retains:
                    kept = f"not tried: object lock would keep the probe object for {self._bucket.retains}"
                    sheet.add("storage.put", skipped(kept), subject)
                    continue
                if lacking:
                    sheet.add(f"storage.{operation}", skipped(f"not done because {lacking} failed"), subject)
                    continue
                level = sheet.ask(f"storage.{operation}", self._guarded(operation, question), subject)
                if level is Level.FAILURE and (operation == "put" or self._bucket.broken):
                    lacking = f"storage.{operation}"
        finally:
            left = self._remove()
            if left:
                sheet.add("storage.probe", self._left_behind(left), subject)

    def _guarded(self, operation: str, question: Callable[[], Finding]) -> Callable[[], Finding]:
        return lambda: self._bucket.answer(operation, question)

    def _request(self, method: str, key: str, body: bytes = b"", query: str = "", timeout_s: Optional[float] = None) -> Reply:
        path = self._bucket.root.bucket_path.rstrip("/") + "/" + encode_path(key)
        return self._bucket.client.signed(method, path, query, timeout_s or self._bucket.left(), body, wanted=len(_BODY) + 1)

    @property
    def _own(self) -> str:
        return self._bucket.root.prefix + self.key

    def _put(self) -> Finding:
        self._written = True  # also when the answer gets lost
        reply = self._request("PUT", self._own, _BODY)
        refused = self._bucket.client.refused(reply)
        if refused is not None:
            self._written = refused.status >= 500
            return self._bucket.refusal("put", refused)
        self._note_version(reply)
        return ok(f"put {self.key} in {reply.seconds * 1e3:.1f} ms", ms=round(reply.seconds * 1e3, 3))

    def _get(self) -> Finding:
        return self._read("GET", "get")

    def _stat(self) -> Finding:
        return self._read("HEAD", "stat")

    def _read(self, method: str, operation: str) -> Finding:
        """Of the probe, else of an object that is there, else of none: that it is not there is said only to who may read."""
        key = self._own if self._written else self._bucket.listed or self._own
        reply = self._request(method, key)
        refused = self._bucket.client.refused(reply)
        missing = refused is not None and refused.status == 404 and refused.code != "NoSuchBucket"
        if refused is not None and (self._written or not missing):
            return self._bucket.refusal(operation, refused)
        if self._written and method == "GET" and reply.body != _BODY:
            return failure(
                f"{operation}: {len(reply.body)} bytes came back that differ from the {len(_BODY)} that were put",
                "the bytes that were put",
                "Look for a cache or a proxy in between, and at the storage itself",
            )
        return ok(
            f"{operation} in {reply.seconds * 1e3:.1f} ms" if refused is None else f"{operation} allowed", ms=round(reply.seconds * 1e3, 3)
        )

    def _delete(self) -> Finding:
        reply = self._request("DELETE", self._own)
        refused = self._bucket.client.refused(reply)
        if refused is not None and (self._written or refused.status != 404):
            return self._bucket.refusal("delete", refused)
        if refused is None:
            self._deleted = True
            self._note_version(reply)
        return ok(f"delete in {reply.seconds * 1e3:.1f} ms", ms=round(reply.seconds * 1e3, 3))

    def _note_version(self, reply: Reply) -> None:
        version = header(reply.head, "x-amz-version-id")
        if version not in ("", "null"):
            self._versions.append(version)

    def _remove(self) -> str:
        """Removes the probe, with its versions; why it is still there, or empty."""
        if not self._written:
            return ""
        try:
            refused = None
            if not self._deleted:
                reply = self._request("DELETE", self._own, timeout_s=CLEANUP_S)
                refused = self._bucket.client.refused(reply)
                if refused is None:
                    self._note_version(reply)
            for version in self._versions:
                reply = self._request("DELETE", self._own, query=encode_query({"versionId": version}), timeout_s=CLEANUP_S)
                refused = refused or self._bucket.client.refused(reply)
        except Failure as error:
            refused = Refusal(error.error_class, error.detail)
        return refused.detail if refused is not None and refused.status != 404 else ""

    def _left_behind(self, why: str) -> Finding:
        key = f"s3://{self._bucket.root.bucket}/{self._own}"
        return warning(
            f"the probe object {key} could not be removed: {why}",
            "a probe that is gone",
            f"Remove it by hand (`aws s3 rm '{key}'`, with its versions); give this key s3:DeleteObject (and s3:DeleteObjectVersion)",
        )
