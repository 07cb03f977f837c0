"""Results as pandas DataFrames. Units are in the names of the columns."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..histogram import Histogram, value_of
from ..model import BUCKET_LABELS, SPLIT_PARTS, Plan, Verdict
from .columns import KINDS, Array, Seconds
from .files import has_ended, read
from .journal import AgentJournal
from .merge import RANKS as LATENCY_RANKS
from .merge import merge, read_inputs
from .mirrors import cores
from .network import COUNTERS, RANKS, networks

Json = dict[str, Any]
_RANKS = {f"{name}_us": "float64" for name in LATENCY_RANKS}
_FIGURES = {
    **dict.fromkeys(("ops", "bytes", "tail_ops", "tail_bytes"), "int64"), **dict.fromkeys(("ops_per_s", "mib_per_s"), "float64"),
    **dict.fromkeys(("requests", "retries"), "int64"), "mean_us": "float64", **_RANKS, "max_us": "float64", "errors": "int64",
}  # fmt: skip
_UTC = "datetime64[ns, UTC]"
_SECOND = {"agent": "category", "stage": "category", "second": "int32", "at": _UTC, "wall_ns": "int64"}
OPERATIONS = {"stage": "str", "operation": "str", **_FIGURES}
AGENTS = {"agent": "str", **OPERATIONS}
TIMESERIES = {
    **_SECOND, "seconds": "float64", "warmup": "bool", "operation": "category", "ops": "int64", "bytes": "int64",
    **dict.fromkeys(("mean_us", "p50_us", "p90_us", "p99_us", "max_us"), "float64"), "errors": "int32", "retries": "int32",
}  # fmt: skip
HISTOGRAMS = {"stage": "str", "operation": "str", "bucket": "int64", "size": "str", "latency_us": "float64", "count": "int64"}
HOSTS = {
    **_SECOND, **{f"cpu_{name}_pct": "float64" for name in ("user", "system", "iowait", "steal")}, "worker_cpu_pct": "float64",
    "late_ms": "float64",
    **dict.fromkeys(
        ("mem_used_bytes", "net_received_bytes", "net_sent_bytes", "disk_read_bytes", "disk_written_bytes"), "int64"
    ),
}  # fmt: skip
_OPS = {"ops": "count"}
"""Columns of Seconds.ops that have another name there."""
EVENTS = {"at": _UTC, "event": "str", "agent": "str"}
"""Beside these a column per further field."""
SPLITS = {"stage": "str", "operation": "str", "part": "str", "known": "int64", "count": "int64", "mean_us": "float64", **_RANKS}
ENDPOINTS = {
    "stage": "str", "operation": "str", "endpoint": "str", "ops": "int64", "bytes": "int64", "errors": "int64", "retries": "int64",
    "mean_us": "float64", **_RANKS, "max_us": "float64",
}  # fmt: skip
LOSSES = {
    "agent": "str", "at": _UTC, "cause": "str", "down_s": "float64", "unreachable_s": "float64", "attempts": "float64",
    "resumed_offset": "float64", "rounds": "int64", "resume_s": "float64",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run, finished or not. Units are in the names of columns; the dtypes are those of OPERATIONS, TIMESERIES ... in this module.

    verdict, reasons, plan
    finished     whether the run is over; until then verdict and figures are those of what is here so far
    operations   a row per stage and operation, all agents, without warm-up: ops, bytes, tail_ops and tail_bytes (of them what completed
    after the end), requests, retries, errors (int64), ops_per_s, mib_per_s, mean_us, p50_us ... p99.99_us, max_us (float64)
    agents       the same per agent
    timeseries   a row per agent, stage, second (int32, from 0) and operation; these three are categories: at (the end of the second by the
    host's clock, a timestamp in UTC), wall_ns (the same, int64), seconds (how long it was, float64), warmup (bool), ops, bytes (int64),
    mean_us, p50_us, p90_us, p99_us, max_us (float64), errors, retries (int32)
    histograms   a row per stage, operation, size bucket (int64, and size: its name) and cell: latency_us (midpoint, float64), count (int64)
    hosts        a row per agent, stage and second, as in timeseries: cpu_*_pct (of all cores), worker_cpu_pct (the busiest worker's, of a
    core; NaN where it is not known), late_ms (by how much the load loop came late; float64), mem_used_bytes, net_*_bytes, disk_*_bytes
    events       a row per event of the controller's log, in order: at (wall time, a timestamp in UTC), event (its kind), agent (NaN for
    what concerns the whole run), and a column per further field that any event of this log has, NaN where an event has it not:
    link_up: attempt, down_s, resumed_offset; link_down: cause, level (warning; info once the agent's journal is all here: no loss);
    policy_round: round, delay_s; agent_state: state, previous, cause; agent_lost, agent_failed: error; clock: offset_ns, error_ns, boot;
    network: rtt, received_bytes, records, refetched_bytes, refetched_records, resume_s; cut_off_over: seconds; commit, armed_round:
    stage, round; stage_started, stage_ended: stage, name; stop_requested, abort: reason; run_ended: verdict, reasons, exit_code
    splits       a row per stage, operation and part of its latency (queue, connect, tls, first_byte, transfer), where it is told: known
    (operations whose parts are known), count (those with 1 us of it or more), mean_us, p50_us ... p99.99_us (over all that are known)
    endpoints    a row per stage, operation and endpoint, where there are several: ops (that ended there), bytes, errors, retries (attempts
    that failed there and were made again), mean_us, p50_us ... max_us
    network      a row per agent: connects, losses, unreachable_s, rtt_count, rtt_mean_us, rtt_p50_us, rtt_p90_us, rtt_p99_us,
    rtt_p99.9_us, rtt_max_us (heartbeat round trips), clock_measurements, clock_first_offset_ns, clock_last_offset_ns (host minus
    controller), clock_drift_ppm, clock_drift_error_ppm, clock_max_error_ns, received_bytes, records, refetched_bytes,
    refetched_records; NaN where the log does not tell
    losses       a row per link loss: agent, at (a timestamp in UTC), cause, down_s, attempts, resumed_offset (NaN when the link did not
    come back), unreachable_s (then to the end of the log), rounds (of the failure policy), resume_s (from the beginning of the connection
    attempt that succeeded to the first missing byte of the journal)
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    plan: Plan
    operations: pd.DataFrame
    agents: pd.DataFrame
    timeseries: pd.DataFrame
    histograms: pd.DataFrame
    hosts: pd.DataFrame
    events: pd.DataFrame
    network: pd.DataFrame
    losses: pd.DataFrame
    splits: pd.DataFrame
    endpoints: pd.DataFrame
    finished: bool = True


def load(path: str | PathLike[str]) -> Run:
    """The results of a run directory, also of one that is not over yet; writes no results. Raises FileNotFoundError when it is none,
    ConfigError when it cannot be read."""
    with _no_collection():
        return _load(Path(path))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks for garbage the more often the more is read, and there is none: a fifth of the time of a big run."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _load(directory: Path) -> Run:
    inputs = read_inputs(directory)
    file = directory / "results.json"
    content = read(directory).content if file.exists() else merge(inputs)
    verdict, reasons = Verdict(content["verdict"]), tuple(content["reasons"])
    frames = _figures(content)
    links = content.get("network") or networks(list(inputs.agents), inputs.events)
    # Of a big run a gigabyte, which the seconds need next.
    del content
    names = [stage.name for stage in inputs.plan.stages]
    frames |= _seconds(inputs.agents, names)
    losses = [_loss(agent, loss) for agent, link in links.items() for loss in link["losses"]]
    return Run(
        verdict,
        reasons,
        inputs.plan,
        **frames,
        events=_events(inputs.events),
        network=pd.DataFrame([_link(agent, link) for agent, link in links.items()]),
        losses=_frame(losses, LOSSES),
        finished=has_ended(inputs.events),
    )


def _frame(rows: list[Json], dtypes: dict[str, str]) -> pd.DataFrame:
    """Rows as a frame of these columns, also when there are none."""
    frame = pd.DataFrame(rows, columns=list(dtypes))
    for name, dtype in dtypes.items():
        if dtype == _UTC:
            frame[name] = _times(frame[name])
    return frame.astype({name: dtype for name, dtype in dtypes.items() if dtype != _UTC})


def _times(wall_s: pd.Series[Any]) -> pd.Series[Any]:
    """Wall times in seconds as timestamps."""
    times: pd.Series[Any] = pd.to_datetime(wall_s.astype("float64"), unit="s", utc=True).dt.as_unit("ns")
    return times


def _events(events: list[Json]) -> pd.DataFrame:
    frame = pd.DataFrame(events, columns=None if events else list(EVENTS))
    frame["at"] = _times(frame["at"])
    return frame


def _figures(content: Json) -> dict[str, pd.DataFrame]:
    """The frames that results.json has."""
    operations, agents, cells, splits, endpoints = [], [], [], [], []
    for stage in content["stages"]:
        for op, figures in stage["operations"].items():
            head = {"stage": stage["name"], "operation": op}
            operations.append({**head, **_flat(figures)})
            splits += [{**head, **row} for row in _splits(figures.get("splits"))]
            for name, found in (figures.get("endpoints") or {}).items():
                counts = {column: found[column] for column in ("ops", "bytes", "errors", "retries")}
                latencies = {f"{rank}_us": value for rank, value in found["latency_us"].items()}
                endpoints.append({**head, "endpoint": name, **counts, **latencies})
            for bucket, part in figures["buckets"].items():
                for cell, count in sorted(Histogram.from_pairs(part["cells"]).cells.items()):
                    size = {"bucket": int(bucket), "size": BUCKET_LABELS[int(bucket)]}
                    cells.append({**head, **size, "latency_us": value_of(cell) / 1000, "count": count})
        for agent, told in stage["agents"].items():
            agents += [{"agent": agent, "stage": stage["name"], "operation": op, **_flat(f)} for op, f in told["operations"].items()]
    return {
        "operations": _frame(operations, OPERATIONS),
        "agents": _frame(agents, AGENTS),
        "histograms": _frame(cells, HISTOGRAMS),
        "splits": _frame(splits, SPLITS),
        "endpoints": _frame(endpoints, ENDPOINTS),
    }


@dataclass(frozen=True)
class _Piece:
    """The seconds of one agent and stage."""

    agent: int
    stage: int
    seconds: Seconds
    ops: dict[str, Array]
    """Its rows of the time series, as Seconds.ops: of what only failed in a second, too; with errors and retries."""


def _seconds(agents: dict[str, AgentJournal], stages: list[str]) -> dict[str, pd.DataFrame]:
    """The frames with a row per second, made a column at a time: they are most of the memory that a run takes."""
    pieces = [
        _Piece(number, index, part.seconds, _operations_of(part.seconds))
        for number, agent in enumerate(agents.values())
        for index, part in sorted(agent.stages.items())
    ]
    ids, names = list(agents), list(dict.fromkeys(stages))
    kinds = list(dict.fromkeys(text for piece in pieces for text in _kinds(piece)))
    stage_codes = [names.index(name) for name in stages]

    def heads(rows: list[int]) -> dict[str, Any]:
        return {
            "agent": _category(np.repeat([piece.agent for piece in pieces], rows), ids),
            "stage": _category(np.repeat([stage_codes[piece.stage] for piece in pieces], rows), names),
        }

    seconds, rows = sum(len(piece.seconds) for piece in pieces), sum(len(piece.ops["row"]) for piece in pieces)
    codes = [np.array([kinds.index(text) if text in kinds else -1 for text in piece.seconds.names.texts], np.int16) for piece in pieces]

    def of_second(name: str) -> Array:
        return _joined((piece.seconds.each[name] for piece in pieces), seconds, HOSTS[name])

    def of_row(name: str) -> Array:
        return _joined((piece.seconds.each[name][piece.ops["row"]] for piece in pieces), rows, TIMESERIES[name])

    def of_operation(name: str) -> Array:
        return _joined((piece.ops[_OPS.get(name, name)] for piece in pieces), rows, TIMESERIES[name])

    def operation(_: str) -> pd.Categorical[str]:
        return _category(_joined((code[piece.ops["code"]] for code, piece in zip(codes, pieces, strict=True)), rows, "int16"), kinds)

    def lasted_s(_: str) -> Array:
        return _joined((_lasted_s(piece.seconds)[piece.ops["row"]] for piece in pieces), rows, "float64")

    def mean_us(_: str) -> Array:
        return _joined((_mean_us(piece.ops) for piece in pieces), rows, "float64")

    # Most of it is copying, which threads do side by side.
    with ThreadPoolExecutor(cores()) as pool:
        hosts, series = heads([len(piece.seconds) for piece in pieces]), heads([len(piece.ops["row"]) for piece in pieces])
        makers: Mapping[str, Callable[[str], Any]] = {
            **dict.fromkeys(TIMESERIES, of_operation),
            **dict.fromkeys(("second", "wall_ns", "warmup"), of_row),
            "operation": operation,
            "seconds": lasted_s,
            "mean_us": mean_us,
        }
        for frame, columns, made in (
            (hosts, [name for name in HOSTS if name not in hosts and name != "at"], dict.fromkeys(HOSTS, of_second)),
            (series, [name for name in TIMESERIES if name not in series and name != "at"], makers),
        ):
            # A few at a time: what they were made from may leave the memory then.
            for begin in range(0, len(columns), cores()):
                few = columns[begin : begin + cores()]
                frame |= zip(few, pool.map(_call, [made[name] for name in few], few), strict=True)
                for piece in pieces:
                    piece.seconds.release()
    for frame in (hosts, series):
        frame["at"] = pd.Series(frame["wall_ns"].view("datetime64[ns]"), copy=False).dt.tz_localize("UTC").array
    return {
        "timeseries": pd.DataFrame({name: series[name] for name in TIMESERIES}, copy=False),
        "hosts": pd.DataFrame({name: hosts[name] for name in HOSTS}, copy=False),
    }


def _call(make: Callable[[str], Any], name: str) -> Any:
    return make(name)


def _kinds(piece: _Piece) -> list[str]:
    codes, first = np.unique(piece.ops["code"], return_index=True)
    return [piece.seconds.names.texts[code] for code in codes[np.argsort(first)]]


def _category(codes: Array, names: list[str]) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes.astype(np.int16 if len(names) < 1 << 15 else np.int32), pd.Index(names, dtype="str"))


def _joined(parts: Iterable[Array], rows: int, dtype: str) -> Array:
    """Parts of so many rows in all, one after the other. Not numpy's concatenate: it wants all parts at once, which are as much again."""
    joined = np.empty(rows, dtype)
    end = 0
    for part in parts:
        begin, end = end, end + len(part)
        joined[begin:end] = part
    return joined


