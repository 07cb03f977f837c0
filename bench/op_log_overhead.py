"""What the op-log costs the load: CPU time per 4 KiB GET with it on against off.

    python bench/op_log_overhead.py [--pairs 10] [--block 1.5] [--most-ratio 1.15]

One worker's load (32 operations in flight, the native S3 engine, the agent's own mix and recorder) against a server that answers from
memory, in blocks of --block seconds: on, off, off, on, ...; neighbours are a pair. CPU is user and system time of this process, that of
the thread which compresses and writes included; the server's is not in it. The log is below --directory, by default on the disk of the
temporary directory. The ratio on / off is the median over the pairs. Exits 1 when it is above --most-ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.clients import CREDENTIALS, null_server
from sai3ssh.agent import metrics
from sai3ssh.agent.details import Layout
from sai3ssh.agent.engines import make_engine
from sai3ssh.agent.engines.base import GET, Engine
from sai3ssh.agent.mix import MixWork
from sai3ssh.agent.oplog import LoggedRecorder, OpLog
from sai3ssh.agent.work import Objects, Recorder
from sai3ssh.model import (
    Deadlines,
    ErrorLimits,
    Intervals,
    OperationSpec,
    Plan,
    Population,
    Retry,
    SizeSpec,
    Stage,
    StageKind,
    Target,
)

SIZE_BYTES = 4096
URI = f"s3://bucket/{SIZE_BYTES}/"
CONCURRENCY = 32


def block(engine: Engine, seconds: float, directory: Path | None) -> tuple[float, int, int]:
    """CPU microseconds per operation, operations, and bytes of the log."""
    population = Population("prepared", URI, "prepared-%08d.dat", 1_000_000, SizeSpec("fixed", SIZE_BYTES, SIZE_BYTES), 1)
    operation = OperationSpec("get", 1, URI, "prepared")
    stage = Stage("execute", StageKind.EXECUTE, CONCURRENCY, operations=(operation,))
    layout = Layout(Plan("bench", "bench", Target("s3"), (population,), (stage,)), stage, 0)
    cells = memoryview(bytearray(layout.total * 8)).cast("Q")
    log = OpLog(str(directory), 0, 0, 0, 1 << 40) if directory is not None else None
    cpu = time.process_time()
    work = MixWork(
        engine,
        [operation],
        {"prepared": Objects(engine, population)},
        {},
        Recorder(cells) if log is None else LoggedRecorder(cells, layout, log),
        put_format="put-%010d",
        mkdir_format="",
        seed="bench",
        limits=ErrorLimits(),
        end_ns=time.monotonic_ns() + int(seconds * 1e9),
        notice=lambda text: sys.exit(text),
        owned={"prepared": Intervals()},
    )
    engine.run(work, CONCURRENCY)
    closed = log.close() if log is not None else {"dropped": 0}
    cpu = time.process_time() - cpu
    operations = metrics.Reader(cells).completed(GET)
    size = 0
    for path in directory.glob("*.seg") if directory is not None else ():
        size += path.stat().st_size
        path.unlink()
    if closed["dropped"]:
        raise SystemExit(f"{closed['dropped']} records were dropped: {closed['why']}")
    return cpu / operations * 1e6, operations, size


def main() -> int:
    """Prints the pairs' medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--block", type=float, default=1.5)
    parser.add_argument("--most-ratio", type=float, default=1.15)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with null_server() as server, tempfile.TemporaryDirectory(dir=options.directory) as name:
        engine = make_engine(Target(engine="s3", endpoint_url=server.url), URI, CREDENTIALS, Deadlines(), Retry())
        block(engine, 0.5, None)
        on, off, sizes = [], [], []
        for pair in range(options.pairs):
            for logged in (True, False) if pair % 2 else (False, True):
                cost, operations, size = block(engine, options.block, Path(name) if logged else None)
                (on if logged else off).append(cost)
                if logged:
                    sizes.append(size / operations)
        engine.close()
    ratio = statistics.median(a / b for a, b in zip(on, off, strict=True))
    print(f"GET 4 KiB  op-log off {statistics.median(off):7.2f} us CPU per operation, on {statistics.median(on):7.2f}")
    print(f"GET 4 KiB  on / off = {ratio:.3f}, median of {options.pairs} pairs; {statistics.median(sizes):.1f} bytes of log per operation")
    return 0 if ratio <= options.most_ratio else 1


if __name__ == "__main__":
    sys.exit(main())
