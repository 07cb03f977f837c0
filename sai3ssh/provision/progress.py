"""How far a playbook is on each host, from ansible-runner's events. No Ansible here, and no drawing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
RESULTS = {
    "runner_on_ok": "ok",
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_retry": "waiting",
}
"""Events of ansible-runner that tell of a task on a host."""
AGAIN = "What is done stays as it is: mend it, and run the same command again"


@dataclass
class HostRow:
    """One host."""

    name: str
    task: str = ""
    ok: int = 0
    changed: int = 0
    failed: int = 0
    """Tasks that failed, or the connection, and that no rescue mended."""


@dataclass(frozen=True)
class Failure:
    """Why a host is not as it should be."""

    host: str
    task: str
    message: str
    remedy: str


@dataclass
class Progress:
    """All hosts. `take` turns an event of ansible-runner into one of ours, or None when it is nothing to tell."""

    rows: dict[str, HostRow]
    failures: dict[str, Failure] = field(default_factory=dict)
    over: bool = False
    """Whether Ansible came to the end and said what became of each host."""
    complaint: str = ""
    """What Ansible said when it could not even begin."""

    @classmethod
    def of(cls, hosts: list[str]) -> Progress:
        """Nothing done yet."""
        return cls({name: HostRow(name) for name in hosts})

    def take(self, event: Json) -> Json | None:
        """Our event is one of

        {"event": "task", "task"}, {"event": "host", "host", "task", "result", "changed"} and when it failed "message", "remedy",
        {"event": "diff", "host", "task", "text"}, and at the end {"event": "hosts", "hosts": {name: {"ok", "changed", "failed"}}}.
        """
        kind, data = event.get("event"), event.get("event_data") or {}
        self._said(event)
        if kind in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            return {"event": "task", "task": _task(data)}
        if kind == "playbook_on_stats":
            return self._stats(data)
        if kind == "runner_on_file_diff" and event.get("stdout"):
            return {"event": "diff", "host": data.get("host"), "task": _task(data), "text": event["stdout"]}
        result = RESULTS.get(str(kind))
        if result is None or data.get("host") not in self.rows:
            return None
        row = self.rows[data["host"]]
        row.task = _task(data)
        answer = data.get("res") or {}
        ours: Json = {"event": "host", "host": row.name, "task": row.task, "result": result, "changed": False}
        if result == "ok":
            ours["changed"] = bool(answer.get("changed"))
            row.ok += 1
            row.changed += ours["changed"]
        elif result in ("failed", "unreachable") and not data.get("ignore_errors"):
            failure = Failure(row.name, row.task, _message(answer), _remedy(result, _message(answer)))
            # The first is the cause; a rescue that mends it is seen at the end.
            self.failures.setdefault(row.name, failure)
            row.failed += 1
            ours |= {"message": failure.message, "remedy": failure.remedy}
        return ours

    def _said(self, event: Json) -> None:
        text = str(event.get("stdout") or "")
        if self.complaint or "ERROR" in text:
            text = text if self.complaint else re.split(r"ERROR[\]!:]*", text, maxsplit=1)[1]
            self.complaint = " ".join(f"{self.complaint} {text}".split())[:600]

    def _stats(self, data: Json) -> Json:
        self.over = True
        for name, row in self.rows.items():
            row.changed = data.get("changed", {}).get(name, 0)
            row.ok = data.get("ok", {}).get(name, 0)
            row.failed = data.get("failures", {}).get(name, 0) + data.get("dark", {}).get(name, 0)
            if not row.failed:
                self.failures.pop(name, None)
        hosts = {name: {"ok": row.ok, "changed": row.changed, "failed": row.failed} for name, row in self.rows.items()}
        return {"event": "hosts", "hosts": hosts}


def _task(data: Json) -> str:
    return str(data.get("task") or data.get("name") or "")


def _message(answer: Json) -> str:
    """What a module or Ansible said, in one line."""
    said = answer.get("msg")
    failed_items = [item for item in answer.get("results") or [] if isinstance(item, dict) and item.get("failed")]
    if failed_items:
        said = failed_items[0].get("msg") or said
    detail = answer.get("stderr") or answer.get("module_stderr") or ""
    text = " ".join(str(said or "failed").split())
    last = str(detail).strip().splitlines()[-1:] or [""]
    return f"{text}: {last[0]}" if last[0] and last[0] not in text else text


def _remedy(result: str, message: str) -> str:
    """What to do about it."""
    low = message.lower()
    if "host key verification failed" in low:
        return "Compare the host's key and put it into known_hosts (playbooks/trust-hosts.yml)"
    if result == "unreachable":
        return "See that `ssh` reaches the host with the inventory's user and key"
    if "sudo" in low and "password" in low:
        return "Let the user use sudo without a password, or keep ansible_become_password in an encrypted inventory variable"
    return AGAIN
