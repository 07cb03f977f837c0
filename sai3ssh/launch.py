"""The beginning of a run: its plan, a look at hosts and storage, then its directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import bundle, config, steering
from .config import Workload, credentials
from .controller.rundir import RunDirectory, Steering, new_run_id
from .model import Host, Plan, Stage
from .preflight import Options, check_skip, preflight_failed
from .results import calibration


@dataclass(frozen=True)
class Launch:
    """What all runs of a command have in common."""

    hosts: Sequence[Host]
    archive: Path
    results_dir: Path
    credentials: dict[str, Any] | None
    as_json: bool = False
    quiet: bool = False
    """Nothing is printed."""
    skip: tuple[str, ...] = ()
    connect_timeout_s: float = 60.0
    start_with_available: bool = False

    @classmethod
    def of(cls, workload: Workload, hosts: Sequence[Host], results_dir: Path, skip: Sequence[str], **options: Any) -> Launch:
        """With the operator's credentials; prints the notices of the workload file. Raises ConfigError."""
        skipped = check_skip(skip)
        launch = cls(hosts, bundle.cached(), results_dir, credentials.find(workload, os.environ), skip=skipped, **options)
        if not launch.quiet:
            for notice in workload.notices:
                steering.err(f"notice: {notice}")
        return launch

    def create(
        self,
        workload: Workload,
        *,
        change: Callable[[Plan], Plan] = lambda plan: plan,
        replay: Sequence[Stage] = (),
        upload_s: float = 0.0,
    ) -> RunDirectory:
        """A new run directory, with the workload file's text and what preflight found; agents get `upload_s` more until they must be ready.
        Raises ConfigError, and RunError when preflight finds a failure."""
        plan, assignments = config.compile_plan(
            workload, new_run_id(workload.name), self.hosts, needs_credentials=self.credentials is not None, replay=replay
        )
        plan = change(plan)
        by_name = {host.name: host for host in self.hosts}
        mine = [by_name[assignment.agent_id] for assignment in assignments]
        options = Options(
            self.archive,
            plan,
            assignments,
            config.describe(plan, assignments, workload),
            credentials=self.credentials,
            skip=self.skip,
            patience_s=self.connect_timeout_s,
            start_with_available=self.start_with_available,
        )
        if self.quiet:
            report, ends = steering.look_once(mine, options)
            if ends:
                raise preflight_failed(report)
        else:
            report = steering.first_look(mine, options, as_json=self.as_json)
        times = Steering(
            workload.start_delay_s,
            workload.ready_timeout_s + upload_s,
            self.connect_timeout_s,
            self.start_with_available,
            workload.cutoff_timeout_s,
        )
        directory = RunDirectory.create(self.results_dir, plan, assignments, mine, workload.document.text, times, report.to_json())
        calibration.copy(self.results_dir, directory.path, plan.agents)
        return directory
