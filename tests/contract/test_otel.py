"""The export to a collector of OpenTelemetry over real sockets: of a real run, and to collectors that do everything but take it."""

from __future__ import annotations

import dataclasses
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from sai3ssh.controller.rundir import RunDirectory
from sai3ssh.web import otlp
from tests.contract.agent_processes import end_agents
from tests.contract.test_run import AGENTS, Bench
from tests.contract.test_web import MIXED

METRICS, TRACES = "/v1/metrics", "/v1/traces"
Answer = Callable[[BaseHTTPRequestHandler, int], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """One POST."""

    path: str
    headers: dict[str, str]
    message: Any


def attributes(found: Any) -> dict[str, Any]:
    """Those of a point, a span or a resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in found.attributes}


def take(handler: BaseHTTPRequestHandler, number: int) -> None:
    """What a collector answers."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-protobuf")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


class Collector(ThreadingHTTPServer):
    """Receives OTLP; `answer` is given the handler and how many of its path came before."""

    daemon_threads = True

    def __init__(self, answer: Answer = take) -> None:
        self.requests: list[Request] = []
        self.came = threading.Condition()
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                kind = ExportMetricsServiceRequest if self.path.endswith("metrics") else ExportTraceServiceRequest
                with collector.came:
                    before = sum(one.path == self.path for one in collector.requests)
                    collector.requests.append(
                        Request(self.path, {name.lower(): value for name, value in self.headers.items()}, kind.FromString(body))
                    )
                    collector.came.notify_all()
                answer(self, before)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that is gone."""

    def __enter__(self) -> Collector:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def wait_for(self, path: str, count: int) -> None:
        """Returns when so many have come."""
        with self.came:
            assert self.came.wait_for(lambda: sum(one.path == path for one in self.requests) >= count, 60.0), self.requests

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Each export: metric by name."""
        for request in (one for one in self.requests if one.path == METRICS):
            (resource,) = request.message.resource_metrics
            (scope,) = resource.scope_metrics
            yield {metric.name: metric for metric in scope.metrics}

    def spans(self) -> list[Any]:
        """All that have come; one that came twice is there twice."""
        found = [one.message for one in self.requests if one.path == TRACES]
        return [span for message in found for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans]


