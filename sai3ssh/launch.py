"""The beginning of a run: a look at hosts and storage, then its directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import steering
from .config import Description
from .controller.rundir import RunDirectory, Steering
from .model import Assignment, Host, Plan
from .preflight import Options
from .results import calibration


@dataclass(frozen=True)
class Launch:
    """What all runs of a command have in common."""

    hosts: Sequence[Host]
    archive: Path
    results_dir: Path
    steering: Steering
    credentials: dict[str, Any] | None
    skip: tuple[str, ...]
    as_json: bool

    def create(self, plan: Plan, assignments: Sequence[Assignment], description: Description, config: str | None) -> RunDirectory:
        """A new run directory, with what preflight found in it. Raises RunError when preflight finds a failure."""
        by_name = {host.name: host for host in self.hosts}
        mine = [by_name[assignment.agent_id] for assignment in assignments]
        options = Options(
            self.archive,
            plan,
            assignments,
            description,
            credentials=self.credentials,
            skip=self.skip,
            patience_s=self.steering.connect_timeout_s,
            start_with_available=self.steering.start_with_available,
        )
        report = steering.first_look(mine, options, as_json=self.as_json)
        directory = RunDirectory.create(self.results_dir, plan, assignments, mine, config, self.steering, report.to_json())
        calibration.copy(self.results_dir, directory.path, plan.agents)
        return directory