def _mean_us(ops: dict[str, Array]) -> Array:
    mean: Array = ops["sum_ns"] / np.maximum(ops["count"], 1) / 1000
    return mean


def _lasted_s(seconds: Seconds) -> Array:
    lasted: Array = (seconds.each["to_clock_ns"] - seconds.each["from_clock_ns"]) / 1e9
    return lasted


def _operations_of(seconds: Seconds) -> dict[str, Array]:
    """The rows of an agent's time series: Seconds.ops with errors and retries, and rows for what only failed in a second."""
    ops, more = dict(seconds.ops), seconds.more
    many = len(ops["row"])
    for name in ("errors", "retries"):
        ops[name] = np.zeros(many, np.int32)
    chosen = np.isin(more["kind"], [KINDS.index("errors"), KINDS.index("retries")])
    if not chosen.any():
        return ops
    want = {name: more[name][chosen] for name in ("row", "code", "kind", "n")}
    at = _find(ops, want["row"], want["code"])
    if (at < 0).any():
        missing = np.unique(np.stack((want["row"], want["code"]))[:, at < 0], axis=1)
        for name, column in ops.items():
            ops[name] = np.concatenate((column, np.zeros(missing.shape[1], column.dtype)))
        ops["row"][many:], ops["code"][many:] = missing
        order = np.argsort(ops["row"], kind="stable")
        ops = {name: column[order] for name, column in ops.items()}
        at = _find(ops, want["row"], want["code"])
    for name in ("errors", "retries"):
        told = want["kind"] == KINDS.index(name)
        np.add.at(ops[name], at[told], want["n"][told])
    return ops


