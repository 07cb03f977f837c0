"""The links of a run from event logs whose content is known."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sai3ssh import results
from sai3ssh.histogram import Histogram
from sai3ssh.results.network import Links, controller, links, network
from sai3ssh.ui.summary import print_summary

from .test_results import SECOND, whole, write_run

Json = dict[str, Any]


def up(at: float, agent: str = "h1", **more: Any) -> Json:
    return {"at": at, "event": "link_up", "agent": agent, "attempt": 1, "down_s": 0.1, "resumed_offset": 0, **more}


def down(at: float, agent: str = "h1", cause: str = "reset", level: str = "warning") -> Json:
    return {"at": at, "event": "link_down", "agent": agent, "cause": cause, "level": level}


def clock(at: float, offset_ns: int, agent: str = "h1", error_ns: int = 100, boot: str = "b") -> Json:
    return {"at": at, "event": "clock", "agent": agent, "offset_ns": offset_ns, "error_ns": error_ns, "boot": boot}


def report(at: float, samples: list[int], agent: str = "h1", resume_s: tuple[float, ...] = (), **more: int) -> Json:
    """A network event whose round trips, in ns, are known."""
    rtt = Histogram()
    for sample in samples:
        rtt.record(sample)
    cells = {"cells": rtt.to_pairs(), "sum_ns": rtt.sum_ns, "max_ns": rtt.max_ns}
    counters = {"received_bytes": 0, "records": 0, "refetched_bytes": 0, "refetched_records": 0, **more}
    return {"at": at, "event": "network", "agent": agent, "rtt": cells, **counters, "resume_s": list(resume_s)}


def test_an_old_log_has_connects_and_losses_and_the_rest_is_unknown() -> None:
    found = network("h1", [up(1.0), down(3.0), up(5.0, attempt=4, down_s=1.9, resumed_offset=77), down(9.0, level="info")])
    loss = {
        "at": 3.0,
        "cause": "reset",
        "down_s": 1.9,
        "unreachable_s": 1.9,
        "attempts": 4,
        "resumed_offset": 77,
        "rounds": [],
        "resume_s": None,
    }
    assert found == {
        "connects": 2,
        "losses": [loss],
        "unreachable_s": 1.9,
        "rtt_us": None,
        "clock": None,
        "received_bytes": None,
        "records": None,
        "refetched_bytes": None,
        "refetched_records": None,
    }
    assert network("h2", []) == {**found, "connects": 0, "losses": [], "unreachable_s": 0}


def test_rounds_belong_to_their_loss() -> None:
    events = [
        up(1.0),
        down(10.0),
        {"at": 20.0, "event": "policy_round", "agent": "h1", "round": 1, "delay_s": 10.5},
        {"at": 21.0, "event": "policy_round", "agent": "h2", "round": 1, "delay_s": 99.0},
        {"at": 40.0, "event": "policy_round", "agent": "h1", "round": 2, "delay_s": 19.0},
        up(45.0, down_s=35.0),
        down(60.0),
        {"at": 70.0, "event": "policy_round", "agent": "h1", "round": 1},
        up(71.0, down_s=11.0),
        down(80.0),
        up(80.5, down_s=0.5),
    ]
    losses = network("h1", events)["losses"]
    assert [loss["rounds"] for loss in losses] == [
        [{"round": 1, "at": 20.0, "delay_s": 10.5}, {"round": 2, "at": 40.0, "delay_s": 19.0}],
        [{"round": 1, "at": 70.0, "delay_s": None}],
        [],
    ]


def test_what_did_not_come_back_was_unreachable_to_the_end() -> None:
    events = [up(1.0), down(10.0), up(12.0, down_s=2.0), down(30.0), {"at": 100.0, "event": "agent_lost", "agent": "h1", "error": "x"}]
    found = network("h1", [*events, {"at": 130.0, "event": "run_ended"}])
    assert [loss["down_s"] for loss in found["losses"]] == [2.0, None]
    assert found["unreachable_s"] == 2.0 + 100.0
    # Its controller was killed and another one found the link broken again before it ever was up.
    found = network("h1", [up(1.0), down(10.0), down(14.0), up(20.0, down_s=6.0)])
    assert [loss["unreachable_s"] for loss in found["losses"]] == [4.0, 6.0]


@pytest.mark.parametrize("report_first", [False, True], ids=["after link_down", "before link_down"])
def test_resume_times_find_their_reconnection(report_first: bool) -> None:
    def broken(at: float, *resume_s: float) -> list[Json]:
        pair = [down(at), report(at, [], resume_s=resume_s)]
        return pair[::-1] if report_first else pair

    events = [
        up(1.0),
        *broken(10.0),
        up(11.0),
        *broken(20.0, 0.25),
        up(21.0),
        *broken(21.5),  # broke again before a byte came
        up(23.0),
        report(60.0, [], resume_s=(0.5,)),
        *broken(70.0),
        up(71.0),
        down(80.0),
        up(81.0),
        report(120.0, [], resume_s=(0.75, 1.0)),  # two at once
    ]
    assert [loss["resume_s"] for loss in network("h1", events)["losses"]] == [0.25, None, 0.5, 0.75, 1.0]
    assert network("h1", [up(1.0), report(60.0, [], resume_s=(0.3,))])["losses"] == []


def test_round_trips_are_merged_and_counters_summed() -> None:
    rng = random.Random(5)
    groups = [[int(rng.lognormvariate(13, 1)) for _ in range(n)] for n in (60, 3, 0, 57)]
    other = [10**9] * 50
    events = [up(0.0)]
    for number, group in enumerate(groups):
        more = {"received_bytes": 1000 + number, "records": 10, "refetched_bytes": number, "refetched_records": 1}
        events += [report(60.0 * number, group, **more), report(60.0 * number, other, "h2", received_bytes=10**9)]
    del events[-2]["records"]
    found = network("h1", events)
    samples = sorted(sample for group in groups for sample in group)
    assert found["rtt_us"]["count"] == 120
    for name, rank in {"p50": 60, "p90": 108, "p99": 119, "p99.9": 120}.items():
        assert found["rtt_us"][name] == pytest.approx(samples[rank - 1] / 1000, rel=0.008)
    assert found["rtt_us"]["max"] == samples[-1] / 1000
    assert found["rtt_us"]["sum_ns"] == sum(samples)
    assert found["rtt_us"]["mean"] == pytest.approx(sum(samples) / 120 / 1000)
    assert (found["received_bytes"], found["records"], found["refetched_bytes"], found["refetched_records"]) == (4006, 30, 6, 4)
    assert Histogram.from_pairs(found["rtt_us"]["cells"]).count == 120


def test_drift_is_the_slope_of_a_least_squares_line() -> None:
    rng = random.Random(8)
    times = [1_795_469_488.5 + 60.0 * n + rng.random() for n in range(40)]
    # 12.5 ppm on an offset of years, with noise of up to 200 us.
    offsets = [10**17 + round((t - times[0]) * 12_500 + rng.uniform(-2e5, 2e5)) for t in times]
    found = network("h1", [clock(t, o, error_ns=200_000) for t, o in zip(times, offsets, strict=True)])["clock"]
    slope = np.polyfit(np.array(times) - times[0], np.array([o - 10**17 for o in offsets], dtype=float), 1)[0]
    assert found["drift_ppm"] == pytest.approx(slope / 1000, rel=1e-6)
    assert abs(found["drift_ppm"] - 12.5) < found["drift_error_ppm"] < 1.0
    assert found["measurements"] == 40
    assert found["offset_ns"] == {"first": offsets[0], "last": offsets[-1]}
    two = network("h1", [clock(100.0, 5_000, error_ns=300), clock(110.0, 25_000, error_ns=500)])["clock"]
    assert two["drift_ppm"] == pytest.approx(2.0)  # 20 us in 10 s
    assert two["drift_error_ppm"] == pytest.approx((300 + 500) / 10 / 1000)
    assert two["max_error_ns"] == 500


@pytest.mark.parametrize(
    "events",
    [
        [clock(1.0, 5)],
        [clock(1.0, 5), clock(50.0, 500, boot="another")],
        [clock(1.0, 5), clock(1.0, 6)],
        [clock(1.0, 5), {"at": 2.0, "event": "claimed", "agent": "h1", "generation": 2}, clock(3.0, 7)],
    ],
    ids=["one", "rebooted", "at once", "another controller's clock"],
)
def test_no_drift_where_none_can_be_told(events: list[Json]) -> None:
    found = network("h1", events)["clock"]
    assert found["drift_ppm"] is None
    assert found["drift_error_ppm"] is None
    assert found["offset_ns"]["last"] == events[-1]["offset_ns"]


def test_cut_offs_of_the_controller() -> None:
    events = [
        {"at": 5.0, "event": "cut_off_over", "seconds": 2.0},
        {"at": 10.0, "event": "cut_off"},
        {"at": 14.5, "event": "cut_off_over", "seconds": 4.5},
        {"at": 50.0, "event": "cut_off"},
    ]
    cut_offs = [{"at": 3.0, "seconds": 2.0}, {"at": 10.0, "seconds": 4.5}, {"at": 50.0, "seconds": None}]
    assert controller(events) == {"cut_offs": cut_offs}
    assert controller([up(1.0)]) == {"cut_offs": []}


def test_all_links_in_a_line() -> None:
    fast, slow = [1_000_000] * 197, [80_000_000] * 3
    events = [report(60.0, fast), report(60.0, slow, "h2"), up(1.0, "h3")]
    content = {
        "network": {name: network(name, events) for name in ("h1", "h2", "h3")},
        "controller": {"cut_offs": [{"at": 1.0, "seconds": 3.0}, {"at": 9.0, "seconds": None}]},
    }
    found = links(json.loads(json.dumps(content)))
    assert found.rtts == 200
    assert found.rtt_p99_us == pytest.approx(80_000, rel=0.008)  # the 198th of 200, which no average of two links is
    assert found.rtt_max_us == 80_000
    assert found.cut_offs == (3.0, None)
    old = {"network": {"h1": {"connects": 1, "losses": []}}}
    assert links(old) == links({}) == Links(0, 0.0, 0.0, ())


def test_frames_have_a_row_per_agent_and_per_loss(tmp_path: Path) -> None:
    events = [
        up(1.5),
        up(1.5, "h2"),
        down(3.0),
        {"at": 4.0, "event": "policy_round", "agent": "h1", "round": 1, "delay_s": 1.0},
        up(5.0, attempt=4, down_s=2.0, resumed_offset=77),
        report(6.0, [2_000_000, 4_000_000], resume_s=(0.5,), received_bytes=900, records=9),
        down(7.0, cause="silent"),
        up(7.5, down_s=0.5, resumed_offset=99),
        clock(11.0, 5 * SECOND + 40_000),
    ]
    write_run(tmp_path / "run", [whole("h1", 5 * SECOND), whole("h2", 5 * SECOND)], *events)
    run = results.load(tmp_path / "run")
    table = run.network.set_index("agent")
    assert table["connects"].to_dict() == {"h1": 3, "h2": 1}
    assert table["losses"].to_dict() == {"h1": 2, "h2": 0}
    assert table["unreachable_s"].to_dict() == {"h1": 2.5, "h2": 0.0}
    row = table.loc["h1"]
    assert (row["rtt_count"], row["rtt_max_us"], row["received_bytes"], row["records"]) == (2, 4000.0, 900, 9)
    assert row["rtt_p50_us"] == pytest.approx(2000, rel=0.008)
    assert (row["clock_first_offset_ns"], row["clock_last_offset_ns"]) == (5 * SECOND, 5 * SECOND + 40_000)
    assert row["clock_drift_ppm"] == pytest.approx(4.0)  # 40 us from 1.0 to 11.0
    assert table.loc["h2", "rtt_count"] == 0
    assert np.isnan(table.loc["h2", "rtt_p99_us"])
    losses = run.losses
    assert losses["agent"].tolist() == ["h1", "h1"]
    assert losses["cause"].tolist() == ["reset", "silent"]
    assert losses["down_s"].tolist() == [2.0, 0.5]
    assert losses["rounds"].tolist() == [1, 0]
    assert losses["resume_s"].tolist()[0] == 0.5
    assert np.isnan(losses["resume_s"].tolist()[1])
    assert losses["at"].iloc[0].timestamp() == 3.0
    assert run.events["at"].iloc[0].timestamp() == 1.0


def test_frames_of_a_run_without_losses_keep_their_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [whole("h1", 5 * SECOND)])
    run = results.load(tmp_path / "run")
    assert len(run.losses) == 0
    assert list(run.losses.columns) == [
        "agent", "at", "cause", "down_s", "unreachable_s", "attempts", "resumed_offset", "rounds", "resume_s",
    ]  # fmt: skip
    assert run.losses["at"].dt.tz is not None
    assert len(run.network) == 1
    assert all(kind.kind in "if" for kind in run.network.drop(columns="agent").dtypes)


def shown(summary: results.Summary, found: Links | None) -> str:
    out = io.StringIO()
    print_summary(summary, Path("run"), Console(file=out, width=100), links=found)
    return out.getvalue()


def test_the_summary_has_round_trips_and_cut_offs_when_known(tmp_path: Path) -> None:
    events = [up(1.5), down(3.0), up(5.0, down_s=2.0)]
    summary = results.summary(write_run(tmp_path / "run", [whole("h1", 5)], *events))
    plain = shown(summary, None)
    assert "link of h1: lost once, 2.0 s in all; nothing that it measured was lost" in plain
    assert shown(summary, Links(0, 0.0, 0.0, ())) == plain
    text = shown(summary, Links(7200, 1234.0, 250_000.0, (35.0,)))
    assert "heartbeat round trip of all links: p99 1.23 ms, max 250 ms" in text
    assert "the controller itself was cut off once, 35.0 s in all" in text
    assert "link of h1: lost once" in text
    text = shown(summary, Links(0, 0.0, 0.0, (35.0, 5.5, None)))
    assert "round trip" not in text
    assert "the controller itself was cut off 3 times, 40.5 s in all and to the end" in text
    assert "cut off once, to the end" in shown(summary, Links(0, 0.0, 0.0, (None,)))
