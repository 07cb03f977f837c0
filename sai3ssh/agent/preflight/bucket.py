"""What a target's bucket answers to signed requests: may it be listed, how far away is it, what does it do with objects by itself."""

from __future__ import annotations

import re
import statistics
from html import unescape
from typing import Callable, Dict, Optional, Tuple
from urllib.parse import unquote_plus

from sai3ssh.agent.engines.endpoint import Endpoint, S3Root
from sai3ssh.agent.engines.listing import parse_page
from sai3ssh.agent.engines.response import Failure
from sai3ssh.agent.engines.s3_errors import Refusal, explain
from sai3ssh.agent.engines.sigv4 import encode_query
from sai3ssh.agent.preflight.checks import failure, ok, warning
from sai3ssh.agent.preflight.exchange import Client, Reply
from sai3ssh.agent.preflight.request import Storage
from sai3ssh.findings import Finding

RTT_PROBES = 5
MAX_RTT_MS = 100.0

PERMISSIONS = {
    "get": "s3:GetObject",
    "put": "s3:PutObject",
    "list": "s3:ListBucket",
    "stat": "s3:GetObject",
    "delete": "s3:DeleteObject",
}


class Bucket:
    """One target on one endpoint, over a connection of its own.

    `left` gives the seconds that a request may take, `elsewhere` the endpoint of the bucket in another region.
    """

    def __init__(
        self, client: Client, root: S3Root, storage: Storage, left: Callable[[], float], elsewhere: Callable[[str], Endpoint]
    ) -> None:
        self.client = client
        self.root = root
        self.storage = storage
        self.left = left
        self._elsewhere = elsewhere
        self.denied = False
        """LIST was answered by AccessDenied: the key is known, and may have other rights."""
        self.retains = ""
        """How long object lock keeps what is put, where it does."""
        self.broken = False
        """A request got no answer, or none that makes sense."""
        self.listed: Optional[str] = None
        """The first key below the prefix, as a LIST found it."""

    def on_bucket(self, method: str, parameters: Optional[Dict[str, str]] = None) -> Reply:
        """A signed request to the bucket; raises Failure."""
        return self.client.signed(method, self.root.bucket_path, encode_query(parameters or {}), self.left())

    def answer(self, operation: str, question: Callable[[], Finding]) -> Finding:
        """The question's finding; a request of it that did not come about is one too, and then nothing more is asked of the server."""
        try:
            return question()
        except Failure as error:
            self.broken = True
            return self.refusal(operation, Refusal(error.error_class, error.detail))

    def refusal(self, operation: str, found: Refusal) -> Finding:
        """The finding for an operation that the server refused, or that did not come about."""
        what, remedy = explain(found, self.client.endpoint.region)
        if found.status == 403 and found.code in ("", "AccessDenied") and operation in PERMISSIONS:
            prefix = f" and its prefix {self.root.prefix}" if self.root.prefix else ""
            remedy = f"Allow this key {PERMISSIONS[operation]} on the bucket {self.root.bucket}{prefix}; look for a Deny in its policy too"
        return failure(f"{operation}: {what}", f"a {operation} that succeeds", remedy, status=found.status, code=found.code)

    def may_list(self) -> Finding:
        """storage.list: address, credentials, region and bucket are right; where the region is not, the rest is asked in the right one."""
        first = {"encoding-type": "url", "list-type": "2", "max-keys": "1", "prefix": self.root.prefix}
        reply = self.on_bucket("GET", first)
        refused = self.client.refused(reply)
        moved = refused is not None and refused.elsewhere and refused.region not in ("", self.client.endpoint.region)
        if refused is not None and moved:
            self.client = self.client.at(self._elsewhere(refused.region))
            reply = self.on_bucket("GET", first)
            refused = self.client.refused(reply)
        if refused is not None:
            self.denied = refused.status == 403 and refused.code in ("", "AccessDenied")
            return self.refusal("list", refused)
        keys = parse_page(reply.body, None).keys
        found = re.search(rb"<Key>([^<]*)</Key>", reply.body)
        self.listed = unquote_plus(unescape(found.group(1).decode("utf-8", "replace"))) if found else None
        if moved:
            region = self.client.endpoint.region
            return warning(
                f"the bucket is in region {region}, not {self.storage.region}: each agent is sent there once",
                "the region of the bucket",
                f"Set s3.region to {region}",
                region=region,
            )
        if keys == 0:
            if {"get", "stat"} & set(self.storage.operations) and not self.storage.puts:
                return warning(
                    "may be listed, but nothing is below the prefix",
                    "objects to read, since this workload puts none",
                    "Prepare the objects first, or correct the prefix of the target",
                    empty=True,
                )
            return ok("may be listed; nothing is below the prefix yet", empty=True)
        return ok("may be listed; there are objects below the prefix", empty=False)

    def rtt(self) -> Finding:
        """storage.rtt: what a request costs before the storage does anything."""
        times = sorted(self.on_bucket("HEAD").seconds * 1e3 for _ in range(RTT_PROBES))
        median = statistics.median(times)
        found = f"median {median:.1f} ms of {RTT_PROBES} signed requests, {times[0]:.1f} to {times[-1]:.1f} ms"
        values = {"median_ms": round(median, 3), "min_ms": round(times[0], 3), "max_ms": round(times[-1], 3)}
        if median > MAX_RTT_MS:
            remedy = "Look at the path (mtr, traceroute) and at the load of the server; latency will hold this, and needs more concurrency"
            return warning(found, f"at most {MAX_RTT_MS:.0f} ms", remedy, **values)
        return ok(found, **values)

    def versioning(self) -> Finding:
        """storage.versioning: whether what is overwritten or deleted stays."""
        reply, unseen = self._setting("versioning")
        if unseen is not None:
            return unseen
        status = _text(reply.body, "Status") or "off"
        if status == "Enabled" and self._changes:
            return warning(
                "versioning is enabled: whatever the workload overwrites or deletes stays as a version and uses space",
                "a bucket without versioning",
                "Use another bucket, or add a lifecycle rule that expires noncurrent versions and delete markers",
                versioning=status,
            )
        return ok(f"versioning {status.lower()}", versioning=status)

    def object_lock(self) -> Finding:
        """storage.object_lock: whether objects can be deleted again."""
        reply, unseen = self._setting("object-lock", "ObjectLockConfigurationNotFoundError")
        if unseen is not None:
            return unseen
        mode = _text(reply.body, "Mode")
        period = _text(reply.body, "Days") and f"{_text(reply.body, 'Days')} days"
        period = period or (_text(reply.body, "Years") and f"{_text(reply.body, 'Years')} years")
        if mode and self.storage.puts:
            self.retains = period or "a time"
            return warning(
                f"object lock retains new objects for {self.retains} ({mode}): they cannot be deleted before",
                "a bucket without default retention",
                "Use another bucket: what this workload writes would stay, and could not be cleaned up",
                mode=mode,
            )
        return ok(
            "object lock without default retention"
            if _text(reply.body, "ObjectLockEnabled") and not mode
            else f"object lock {mode or 'off'}"
        )

    def lifecycle(self) -> Finding:
        """storage.lifecycle: whether the server removes or moves objects by itself."""
        reply, unseen = self._setting("lifecycle", "NoSuchLifecycleConfiguration")
        if unseen is not None:
            return unseen
        rules = re.findall(r"<Rule>(.*?)</Rule>", reply.body.decode("utf-8", "replace"), re.DOTALL)
        acting = [rule for rule in map(self._acts, rules) if rule]
        if acting:
            return warning(
                f"lifecycle rules act on objects of this workload: {'; '.join(acting[:3])}",
                "no rule that expires or moves them",
                "Use another prefix or bucket, or disable the rule; objects that vanish in a run are errors 404 in its results",
                rules=len(acting),
            )
        return ok(f"{len(rules)} lifecycle rules, none of them for these objects" if rules else "no lifecycle rules")

    def _acts(self, rule: str) -> str:
        """What a rule does to untagged objects below the prefix; empty when nothing."""
        prefix, ours = _text(rule, "Prefix"), self.root.prefix
        if _text(rule, "Status") != "Enabled" or "<Tag>" in rule or not (prefix.startswith(ours) or ours.startswith(prefix)):
            return ""
        does = []
        for tag, verb in (("Expiration", "expires"), ("Transition", "moves")):
            part = re.search(rf"<{tag}>(.*?)</{tag}>", rule, re.DOTALL)
            when = part and (_text(part.group(1), "Days") or _text(part.group(1), "Date"))
            if when:
                does.append(f"{verb} after {when} days" if when.isdigit() else f"{verb} on {when}")
        name = _text(rule, "ID")
        return f"{f'{name} ' if name else ''}{' and '.join(does)}" if does else ""

    @property
    def _changes(self) -> bool:
        return bool({"put", "delete"} & set(self.storage.operations))

    def _setting(self, name: str, absent: str = "") -> Tuple[Reply, Optional[Finding]]:
        """The server's answer about a setting of the bucket, and the finding when that is all there is to say."""
        reply = self.on_bucket("GET", {name: ""})
        refused = self.client.refused(reply)
        if refused is None:
            return reply, None
        if absent and refused.code == absent:
            return reply, ok(f"none ({absent})")
        return reply, ok(f"cannot be seen: {refused.detail}", status=refused.status)


def _text(body: object, tag: str) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    found = re.search(rf"<{tag}>([^<]*)</{tag}>", text)
    return "".join(c for c in unescape(found.group(1)).strip()[:100] if c.isprintable()) if found else ""
