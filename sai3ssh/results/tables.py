"""TSV files in the format of sai3-bench, so that its tools read ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ..model import BUCKET_LABELS
from ..plain import plain
from .cells import ArrayHistogram
from .columns import Seconds
from .journal import AgentJournal
from .limits import limit_lines
from .oplog import op_log_lines

Json = dict[str, Any]
RESULT_COLUMNS = (
    "operation", "size_bucket", "bucket_idx", "mean_us", "p50_us", "p90_us", "p95_us", "p99_us", "max_us", "avg_bytes", "ops_per_sec",
    "throughput_mibps", "count",
)  # fmt: skip
_CLASS = ("ops", "bytes", "iops", "mbps", "mean_us", "p50_us", "p90_us", "p99_us")
PERF_COLUMNS = (
    "agent_id", "timestamp_epoch_ms", "elapsed_s", "stage", *(f"get_{c}" for c in _CLASS), *(f"put_{c}" for c in _CLASS),
    "meta_ops", "meta_iops", "meta_mean_us", "meta_p50_us", "meta_p90_us", "meta_p99_us",
    "cpu_user_pct", "cpu_system_pct", "cpu_iowait_pct", "errors", "is_warmup",
)  # fmt: skip
META = ("list", "stat", "delete", "copy", "mkdir", "rmdir")
ALL_INDEX = {"META": 97, "GET": 98, "PUT": 99}


def comments(content: Json) -> list[str]:
    """The lines that every table begins with: run, verdict, reasons, what of the verdict was revised, what preflight skipped, lost time,
    full-strength windows, what limited the clients, what the op-logs lack."""
    agents = content["agents"]
    revised = [
        f"# verdict was {one['before']} before the journals of {', '.join(one['agents'])} were collected" for one in content["revisions"]
    ]
    lines = [
        f"# sai3ssh run {content['run_id']}",
        f"# verdict {content['verdict']}; {agents['reported']} of {agents['expected']} agents; coverage {100 * content['coverage']:.2f} %",
        *(f"# {reason}" for reason in content["reasons"]),
        *revised,
        *(f"# {line}" for line in skipped_lines(content)),
        *(f"# {line}" for line in lost_lines(content)),
        *(f"# {line}" for line in full_strength_lines(content)),
        *(f"# {line}" for line in replay_lines(content)),
        *(f"# {line}" for line in limit_lines(content)),
        *(f"# {line}" for line in op_log_lines(content)),
    ]
    # Error texts of hosts and storage are among them, and people print these files on terminals.
    return [plain(line.replace("\n", " ")) for line in lines]


def skipped_lines(content: Json) -> list[str]:
    """One line when checks of the preflight were skipped."""
    looked = content.get("preflight")
    return [f"preflight skipped: {', '.join(looked['skipped'])}"] if looked and looked["skipped"] else []


def lost_lines(content: Json) -> list[str]:
    """One line for each interval that an agent did not measure."""
    names = {stage["index"]: stage["name"] for stage in content["stages"]}
    return [
        f"lost {agent}: {names[span['stage']]} {span['from_s']:.1f} to {span['to_s']:.1f} s"
        + (f" ({span['cause']})" if "cause" in span else "")
        for agent, spans in content["lost_intervals_s"].items()
        for span in spans
    ]


def full_strength_lines(content: Json) -> list[str]:
    """One line for each execute stage: rates over the seconds in which every expected agent was measuring; empty when all were, always."""
    if not content["lost_intervals_s"] and content["coverage"] >= 1.0:
        return []
    lines = []
    for stage in content["stages"]:
        window = stage["full_strength"]
        if window is not None:
            rates = ", ".join(f"{op} {rate:,.1f} ops/s" for op, rate in window["ops_per_s"].items())
            lines.append(
                f"full strength {stage['name']}: {window['seconds']} of {stage['seconds']:.0f} s" + (f", {rates}" if rates else "")
            )
    return lines


def replay_lines(content: Json) -> list[str]:
    """One line for each replay that did not come to the end of its trace."""
    lines = []
    for stage in content["stages"]:
        wanted = stage.get("trace_operations")
        done = sum(figures["ops"] + sum(figures["errors"].values()) for figures in stage["operations"].values())
        if wanted is not None and done < wanted:
            share = f"{done:,} of {wanted:,} operations ({100 * done / wanted:.1f} %)"
            lines.append(f"replay {stage['name']}: {share}; the others came too late, or were lost with a worker")
    return lines


def results_table(content: Json, operations: Json, seconds: float) -> str:
    """The 13 columns of a stage: a row per class and size bucket, then the ALL rows."""
    lines = [*comments(content), "\t".join(RESULT_COLUMNS)]
    classes = {"GET": ["get"], "PUT": ["put"], "META": [op for op in META if op in operations]}
    totals = []
    for name, ops in classes.items():
        parts: dict[int, list[Json]] = {}
        for op in ops:
            for bucket, figures in operations.get(op, {}).get("buckets", {}).items():
                parts.setdefault(int(bucket), []).append(figures)
        for bucket, figures in sorted(parts.items()):
            lines.append(_row(name, BUCKET_LABELS[bucket], bucket, figures, seconds))
        everything = [figures for part in parts.values() for figures in part]
        if everything:
            totals.append((ALL_INDEX[name], _row(name, "ALL", ALL_INDEX[name], everything, seconds)))
    return "\n".join([*lines, *(row for _, row in sorted(totals))]) + "\n"


def _row(name: str, label: str, index: int, figures: list[Json], seconds: float) -> str:
    histogram = ArrayHistogram()
    for part in figures:
        histogram.merge(ArrayHistogram.from_pairs(part["cells"], sum_ns=part["sum_ns"], max_ns=round(part["latency_us"]["max"] * 1000)))
    count = histogram.count
    size = sum(part["bytes"] for part in figures)
    in_time = count - sum(part["tail_ops"] for part in figures)
    in_time_bytes = size - sum(part["tail_bytes"] for part in figures)
    values = [histogram.mean_ns, *histogram.percentiles([50, 90, 95, 99]), float(histogram.max_ns)]
    cells = [f"{value / 1000:.2f}" for value in values]
    rates = [f"{in_time / seconds:.2f}", f"{in_time_bytes / seconds / (1 << 20):.2f}"] if seconds > 0 else ["0.00", "0.00"]
    return "\t".join([name, label, str(index), *cells, f"{size / count if count else 0:.0f}", *rates, str(count)])


def perf_log(content: Json, agents: dict[str, AgentJournal], names: list[str], interval_s: int = 1) -> Iterator[str]:
    """The 31 columns, a line per agent and interval, in lines.

    Percentiles are the agent's own of that second. META percentiles are empty when a second had several kinds of META operations: theirs
    are not kept together, and percentiles cannot be added; for the same reason all are empty where an interval has several seconds.
    """
    for line in [*comments(content), "\t".join(PERF_COLUMNS)]:
        yield line + "\n"
    for agent_id, agent in agents.items():
        for index, stage in sorted(agent.stages.items()):
            began_ns = stage.start["start_clock_ns"] if stage.start else 0
            if interval_s == 1:
                yield from _perf_lines(agent_id, names[index], began_ns, stage.seconds)
            else:
                yield from (_perf_line(agent_id, names[index], began_ns, second) for second in _intervals(stage.seconds, interval_s))


def _intervals(seconds: Sequence[Json], interval_s: int) -> Iterator[Json]:
    """The seconds of a stage, added up; those of the warm-up apart."""
    for _, group in groupby(seconds, lambda second: (second["second"] // interval_s, second["warmup"])):
        yield _added(list(group))


def _added(seconds: list[Json]) -> Json:
    if len(seconds) == 1:
        return seconds[0]
    ops: dict[str, list[Any]] = {}
    errors: dict[str, Json] = {}
    for number, second in enumerate(seconds):
        for op, figures in second["ops"].items():
            mine = ops.setdefault(op, [0, 0, 0, "", "", "", ""])
            mine[:3] = [a + b for a, b in zip(mine, figures[:3], strict=False)]
        errors[str(number)] = {op: sum(classes.values()) for op, classes in second["errors"].items()}
    spans = [second["to_clock_ns"] - second["from_clock_ns"] for second in seconds]
    cpu = [
        round(sum(second["host"]["cpu"][at] * span for second, span in zip(seconds, spans, strict=True)) / max(1, sum(spans)), 1)
        for at in range(3)
    ]
    first, last = seconds[0], seconds[-1]
    return {**last, "from_clock_ns": first["from_clock_ns"], "ops": ops, "errors": errors, "host": {"cpu": cpu}}


def _perf_line(agent_id: str, stage: str, began_ns: int, second: Json) -> str:
    span_s = max(1e-6, (second["to_clock_ns"] - second["from_clock_ns"]) / 1e9)
    cells = [agent_id, str(second["wall_ns"] // 1_000_000), f"{(second['to_clock_ns'] - began_ns) / 1e9:.3f}", stage]
    for op in ("get", "put"):
        n, size, sum_ns, p50, p90, p99, _ = second["ops"].get(op, [0, 0, 0, 0, 0, 0, 0])
        mean_us = sum_ns / n / 1000 if n else 0.0
        cells += [
            str(n),
            str(size),
            f"{n / span_s:.2f}",
            f"{size / span_s / (1 << 20):.2f}",
            f"{mean_us:.2f}",
            str(p50),
            str(p90),
            str(p99),
        ]
    meta = [second["ops"][op] for op in META if op in second["ops"]]
    n = sum(figures[0] for figures in meta)
    mean_us = sum(figures[2] for figures in meta) / n / 1000 if n else 0.0
    percentiles = [str(value) for value in meta[0][3:6]] if len(meta) == 1 else ["", "", ""] if meta else ["0", "0", "0"]
    cells += [str(n), f"{n / span_s:.2f}", f"{mean_us:.2f}", *percentiles]
    cpu = second["host"]["cpu"]
    errors = sum(count for classes in second["errors"].values() for count in classes.values())
    cells += [str(cpu[0]), str(cpu[1]), str(cpu[2]), str(errors), "1" if second["warmup"] else "0"]
    return "\t".join(cells) + "\n"


_PERF_CLASS = "%d\t%d\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t"
_PERF_FORMAT = f"%s\t%d\t%.3f\t%s\t{_PERF_CLASS}{_PERF_CLASS}%d\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\n"


def _perf_lines(agent_id: str, stage: str, began_ns: int, seconds: Seconds) -> Iterator[str]:
    each, ops = seconds.each, seconds.ops
    many = len(seconds)
    every = np.ones(many, np.bool_)
    rows_of = seconds.by_operation(every)
    span_s = np.maximum(1e-6, (each["to_clock_ns"] - each["from_clock_ns"]) / 1e9)
    columns: list[Iterable[Any]] = [
        [agent_id] * many,
        (each["wall_ns"] // 1_000_000).tolist(),
        ((each["to_clock_ns"] - began_ns) / 1e9).tolist(),
        [stage] * many,
    ]
    for kinds in (("get",), ("put",), META):
        count, size, sum_ns = (np.zeros(many, np.int64) for _ in range(3))
        told = np.zeros(many, np.int64)
        percentiles: list[list[Any]] = [[0] * many for _ in range(3)]
        for op in kinds:
            rows = rows_of.get(op, np.zeros(0, np.int64))
            at = ops["row"][rows]
            told[at] += 1
            for total, name in ((count, "count"), (size, "bytes"), (sum_ns, "sum_ns")):
                total[at] += ops[name][rows]
            for texts, name in zip(percentiles, ("p50_us", "p90_us", "p99_us"), strict=True):
                for row, value in zip(at.tolist(), ops[name][rows].tolist(), strict=True):
                    texts[row] = value
        for row in np.flatnonzero(told > 1).tolist():
            for texts in percentiles:
                texts[row] = ""
        mean_us = np.divide(sum_ns, count, out=np.zeros(many), where=count > 0) / 1000
        rates = [(count / span_s).tolist(), *([(size / span_s / (1 << 20)).tolist()] if kinds is not META else []), mean_us.tolist()]
        columns += [count.tolist(), *([size.tolist()] if kinds is not META else []), *rates, *percentiles]
    columns += [each[name].tolist() for name in ("cpu_user_pct", "cpu_system_pct", "cpu_iowait_pct")]
    columns += [seconds.errors_by_row().tolist(), each["warmup"].tolist()]
    return map(_PERF_FORMAT.__mod__, zip(*columns, strict=True))