@dataclasses.dataclass
class Exported:
    """A run with --otel, whose collector has refused the first of each, and whose link broke once."""

    collector: Collector
    run: Path
    err: str
    code: int


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Plays the run once for all tests."""

    def refuse_the_first(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number:
            take(handler, number)
        else:
            handler.send_error(503)

    bench = Bench(tmp_path_factory.mktemp("otel"))
    (bench.directory / "target").mkdir()
    with Collector(refuse_the_first) as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20very-secret",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
        process = bench.start("--otel", "--no-live", duration="4s", text=MIXED, **environment)
        try:
            bench.wait_for("stage_started", name="mix")
            (follow,) = bench.pids("follow", AGENTS[0])
            subprocess.run(["kill", "-9", str(follow)], check=True)
            out, err = process.communicate(timeout=120)
            assert "very-secret" not in out + err
            yield Exported(collector, bench.run, err, process.returncode)
        finally:
            process.kill()
            process.communicate()
            end_agents(bench.directory)


def test_the_last_figures_are_those_of_the_results(exported: Exported) -> None:
    assert exported.code == 0, exported.err
    last = list(exported.collector.metrics())[-1]
    found: dict[tuple[str, ...], Any] = {}
    for name in ("operations", "bytes", "requests", "retries"):
        points = last[f"sai3ssh.{name}"].sum.data_points
        for labels, point in ((attributes(point), point) for point in points):
            if labels["phase"] == "measured":
                found[(name, *(labels[key] for key in ("stage", "agent", "op")))] = point.as_int
    for point in last["sai3ssh.operation.duration"].histogram.data_points:
        labels = attributes(point)
        if labels["phase"] == "measured":
            found[("duration", *(labels[key] for key in ("stage", "agent", "op")))] = point
    compared = 0
    for stage in json.loads((exported.run / "results.json").read_text())["stages"]:
        for agent, part in stage["agents"].items():
            for op, figures in part["operations"].items():
                told = {name: found[name, stage["name"], agent, op] for name in ("operations", "bytes", "requests", "retries", "duration")}
                duration = told.pop("duration")
                assert list(told.values()) == [figures[name] for name in ("ops", "bytes", "requests", "retries")]
                assert (duration.count, sum(duration.bucket_counts)) == (figures["ops"], figures["ops"])
                assert duration.sum == figures["sum_ns"] / 1e9
                assert len(duration.bucket_counts) == len(duration.explicit_bounds) + 1
                # The median is in the bucket in which half of the operations have passed.
                passed, bucket = 0, -1
                while passed < duration.count / 2:
                    bucket += 1
                    passed += duration.bucket_counts[bucket]
                low = duration.explicit_bounds[bucket - 1] if bucket else 0.0
                assert low * 0.99 <= figures["latency_us"]["p50"] / 1e6 <= duration.explicit_bounds[bucket] * 1.01
                compared += 1
    assert compared >= 8
    assert any(attributes(point)["phase"] == "warmup" for point in last["sai3ssh.operations"].sum.data_points)


def test_counts_are_monotonic_sums_from_the_beginning_of_the_run(exported: Exported) -> None:
    exports = list(exported.collector.metrics())
    begin = next(event["at"] for event in events(exported.run) if event["event"] == "run_created")
    seen: dict[tuple[str, str], int] = {}
    totals = set()
    for metric in (export["sai3ssh.operations"] for export in exports if "sai3ssh.operations" in export):
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        assert metric.unit == "{operation}"
        for point in metric.sum.data_points:
            assert point.start_time_unix_nano == round(begin * 1e9)
            key = str(sorted(attributes(point).items()))
            assert point.as_int >= seen.get(("", key), 0)
            seen["", key] = point.as_int
        totals.add(sum(point.as_int for point in metric.sum.data_points))
    # While it went on, and not only at its end.
    assert len(totals) > 3


def test_states_that_are_over_are_told_to_be(exported: Exported) -> None:
    told = [
        {attributes(point)["state"]: point.as_int for point in export["sai3ssh.run.state"].gauge.data_points}
        for export in exported.collector.metrics()
    ]
    assert {"running": 1} in told
    assert {state: value for state, value in told[-1].items() if value} == {"COMPLETE": 1}
    assert told[-1]["running"] == 0


def test_the_resource_names_service_run_and_plan(exported: Exported) -> None:
    for request in exported.collector.requests:
        (resource,) = request.message.resource_metrics if request.path == METRICS else request.message.resource_spans
        found = attributes(resource.resource)
        assert found["service.name"] == "sai3ssh"
        assert found["sai3ssh.run.id"] == found["service.instance.id"] == exported.run.name
        assert found["sai3ssh.plan.name"] == "local"
        assert found["deployment.environment"] == "test"
        assert request.headers["authorization"] == "Bearer very-secret"
        assert request.headers["content-encoding"] == "gzip"


def events(run: Path) -> list[dict[str, Any]]:
    """The log of a run."""
    return [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]


def test_the_trace_has_the_run_its_stages_and_the_loss_of_a_link(exported: Exported) -> None:
    spans = {span.span_id: span for span in exported.collector.spans()}
    by_name = {span.name: span for span in spans.values()}
    assert sorted(by_name) == ["link loss", "run", "stage cleanup", "stage mix", "stage prepare"]
    assert len(spans) == 5
    assert len({span.trace_id for span in spans.values()}) == 1
    run, mix, loss = by_name["run"], by_name["stage mix"], by_name["link loss"]
    assert run.parent_span_id == b""
    assert {span.parent_span_id for name, span in by_name.items() if name.startswith("stage")} == {run.span_id}
    assert loss.parent_span_id == mix.span_id
    log = events(exported.run)
    at = {kind: next(event for event in log if event["event"] == kind and event.get("name", "mix") == "mix") for kind in
          ("run_created", "stage_started", "stage_ended", "run_ended", "link_down")}  # fmt: skip
    back = next(
        event for event in log if event["event"] == "link_up" and event["at"] > at["link_down"]["at"] and event["agent"] == AGENTS[0]
    )
    for span, begin, end in (
        (run, at["run_created"], at["run_ended"]),
        (mix, at["stage_started"], at["stage_ended"]),
        (loss, at["link_down"], back),
    ):
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (round(begin["at"] * 1e9), round(end["at"] * 1e9))
    assert attributes(loss)["agent"] == AGENTS[0]
    assert attributes(loss)["cause"] == at["link_down"]["cause"]
    assert attributes(mix) == {"stage": "mix"}
    assert attributes(run)["verdict"] == "COMPLETE"
    assert (run.status.code, loss.status.code) == (1, 2)


def test_a_collector_that_refuses_for_a_while_is_told_once_of_each_kind(exported: Exported) -> None:
    lines = [line for line in exported.err.splitlines() if "OpenTelemetry" in line]
    assert lines == [
        f"notice: OpenTelemetry: {exported.collector.url} takes no {kind} (HTTP 503 Service Unavailable);"
        " the run goes on, and this is tried again"
        for kind in ("metrics", "traces")
    ]
    # What was refused came again.
    assert len([one for one in exported.collector.requests if one.path == TRACES]) > 1
    assert "Traceback" not in exported.err


def test_nothing_secret_is_in_the_run_directory(exported: Exported) -> None:
    files = [path for path in exported.run.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if b"very-secret" in path.read_bytes()]


def test_names_are_those_of_prometheus_once_a_collector_has_translated_them(exported: Exported) -> None:
    from sai3ssh.web.metrics import families
    from sai3ssh.web.tally import RunTally

    kinds = {family.name: family.type for family in families(RunTally(RunDirectory(exported.run)))}
    assert set(kinds) == set(otlp.INSTRUMENTS)
    suffix = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}
    for theirs, (ours, unit) in otlp.INSTRUMENTS.items():
        assert ours.replace(".", "_").removesuffix(suffix.get(unit, "-")) + suffix.get(unit, "") == theirs
        assert unit in suffix or unit.startswith("{")


# --- collectors that do not take it -------------------------------------------------------------------------------------------------------


def hang(handler: Any, number: int) -> None:
    handler.server.released.wait(60.0)


def drip(handler: Any, number: int) -> None:
    """Within the time of each read, and never to an end."""
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b"H" if number < 0 else b"HTTP/1.1 200 OK\r\nX: " if not handler.close_connection else b"x")
        handler.wfile.flush()
        handler.close_connection = True


def page(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.end_headers()
    handler.wfile.write(b"<h1>It works!</h1>")


def redirect(handler: BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere/v1/metrics")
    handler.end_headers()


def noise(handler: Any, number: int) -> None:
    handler.wfile.write(b"\x1b[31mSSH-2.0-OpenSSH_9.6\x07\r\n\r\n" * 3)


FAILING = {
    "hangs": (hang, "timed out"),
    "drips": (drip, "no answer in time"),
    "page": (page, "HTTP 200 with a web page"),
    "redirects": (redirect, "HTTP 302 Found"),
    "noise": (noise, " [31mSSH-2.0-OpenSSH_9.6"),
    "closes": (lambda handler, number: None, "Remote end closed connection without response"),
    "refuses": (lambda handler, number: handler.send_error(413), "HTTP 413 Request Entity Too Large"),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which an export is tried often, and a machine that may be busy at its end."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
    monkeypatch.setattr(otlp, "END_S", 60.0)
    return monkeypatch


@pytest.mark.parametrize("case", FAILING)
def test_a_collector_that_fails_is_told_once_and_at_the_end(case: str, exported: Exported, quick: pytest.MonkeyPatch) -> None:
    answer, why = FAILING[case]
    quick.setenv("OTEL_TRACES_EXPORTER", "none")
    said: list[str] = []
    with Collector(answer) as collector:
        quick.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.replace("//", "//user:very-secret@"))
        with otlp.beside(RunDirectory(exported.run), said.append):
            collector.wait_for(METRICS, 4)
        assert {one.path for one in collector.requests} == {METRICS}
    failed = f"{collector.url} takes no metrics ({why}"
    assert len(said) == 2, said
    assert said[0].startswith(f"notice: OpenTelemetry: {failed}")
    assert said[0].endswith("; the run goes on, and this is tried again")
    # What an export has at the end is less than what the collector is given otherwise.
    assert said[1].startswith("sai3ssh: OpenTelemetry: not exported to the end: " + failed)
    assert all(line.isprintable() for line in said)


def test_a_collector_that_is_away_holds_nobody_up_at_the_end(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")
    monkeypatch.setattr(otlp, "END_S", 60.0)
    said: list[str] = []
    with Collector(hang) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with otlp.beside(RunDirectory(exported.run), said.append):
            collector.wait_for(METRICS, 1)
            began_s = time.monotonic()
        # An attempt would last ten minutes, and a process that does not end by itself a minute.
        assert time.monotonic() - began_s < 50.0
    assert said[0].startswith("notice: ")
    assert said[-1].startswith("sai3ssh: OpenTelemetry: not exported to the end: ")


def test_nobody_listens(exported: Exported, quick: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quick.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}/base/")
    said: list[str] = []
    told = threading.Event()
    with otlp.beside(RunDirectory(exported.run), lambda line: (said.append(line), told.set() if len(said) == 2 else None)[0]):
        assert told.wait(60.0), said
    where = f"http://127.0.0.1:{port}"
    assert [line.partition(";")[0] for line in said] == [
        f"notice: OpenTelemetry: {where} takes no metrics (Connection refused)",
        f"notice: OpenTelemetry: {where} takes no traces (Connection refused)",
        (
            f"sai3ssh: OpenTelemetry: not exported to the end: {where} takes no metrics (Connection refused), "
            f"{where} takes no traces (Connection refused)"
        ),
    ]


def test_whoever_resumes_a_run_goes_on_with_its_trace(exported: Exported, quick: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with Collector() as collector:
        quick.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}{TRACES}")
        quick.setenv("OTEL_METRICS_EXPORTER", "none")
        with otlp.beside(RunDirectory(exported.run), said.append):
            collector.wait_for(TRACES, 1)
        assert said == []
        # Each once: what was taken is not sent again.
        assert sorted(span.span_id for span in collector.spans()) == sorted({span.span_id for span in exported.collector.spans()})


# --- before anything starts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT='localhost:4318' is no address of a collector. Write http://HOST:PORT, such as http://localhost:4318",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@[::1:x"}, "OTEL_EXPORTER_OTLP_ENDPOINT='[::1:x' is no address"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://:4318"}, "is no address"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://host:99999/"},
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT='http://host:99999/' is no address",
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://ho st/"}, "is no address"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: expected http/protobuf"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER=prometheus: expected otlp or none"),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}, "nothing is exported"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "10s"}, "OTEL_METRIC_EXPORT_INTERVAL=10s: expected milliseconds"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, "expected milliseconds"),
        ({"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "-1"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=-1: expected milliseconds"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, "PREFERENCE=delta: expected cumulative"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "lzma"}, "lzma"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "very-secret"}, "OTEL_EXPORTER_OTLP_HEADERS: expected name=value"),
    ],
)
def test_what_cannot_be_done_is_said_before(variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    otlp.check()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(otlp.ConfigError) as caught:
        otlp.check()
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_wrong_endpoint_is_one_error_before_anything_starts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    process = bench.start("--otel", OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("sai3ssh: OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318' is no address of a collector.")
    assert err.count("\n") == 1
    assert not bench.results.exists()


def test_without_the_libraries_there_is_one_error_with_the_remedy(tmp_path: Path) -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; from sai3ssh.cli import main; main()"
    argv = [sys.executable, "-c", program, "run", str(tmp_path / "none.yml"), "-i", "none", "--otel"]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.replace(".exporter", "") == (
        "sai3ssh: --otel needs libraries that are not installed: opentelemetry. pip install 'sai3ssh[otel]'\n"
    )
