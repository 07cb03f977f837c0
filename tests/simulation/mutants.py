"""Plants one bug at a time and sees whether the fault schedules find it: `python -m tests.simulation.mutants [NAME ...]`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCHEDULES = 5000


@dataclass(frozen=True)
class Mutant:
    """A text of a file of the package, and what is put in its place."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "LOST too early",
        "controller/losses.py",
        "agent.down_s >= policy.reconnect_timeout_s",
        "agent.down_s >= 0.8 * policy.reconnect_timeout_s",
    ),
    Mutant(
        "LOST too late",
        "controller/losses.py",
        "agent.down_s >= policy.reconnect_timeout_s",
        "agent.down_s >= 3 * policy.reconnect_timeout_s",
    ),
    Mutant(
        "agents that have finished are no witnesses",
        "controller/losses.py",
        "any(agent.linked for agent in known)",
        "any(agent.linked for agent in watched)",
    ),
    Mutant("retry_once gives two rounds", "controller/policy.py", '"retry_once": 1}', '"retry_once": 2}'),
    Mutant("a round counted twice", "controller/losses.py", "agent.rounds += 1", "agent.rounds += 2"),
    Mutant("sleep counts against agents", "controller/losses.py", "passed_s > ASLEEP_S", "passed_s > 1e9"),
    Mutant(
        "being cut off counts against agents",
        "controller/losses.py",
        "        if not reached:\n            self.cut_off_s",
        "        if passed_s < 0:\n            self.cut_off_s",
    ),
    Mutant("rounds without backoff", "controller/policy.py", "2.0 ** min(number - 1, 30)", "1.0"),
    Mutant("a majority of one half", "controller/policy.py", "2 * remaining <= total", "2 * remaining < total"),
    Mutant("min_agents_required off by one", "controller/policy.py", "remaining < policy.min_agents", "remaining <= policy.min_agents"),
    Mutant(
        "fail_fast waits",
        "controller/session.py",
        '        if self.plan.policy.name == "fail_fast" and',
        '        if self.plan.policy.name == "" and',
    ),
    Mutant(
        "a start without all acknowledgements",
        "controller/session.py",
        "armed = self.round > 0 and all(",
        "armed = self.round > 0 and any(",
    ),
    Mutant(
        "a commit before its event",
        "controller/session.py",
        'self._log("commit", stage=self.stage',
        'self._log("commit_", stage=self.stage',
    ),
    Mutant(
        "an answer to an older round counts",
        "controller/session.py",
        "current = event.tag.stage == self.stage and event.tag.round == self.round\n        match",
        "current = event.tag.stage == self.stage\n        match",
    ),
    Mutant(
        "a record of a pass that is over counts",
        "controller/session.py",
        'record["round"] <= self._course.passed_round',
        'record["round"] < self._course.passed_round',
    ),
    Mutant(
        "the lease is ignored",
        "controller/session.py",
        "self._now > agent.leased_s + lease_s + self._options.lease_margin_s",
        "self._now > agent.leased_s",
    ),
    Mutant(
        "credentials are not sent again",
        "controller/session.py",
        "AgentState.AWAITING_CREDENTIALS.value and agent.up",
        "AgentState.FINISHED.value and agent.up",
    ),
    Mutant(
        "a resumed controller does not claim",
        "controller/session.py",
        "if agent.linked and not agent.claimed:",
        "if agent.linked and not agent.claimed and not self._resumed:",
    ),
    Mutant(
        "who never follows a resumed controller is waited for",
        "controller/session.py",
        "not agent.out and self._now - agent.up_since_s > timeout_s",
        "agent.out and self._now - agent.up_since_s > timeout_s",
    ),
    Mutant(
        "who never adopts is waited for",
        "controller/session.py",
        "if agent.overdue(self._now, max(agent.offered_at_s, agent.answered_at_s), timeout_s)",
        "if agent.out",
    ),
    Mutant(
        "the journal of who hangs and was given up is waited for",
        "controller/session.py",
        "if silent and self._now - agent.gone_at_s > self._options.stop_timeout_s",
        "if not agent.linked",
    ),
    Mutant(
        "a resumed controller submits under its own name",
        "controller/session.py",
        "self.controller if known else self._origin",
        "self.controller",
    ),
    Mutant(
        "a loss that was the log's last word is forgotten",
        "controller/session.py",
        "agent.out and agent.name not in decided",
        "agent.out and agent.name in decided",
    ),
    Mutant(
        "a commit is forgotten on resume",
        "controller/replay.py",
        "course.commit_logged = course.ever_released = True",
        "course.ever_released = True",
    ),
    Mutant(
        "rounds begin anew on resume",
        "controller/replay.py",
        '            course.round = event["round"]\n        case "commit"',
        '            course.round = 0\n        case "commit"',
    ),
    Mutant("the end of a stage is decided again on resume", "controller/replay.py", 'case "steady":', 'case "steady_":'),
    Mutant("an end before its event", "controller/ending.py", 'self._log("steady", stage', 'self._log("steady_", stage'),
    Mutant(
        "who has not heard of the end is not told again",
        "controller/session.py",
        "not agent.told_end and agent.up:",
        "not agent.told_end and agent.up and self._course.start_controller_ns:",
    ),
    Mutant("an offset off by one after a resume", "controller/mirror.py", "self.size += len(line)", "self.size += len(line) - 1"),
    Mutant(
        "a torn end of a mirror stays", "controller/mirror.py", "self._file.truncate(self.size)\n\n    def _check", "pass\n\n    def _check"
    ),
    Mutant(
        "a mirror is not verified",
        "controller/mirror.py",
        "if self.size != size or self._sha256.hexdigest() != sha256:",
        "if self.size != size:",
    ),
    Mutant(
        "what a lost agent left is forgotten",
        "controller/estate.py",
        "for name, ranges in left.items() if len(ranges)}",
        "for name, ranges in left.items() if not ranges}",
    ),
    Mutant("what a lost agent owned has two owners", "controller/reassign.py", ".subtract(Intervals(pieces))", ".subtract(Intervals())"),
    Mutant(
        "what a lost agent had finished is done again",
        "controller/estate.py",
        "if name in of_stage and len(done):",
        "if name in missing and len(done):",
    ),
    Mutant("a share is given to one survivor only", "controller/estate.py", "undone.split(len(survivors))", "[undone] * len(survivors)"),
    Mutant("an old generation is obeyed", "agent/release.py", "if generation < self._generation or (", "if generation < 0 or ("),
    Mutant(
        "a commit is accepted for any round",
        "agent/release.py",
        "if stage > self.stage or number != self.round or not self.start_clock_ns:",
        "if stage > self.stage:",
    ),
    Mutant(
        "a stage is run again after a crash", "agent/recovery.py", 'result.stage = record["stage"] + 1', 'result.stage = record["stage"]'
    ),
    Mutant(
        "a doubled delta after a crash",
        "agent/stage.py",
        "rest = [sum(region.cells.values()) - count, region.bytes",
        "rest = [sum(region.cells.values()), region.bytes",
    ),
    Mutant("histograms doubled after a crash", "agent/stage.py", "full.minus(told.histograms)", "full"),
    Mutant(
        "counters of an earlier boot are taken for this one's",
        "agent/recovery.py",
        '    if record["fresh"]:\n',
        '    if record["fresh"] is None:\n',
    ),
    Mutant("an adoption is forgotten after a crash", "agent/recovery.py", "result.adopted.append(record)", "result.adopted[:0] = []"),
)


