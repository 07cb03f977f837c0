"""A run's metrics and its trace, pushed to a collector of OpenTelemetry (OTLP over HTTP) while it goes on, from a process beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import INVALID_SPAN, Status, StatusCode, set_span_in_context

from .. import __version__
from ..controller.rundir import RunDirectory
from ..errors import ConfigError
from ..protocol import Json
from .aside import aside, give_way, until_closed
from .metrics import families
from .tally import RunTally

DEFAULT_ENDPOINT = "http://localhost:4318"
TIMEOUT_MS, INTERVAL_MS = 10_000, 60_000
IN_FLIGHT_S, FLUSH_S, END_S = 1.0, 2.0, 7.0
"""At the end of a run: what an export under way still has, then each of the last two, then the process before it is killed."""
WHY_CHARS = 120
SPANS = 10_000
"""Spans that wait for a collector, at most: the newest."""
NOTED = ("agent_lost", "agent_failed", "abort", "stop_requested", "cut_off", "cut_off_over", "slept", "steady", "not_steady")
"""Events of the log that are events of spans."""
INSTRUMENTS = {
    "sai3ssh_operations": ("sai3ssh.operations", "{operation}"),
    "sai3ssh_bytes": ("sai3ssh.bytes", "By"),
    "sai3ssh_requests": ("sai3ssh.requests", "{request}"),
    "sai3ssh_retries": ("sai3ssh.retries", "{retry}"),
    "sai3ssh_errors": ("sai3ssh.errors", "{error}"),
    "sai3ssh_operation_duration_seconds": ("sai3ssh.operation.duration", "s"),
    "sai3ssh_link_up": ("sai3ssh.link.up", "{link}"),
    "sai3ssh_agent_state": ("sai3ssh.agent.state", "{agent}"),
    "sai3ssh_link_losses": ("sai3ssh.link.losses", "{loss}"),
    "sai3ssh_link_down_seconds": ("sai3ssh.link.down", "s"),
    "sai3ssh_heartbeat_round_trip_seconds": ("sai3ssh.heartbeat.round_trip", "s"),
    "sai3ssh_lost_intervals": ("sai3ssh.lost_intervals", "{interval}"),
    "sai3ssh_lost_seconds": ("sai3ssh.lost", "s"),
    "sai3ssh_run_agents": ("sai3ssh.run.agents", "{agent}"),
    "sai3ssh_run_state": ("sai3ssh.run.state", "{run}"),
    "sai3ssh_stage_progress_ratio": ("sai3ssh.stage.progress", "1"),
    "sai3ssh_run_created_timestamp_seconds": ("sai3ssh.run.created_timestamp", "s"),
}
"""Name and UCUM unit of what Prometheus calls so: a collector that translates them for Prometheus comes to its name again."""


# --- what is wanted ----------------------------------------------------------------------------------------------------------------------


def _variable(*names: str) -> tuple[str, str]:
    """The first of these variables that is set, or the last; and its value."""
    name = next((name for name in names if os.environ.get(name, "").strip()), names[-1])
    return name, os.environ.get(name, "").strip()


def _otlp(kind: str, what: str) -> tuple[str, str]:
    return _variable(f"OTEL_EXPORTER_OTLP_{kind.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}")


def _seconds(name: str, value: str, default_ms: int) -> float:
    if value and not (value.isascii() and value.isdigit() and int(value)):
        raise ConfigError(f"{name}={value}: expected milliseconds, a whole number above 0", remedy=f"Write {name}={default_ms}")
    return int(value or default_ms) / 1000


def _one_of(name: str, value: str, *known: str) -> str:
    value = value.lower() or known[0]
    if value not in known:
        raise ConfigError(f"{name}={value}: expected {' or '.join(known)}", remedy=f"Set {name}={known[0]} for this command")
    return value


def _endpoint(name: str, value: str) -> str:
    """Where it is, for a person: without what may be secret. Raises ConfigError."""
    with contextlib.suppress(ValueError):
        url = urlsplit(value or DEFAULT_ENDPOINT)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0 and value.isprintable() and " " not in value:
            return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    shown = value.rpartition("@")[2]
    raise ConfigError(f"{name}={shown!r} is no address of a collector", remedy=f"Write http://HOST:PORT, such as {DEFAULT_ENDPOINT}")


class _Complaints(logging.Handler):
    """Makes an error of what the library only warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raises ConfigError."""
        # A header is a secret.
        text = "OTEL_EXPORTER_OTLP_HEADERS: expected name=value" if "eader" in str(record.msg) else record.getMessage()
        raise ConfigError(f"OpenTelemetry: {text}", remedy="Correct the variables OTEL_... for this command")


def check() -> None:
    """Raises ConfigError when what the variables OTEL_... say cannot be done."""
    logger, complaints = logging.getLogger("opentelemetry"), _Complaints()
    logger.addHandler(complaints)
    try:
        _interval_s()
        if not _signals():
            raise ConfigError("OTEL_METRICS_EXPORTER and OTEL_TRACES_EXPORTER are none: nothing is exported", remedy="Leave out --otel")
    finally:
        logger.removeHandler(complaints)


def _interval_s() -> float:
    return _seconds(*_variable("OTEL_METRIC_EXPORT_INTERVAL"), INTERVAL_MS)


def beside(directory: RunDirectory, say: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
    """Exports a run for as long as the block lasts, and then until its last figures are sent, or a few seconds."""
    return aside(__name__, {"directory": str(directory.path)}, say, name="the export", remedy="Nothing more is exported", end_s=END_S)


# --- sending -----------------------------------------------------------------------------------------------------------------------------


class _Session(requests.Session):
    """Sends once, reads no more than the head of the answer, and keeps why it failed. The library would try again at once; here the next
    interval does."""

    why = ""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """As its base, but raises RuntimeError unless the collector has taken all."""
        try:
            with super().request(*args, **{**options, "allow_redirects": False, "stream": True}) as response:
                page = "html" in response.headers.get("Content-Type", "")
                if response.status_code // 100 != 2 or page:
                    said = "with a web page" if page and response.ok else response.reason
                    self.why = f"HTTP {response.status_code} {said}"
        except Exception as error:
            self.why = _why(error)
        if self.why:
            raise RuntimeError(self.why)
        return response


def _why(error: BaseException) -> str:
    """The cause behind what libraries made of it, in a few printable words."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    # What is wrong with a value is told together with it, and that may be a header.
    text = "" if isinstance(error, ValueError) else getattr(error, "strerror", None) or str(error)
    return "".join(c if c.isprintable() else " " for c in text)[:WHY_CHARS] or type(error).__name__


