"""What hosts can do at most: how it is kept, and what later runs make of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sai3ssh import calibrate, results
from sai3ssh.errors import ConfigError
from sai3ssh.model import Host
from sai3ssh.results import calibration
from sai3ssh.results.limits import cost_us, limit_lines
from sai3ssh.ui.calibration import print_calibration

from .test_results import loaded, write_run

POINTS = [{"size": 4096, "cpu_us": 10.0}, {"size": 8392704, "cpu_us": 2058.0}]
ENTRY = {"figures": {"get": POINTS, "put": [{"size": 4096, "cpu_us": 10.0}]}}


@pytest.mark.parametrize(
    ("points", "size", "expected"),
    [
        (POINTS, 4096, 10.0),
        (POINTS, 8392704, 2058.0),
        (POINTS, 4194304 + 4096, 1034.0),
        (POINTS, 0, 10.0),
        (POINTS[:1], 1 << 30, 10.0),
        ([{"size": 1, "cpu_us": 10.0}, {"size": 9, "cpu_us": 8.0}], 9, 10.0),
    ],
)
def test_the_cost_of_an_operation_is_a_line_between_what_was_measured(points: list[Any], size: float, expected: float) -> None:
    assert cost_us(points, size) == pytest.approx(expected)


def _run(path: Path, workers_cpu: list[float], entry: Any, busy: float) -> Any:
    """An agent does 95,000 GETs of 4 KiB a second: at 10 us each, 95 % of a worker."""
    agent = loaded("h1", *[{"worker_cpu": busy, "workers_cpu": workers_cpu}] * 10)
    for record in agent._records:
        if record["kind"] == "sec":
            record["ops"]["get"][:2] = [95_000, 95_000 * 4096]
    write_run(path, [agent])
    if entry is not None:
        (path / "calibration.json").write_text(json.dumps({"h1": entry}))
    return results.write(path).content


@pytest.mark.parametrize(
    ("workers_cpu", "entry", "busy", "expected"),
    [
        ([60.0, 1], ENTRY, 60.0, [("agent", 95.0)]),
        ([60.0, 2], ENTRY, 60.0, []),
        ([60.0, 1], None, 60.0, []),
        ([99.0, 1], ENTRY, 99.0, [("cpu", 99.0)]),
    ],
    ids=["near its most", "half of its most", "never calibrated", "its core is full, which says it all"],
)
def test_a_host_that_did_what_its_agent_can_is_named(
    workers_cpu: list[float], entry: Any, busy: float, expected: list[tuple[str, float]], tmp_path: Path
) -> None:
    content = _run(tmp_path / "x", workers_cpu, entry, busy)
    found = content["stages"][0]["agents"]["h1"]["limits"]
    assert [(limit["limit"], limit["worst"]) for limit in found] == expected
    if expected and expected[0][0] == "agent":
        (line,) = limit_lines(content)
        assert "h1: it did 95 % of what its agent can do at most by its calibration in 10 of 10 s" in line


def test_calibrations_are_kept_by_host_and_a_run_gets_those_of_its_own(tmp_path: Path) -> None:
    assert calibration.read(tmp_path) == {}
    one, two, three = ({**ENTRY, "cores": cores} for cores in (1, 2, 3))
    calibration.keep(tmp_path / "runs", {"a": one, "b": one})
    calibration.keep(tmp_path / "runs", {"b": two, "c": three})
    run = tmp_path / "runs" / "r"
    run.mkdir()
    calibration.copy(tmp_path / "runs", run, ["b", "unknown"])
    assert json.loads((run / "calibration.json").read_text()) == {"b": two}
    assert calibration.read(tmp_path / "runs") == {"a": one, "b": two, "c": three}
    other = tmp_path / "runs" / "s"
    other.mkdir()
    calibration.copy(tmp_path / "runs", other, ["unknown"])
    assert list(other.iterdir()) == []


def test_the_plan_has_two_stages_for_each_size_and_as_much_in_flight_as_memory_bears() -> None:
    plan, assignments = calibrate.make_plan([Host("a", "a"), Host("b", "b")], [8 << 20, 4096, 4096], 5.0)
    assert [(stage.name, stage.concurrency) for stage in plan.stages] == [
        ("put-4096", 256),
        ("get-4096", 256),
        ("put-8388608", 32),
        ("get-8388608", 32),
    ]
    assert plan.target.engine == "null"
    assert [assignment.agent_id for assignment in assignments] == ["a", "b"]


@pytest.mark.parametrize("sizes", [[], [0], [4096, 1 << 40]])
def test_sizes_that_cannot_be(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match="--size needs sizes from 1 to"):
        calibrate.make_plan([Host("a", "a")], sizes, 5.0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"a": {"figures": {"get": [], "put": []}}}', '{"a": {"figures": {"get": [{}]}}}']
)
def test_what_nobody_can_read_is_no_calibration_and_fails_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(text)
    assert calibration.read(tmp_path) == {}
    calibration.copy(tmp_path, tmp_path, ["a"])
    assert (tmp_path / "calibration.json").read_text() == text


def test_figures_are_whole_on_a_narrow_terminal_and_in_a_file() -> None:
    point = {"size": 4096, "cpu_us": 9.6, "most_ops_per_s": 208350.0, "most_gb_per_s": 0.85, "ops_per_s": 73612.0}
    out = io.StringIO()
    print_calibration({"client-of-the-lab": {"cores": 2, "workers": 2, "figures": {"get": [point]}}}, Console(file=out, width=60))
    assert out.getvalue().splitlines()[1].split() == ["client-of-the-lab", "2", "2", "get", "4", "KiB", "9.6", "208,350", "0.85", "73,612"]