def misplaced() -> list[str]:
    """The names of bugs whose text is not exactly once in its file: they cannot be planted."""
    return [mutant.name for mutant in MUTANTS if (ROOT / "sai3ssh" / mutant.file).read_text().count(mutant.old) != 1]


def find(mutant: Mutant) -> str:
    """The first failure that the schedules find in a copy of the package with the bug in it; empty when they find none."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch)
        for name in ("sai3ssh", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "sai3ssh" / mutant.file
        text = file.read_text()
        file.write_text(text.replace(mutant.old, mutant.new))
        argv = [sys.executable, "-m", "tests.simulation.schedules", f"0-{SCHEDULES - 1}", "--processes", "1", "--stop-at", "1"]
        done = subprocess.run(argv, cwd=copy, capture_output=True, text=True, timeout=1200, check=False)
        found = re.search(r"^seed (\d+):$", done.stdout, re.MULTILINE)
        if done.returncode != 1 or found is None:
            return "" if done.returncode == 0 else f"could not be run: {done.stderr[-500:]}"
        last = [
            line
            for line in done.stdout.splitlines()
            if line.startswith(("AssertionError", "sai3ssh.", "KeyError", "TypeError", "IndexError"))
        ]
        return f"seed {found[1]}: {last[0][:110] if last else done.stdout.splitlines()[-3][:110]}"


def main() -> int:
    """Exit code 1 when a bug was not found."""
    wanted = [mutant for mutant in MUTANTS if not sys.argv[1:] or mutant.name in sys.argv[1:]]
    if misplaced():
        sys.stdout.write(f"not in the sources as they are now: {', '.join(misplaced())}\n")
        return 1
    began = time.monotonic()
    missed = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, found in zip(wanted, pool.map(find, wanted), strict=True):
            missed += not found
            sys.stdout.write(f"{'found ' if found else 'MISSED'}  {mutant.name}: {found}\n")
            sys.stdout.flush()
    sys.stdout.write(
        f"{len(wanted) - missed} of {len(wanted)} planted bugs found within {SCHEDULES:,} schedules, {time.monotonic() - began:.0f} s\n"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