class _Signal:
    """What is sent of one kind, and where to. The first failure is said."""

    def __init__(self, kind: str, make: Callable[..., Any]) -> None:
        _one_of(*_otlp(kind, "PROTOCOL"), "http/protobuf")
        self._kind = kind
        self.failed = ""
        """How the last attempt failed."""
        self._endpoint = _endpoint(*_otlp(kind, "ENDPOINT"))
        self._timeout_s = _seconds(*_otlp(kind, "TIMEOUT"), TIMEOUT_MS)
        self._session = _Session()
        self._export = make(session=self._session, timeout=self._timeout_s).export
        self._told = False

    def send(self, data: Any, *, last: bool) -> bool:
        """Whether the collector has taken it."""
        self._session.why = self.failed = ""
        try:
            with _deadline(FLUSH_S if last else self._timeout_s + 1.0):
                if self._export(data).name == "SUCCESS":
                    return True
            why = self._session.why or "it cannot be encoded"
        except Exception as error:
            # Of whatever kind: the run is more than its export.
            why = _why(error)
        self.failed = f"{self._endpoint} takes no {self._kind} ({why})"
        if not (last or self._told):
            self._told = True
            _say(f"notice: OpenTelemetry: {self.failed}; the run goes on, and this is tried again")
        return False


@contextlib.contextmanager
def _deadline(limit_s: float) -> Iterator[None]:
    """Raises TimeoutError in a block of the main thread that lasts longer."""

    def passed(*_: object) -> None:
        raise TimeoutError("no answer in time")

    signal.signal(signal.SIGALRM, passed)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _signals() -> dict[str, _Signal]:
    _one_of(*_variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"), "cumulative")
    kinds = {"metrics": OTLPMetricExporter, "traces": OTLPSpanExporter}
    wanted = {kind: _one_of(*_variable(f"OTEL_{kind.upper()}_EXPORTER"), "otlp", "none") == "otlp" for kind in kinds}
    return {kind: _Signal(kind, make) for kind, make in kinds.items() if wanted[kind]}


# --- metrics -----------------------------------------------------------------------------------------------------------------------------


class _Metrics:
    """The metrics of a run as OTLP has them: counts are of all its time, at each time."""

    def __init__(self, run: RunTally) -> None:
        self._run = run
        self._states: dict[tuple[str, ...], dict[str, str]] = {}

    def all(self) -> Iterator[otel.Metric]:
        """All that there is to tell."""
        now_ns, cumulative = time.time_ns(), otel.AggregationTemporality.CUMULATIVE
        times = (round((self._run.created_at or 0.0) * 1e9), now_ns)
        for family in families(self._run):
            name, unit = INSTRUMENTS[family.name]
            told: otel.DataT
            if family.type == "histogram":
                told = otel.Histogram(list(_histograms(family.samples, times)), cumulative)
            else:
                values = [(sample.labels, sample.value) for sample in family.samples]
                if name.endswith(".state"):
                    values += self._left(name, [labels for labels, _ in values])
                points = [otel.NumberDataPoint(labels, *times, n if isinstance(n, float) else int(n)) for labels, n in values]
                told = otel.Sum(points, cumulative, True) if family.type == "counter" else otel.Gauge(points)
            if told.data_points:
                yield otel.Metric(name, family.documentation, unit, told)

    def _left(self, name: str, current: list[dict[str, str]]) -> list[tuple[dict[str, str], float]]:
        """States that were told and are no more are 0: a collector goes on with what it was told last."""
        now = {(name, *labels.values()): labels for labels in current}
        self._states.update(now)
        return [(labels, 0) for key, labels in self._states.items() if key[0] == name and key not in now]


def _histograms(samples: Iterable[Any], times: tuple[int, int]) -> Iterator[otel.HistogramDataPoint]:
    """Buckets count what is below their bound for Prometheus, and only their own in OTLP."""
    unknown: dict[str, Any] = {"min": None, "max": None}
    bounds: list[float] = []
    counts: list[int] = []
    for sample in samples:
        if sample.name.endswith("_bucket"):
            bounds.append(float(sample.labels["le"]))
            counts.append(int(sample.value) - sum(counts))
        elif sample.name.endswith("_sum"):
            yield otel.HistogramDataPoint(sample.labels, *times, sum(counts), sample.value, counts, bounds[:-1], **unknown)
            bounds, counts = [], []


# --- the trace ---------------------------------------------------------------------------------------------------------------------------


class _Ids(IdGenerator):
    """Those of a run are always the same: whoever resumes it goes on with its trace."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self.span = ""

    def generate_span_id(self) -> int:
        """Of the span that `span` tells from others."""
        return self._hash(self.span, 8)

    def generate_trace_id(self) -> int:
        """Of the run."""
        return self._hash("", 16)

    def _hash(self, name: str, size: int) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self._run_id}/{name}".encode(), digest_size=size).digest())


class _Trace(SpanProcessor):
    """The spans of a run: itself, in it its stages, in them losses of links. Those that have ended are `done`."""

    def __init__(self, run: RunTally, resource: Resource) -> None:
        self.done: deque[ReadableSpan] = deque(maxlen=SPANS)
        run.tell = self.note
        self._names = run.names
        self._ids = _Ids(run.contents.plan.run_id)
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=self._ids)
        provider.add_span_processor(self)
        self._tracer = provider.get_tracer("sai3ssh", __version__)
        self._open: dict[str, Any] = {}

    def on_end(self, span: ReadableSpan) -> None:
        """Keeps it."""
        self.done.append(span)

    def note(self, event: Json) -> None:
        """Goes on with the next event of the log."""
        kind, at_ns = event["event"], round(event["at"] * 1e9)
        told = {name: value for name, value in event.items() if name not in ("at", "event") and isinstance(value, str | int | float)}
        link, stage = f"link {event.get('agent')}", f"stage {event.get('stage')}"
        match kind:
            case "run_created":
                self._begin("run", "run", at_ns, told)
            case "stage_started":
                self._begin(stage, f"stage {event['name']}", at_ns, {"stage": self._names[event["stage"]]})
            case "stage_ended":
                self._end(stage, at_ns)
            case "link_down" if event.get("level") != "info":
                self._begin(link, "link loss", at_ns, told)
                self._open[link].set_status(Status(StatusCode.ERROR, event["cause"]))
            case "link_up":
                self._end(link, at_ns, told)
            case "run_ended":
                text = "; ".join(event.get("reasons", ()))
                self._within("run").set_status(Status(StatusCode.OK) if event["verdict"] == "COMPLETE" else Status(StatusCode.ERROR, text))
                for key in reversed(list(self._open)):
                    self._end(key, at_ns, told if key == "run" else {})
            case _ if kind in NOTED:
                self._within("stage").add_event(kind, told, at_ns)

    def _within(self, what: str) -> Any:
        """The innermost span of such a name, or the run's, if there is one."""
        key = next((key for key in reversed(self._open) if key.startswith(what)), "run")
        return self._open.get(key, INVALID_SPAN)

    def _begin(self, key: str, name: str, at_ns: int, told: Json) -> None:
        if key not in self._open:
            self._ids.span = f"{key} {at_ns}"
            parent = set_span_in_context(self._within("stage"))
            self._open[key] = self._tracer.start_span(name, parent, attributes=told, start_time=at_ns)

    def _end(self, key: str, at_ns: int, told: Json | None = None) -> None:
        if (span := self._open.pop(key, None)) is not None:
            span.set_attributes(told or {})
            span.end(at_ns)


# --- the process beside a run ------------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    # Who listened may have been killed.
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), f"{text}\n".encode(errors="replace"))