def _find(ops: dict[str, Array], rows: Array, codes: Array) -> Array:
    """Where these rows and codes are in `ops`, whose rows ascend; -1 where they are not."""
    found = np.full(len(rows), -1)
    first, end = np.searchsorted(ops["row"], rows, "left"), np.searchsorted(ops["row"], rows, "right")
    for step in range(int((end - first).max(initial=0))):
        at = np.minimum(first + step, end - 1)
        here = (end > first) & (ops["code"][at] == codes)
        found[here] = at[here]
    return found


def _flat(figures: Json) -> Json:
    kept = ("ops", "bytes", "tail_ops", "tail_bytes", "ops_per_s", "mib_per_s", "requests", "retries")
    latencies = {f"{name}_us": value for name, value in figures["latency_us"].items()}
    return {**{name: figures[name] for name in kept}, **latencies, "errors": sum(figures["errors"].values())}


def _splits(figures: Json | None) -> list[Json]:
    if figures is None:
        return []
    rows = []
    for part in SPLIT_PARTS:
        found = figures[part]
        rows.append(
            {
                "part": part,
                "known": figures["known"],
                "count": found["count"],
                **{f"{name}_us": found[name] for name in ("mean", *LATENCY_RANKS)},
            }
        )
    return rows


def _link(agent: str, link: Json) -> Json:
    rtt, clock = link["rtt_us"] or {}, link["clock"] or {}
    offset = clock.get("offset_ns", {})
    row = {
        "agent": agent,
        "connects": link["connects"],
        "losses": len(link["losses"]),
        "unreachable_s": link["unreachable_s"],
        "rtt_count": rtt.get("count", 0),
        **{f"rtt_{name}_us": rtt.get(name) for name in ("mean", *RANKS, "max")},
        "clock_measurements": clock.get("measurements", 0),
        "clock_first_offset_ns": offset.get("first"),
        "clock_last_offset_ns": offset.get("last"),
        **{f"clock_{name}": clock.get(name) for name in ("drift_ppm", "drift_error_ppm", "max_error_ns")},
        **{name: link[name] for name in COUNTERS},
    }
    return _known(row)


def _loss(agent: str, loss: Json) -> Json:
    return _known({**loss, "agent": agent, "rounds": len(loss["rounds"])})


def _known(row: Json) -> Json:
    """The row with NaN for None, so that a column of numbers is one even when all of it is unknown."""
    return {name: float("nan") if value is None else value for name, value in row.items()}