def child(told: TextIO) -> None:
    """The process beside a run: exports at intervals until `told` is closed, and once more."""
    directory = RunDirectory(Path(json.loads(told.readline())["directory"]))
    give_way()
    logging.disable()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    over, ending = threading.Event(), threading.Event()

    def watch() -> None:
        until_closed(told)
        over.set()
        if not ending.wait(IN_FLIGHT_S):
            os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=watch, name="watch", daemon=True).start()
    run = RunTally(directory)
    plan, signals = run.contents.plan, _signals()
    name = os.environ.get("OTEL_SERVICE_NAME") or "sai3ssh"
    who = {"service.name": name, "service.version": __version__, "service.instance.id": plan.run_id}
    resource = Resource.create({**who, "sai3ssh.run.id": plan.run_id, "sai3ssh.plan.name": plan.name})
    metrics, trace = _Metrics(run), _Trace(run, resource)

    def send(last: bool) -> None:
        run.update()
        if "metrics" in signals:
            scope = otel.ScopeMetrics(InstrumentationScope("sai3ssh", __version__), list(metrics.all()), "")
            signals["metrics"].send(otel.MetricsData([otel.ResourceMetrics(resource, [scope], "")]), last=last)
        if over.is_set() and not last:
            return
        if "traces" in signals and trace.done and signals["traces"].send(list(trace.done), last=last):
            trace.done.clear()

    while not directory.events.exists() and not over.wait(0.1):
        pass
    while not over.is_set():
        send(False)
        over.wait(_interval_s())
    ending.set()
    send(True)
    if failed := [one.failed for one in signals.values() if one.failed]:
        _say(f"sai3ssh: OpenTelemetry: not exported to the end: {', '.join(failed)}")


if __name__ == "__main__":
    child(sys.stdin)
