"""Whole runs of the real command with real agents on this machine, and a person who interrupts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.contract.agent_processes import end_agents, pids
from tests.contract.test_link import wait_until
from tests.servers import Rclone

AGENTS = ("left", "right")
WORKLOAD = """
name: local
target: {target}
concurrency: 2
workers: 1
io_rate: {{iops: 200}}
distributed: {{start_delay: 500ms}}
{more}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 100, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 100}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: read, type: execute, duration: {duration}}}
  - {{name: cleanup, type: cleanup}}
"""


class Bench:
    """A directory with an inventory of two local agents, and the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.results = directory / "results"
        hosts = {name: {"ansible_connection": "local", "sai3ssh_agent_state_dir": str(directory / name)} for name in AGENTS}
        self.inventory = directory / "hosts.yml"
        self.inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        self.processes: list[subprocess.Popen[str]] = []

    def start(
        self, *options: str, duration: str = "2s", target: str | None = None, more: str = "", text: str = WORKLOAD, **environment: str
    ) -> subprocess.Popen[str]:
        """The command `run`."""
        workload = self.directory / "workload.yml"
        workload.write_text(text.format(target=target or f"file://{self.directory}/target/", duration=duration, more=more))
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "sai3ssh.cli", "run", str(workload), "-i", str(self.inventory), "--results-dir", str(self.results)),
                *options,
            ],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    @property
    def run(self) -> Path:
        """The only run directory."""
        (run,) = self.results.iterdir()
        return run

    def events(self, name: str) -> list[dict[str, Any]]:
        """The logged events of a name so far."""
        logs = list(self.results.glob("*/events.ndjson"))
        lines = logs[0].read_text().splitlines() if logs else []
        return [event for line in lines if line.endswith("}") and (event := json.loads(line))["event"] == name]

    def wait_for(self, name: str, /, **fields: Any) -> None:
        """Returns when such an event has been logged."""
        deadline = time.monotonic() + 60.0
        while not any(all(event.get(key) == value for key, value in fields.items()) for event in self.events(name)):
            assert time.monotonic() < deadline, f"no event {name} {fields}"
            assert any(process.poll() is None for process in self.processes), self.processes[-1].communicate()
            time.sleep(0.02)

    def pids(self, verb: str, agent: str = "") -> list[int]:
        """The agents' processes of a verb that belong to this directory."""
        return pids(self.directory / agent, verb)

    def left_on_hosts(self) -> list[str]:
        """The runs that the agents still have."""
        return [str(path.relative_to(self.directory)) for name in AGENTS for path in (self.directory / name).glob("runs/*/*")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    (tmp_path / "target").mkdir()
    yield found
    for process in found.processes:
        process.kill()
        process.communicate()
    end_agents(tmp_path)


def verdict(run: Path) -> str:
    found: str = json.loads((run / "results.json").read_text())["verdict"]
    return found


def test_a_run_is_complete_and_its_mirrors_are_the_journals(bench: Bench) -> None:
    out, err = bench.start().communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    assert err == ""
    assert "verdict COMPLETE" in out
    assert verdict(bench.run) == "COMPLETE"
    assert f"report: {bench.run}/report.html\n" in out
    assert "<title>COMPLETE · local · sai3ssh</title>" in (bench.run / "report.html").read_text()
    for name in AGENTS:
        journal = (bench.directory / name / "runs" / bench.run.name / name / "journal.ndjson").read_bytes()
        assert (bench.run / "agents" / name / "journal.ndjson").read_bytes() == journal
    log = [json.loads(line) for line in (bench.run / "events.ndjson").read_text().splitlines()]
    for stage in range(3):
        steps = [event["event"] for event in log if event.get("stage") == stage]
        assert steps == ["armed_round", "commit", "stage_started", "stage_ended"]
    assert log[-1]["event"] == "run_ended"
    assert not bench.pids("supervise")
    assert not list((bench.directory / "target").rglob("*.dat"))


ON_S3 = """
name: s3
target: s3://{bucket}/run/
s3: {{endpoint_url: "{url}", checksum: crc32, expect_continue: 100KiB}}
concurrency: 4
workers: 1
verify_reads: true
distributed: {{start_delay: 500ms}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 300, size_spec: 1KiB}}
workload:
  - {{op: get, path: data/, weight: 4}}
  - {{op: copy, path: data/, weight: 2}}
  - {{op: put, path: new/, weight: 2, object_size: 300KiB}}
  - {{op: list, path: data/, weight: 1, delimiter: /}}
  - {{op: delete, path: data/, weight: 1, delete_batch: 7}}
stages:
  - {{name: prepare, type: prepare}}
  - {{name: mix, type: execute, duration: 1s}}
  - {{name: cleanup, type: cleanup, delete_batch: 50}}
"""


def test_every_kind_of_operation_on_a_real_server_leaves_nothing(bench: Bench, rclone: Rclone) -> None:
    bucket = rclone.bucket()
    keys = {"AWS_ACCESS_KEY_ID": rclone.access_key, "AWS_SECRET_ACCESS_KEY": rclone.secret_key}
    text = ON_S3.format(bucket=bucket, url=rclone.endpoint_url).replace("{", "{{").replace("}", "}}")
    out, err = bench.start(text=text, **keys).communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    _, mix, cleanup = json.loads((bench.run / "results.json").read_text())["stages"]
    assert {op: figures["errors"] for op, figures in mix["operations"].items()} == {
        op: {} for op in ("get", "put", "list", "delete", "copy")
    }
    made, gone = (mix["operations"][op] for op in ("copy", "delete"))
    assert made["bytes"] == 1024 * made["ops"]
    # The last batch of each of the two workers may have had fewer.
    assert gone["ops"] / 7 <= gone["requests"] <= gone["ops"] / 7 + 2
    (table,) = bench.run.glob("*_mix_results.tsv")
    (meta,) = [row.split("\t") for row in table.read_text().splitlines() if row.startswith("META\tALL")]
    assert int(meta[-1]) == made["ops"] + gone["ops"] + mix["operations"]["list"]["ops"]
    removed = cleanup["operations"]["delete"]
    assert removed["ops"] == 600 - gone["ops"] + made["ops"] + mix["operations"]["put"]["ops"]
    assert removed["ops"] / 50 <= removed["requests"] < removed["ops"] / 5
    left = rclone.client().list_objects_v2(Bucket=bucket).get("Contents", [])
    # rclone may answer 500 to a probe that it stores, when another makes the same directory.
    assert [entry["Key"] for entry in left if ".sai3ssh-probe-" not in entry["Key"]] == []


def test_a_file_of_sai3_bench_runs_whole_on_files(bench: Bench) -> None:
    file = Path(__file__).parent.parent / "unit" / "data" / "sai3bench" / "small-files.yml"
    text = file.read_text().replace("{", "{{").replace("}", "}}")
    places = {"TARGET": f"file://{bench.directory}/target/", "AGENT_1": AGENTS[0], "AGENT_2": AGENTS[1], "SECONDS_OF_LOAD": "1"}
    out, err = bench.start(text=text, **places).communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    assert all(line.startswith(("notice: line ", "fetching the op-logs")) for line in err.splitlines()), err
    preload, load, check, remove = json.loads((bench.run / "results.json").read_text())["stages"]
    assert [stage["name"] for stage in (preload, load, check, remove)] == ["preload", "load", "check", "remove"]
    # 10 files in each of 2 + 4 directories, for those that are read and for those that are deleted.
    assert preload["operations"]["put"]["ops"] == 120
    assert {op: figures["errors"] for op, figures in load["operations"].items()} == {
        op: {} for op in ("get", "put", "stat", "list", "delete", "mkdir", "rmdir")
    }
    assert load["operations"]["put"]["bytes"] == 2000 * load["operations"]["put"]["ops"]
    assert check["operations"]["get"]["ops"] == 120 - load["operations"]["delete"]["ops"]
    assert sorted(path.name for path in (bench.directory / "target").rglob("*")) == ["data", "made", "new"]
    assert {path.parent.name for path in bench.run.glob("agents/*/oplog.tsv.zst")} == set(AGENTS)


STEADY = "steady: {window: 5s, slope: 30%, spread: 50%, min_duration: 5s}"


def test_a_stage_that_is_steady_ends_before_its_duration_on_all_agents_at_once(bench: Bench) -> None:
    paced = WORKLOAD.replace("iops: 200", "iops: 200, distribution: deterministic")
    out, err = bench.start(duration="300s", more=STEADY, text=paced).communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    (decided,) = bench.events("steady")
    content = json.loads((bench.run / "results.json").read_text())
    assert (content["verdict"], content["coverage"]) == ("COMPLETE", 1.0)
    seconds = decided["duration_ns"] / 1e9
    assert 7.0 <= seconds < 120.0
    assert [stage["seconds"] for stage in content["stages"]][1] == seconds
    assert {part["seconds"] for part in content["stages"][1]["agents"].values()} == {seconds}
    # Rates are over the time that it really lasted.
    assert content["stages"][1]["operations"]["get"]["ops_per_s"] == pytest.approx(400.0, rel=0.1)
    reason = content["reasons"][-1]
    assert reason.startswith(f"read: steady after {decided['figures']['after_s']} s (slope ")
    assert reason.endswith(" % over 5 s)")
    assert reason in (bench.run / "STATUS.txt").read_text()
    assert reason in (bench.run / "02_read_results.tsv").read_text()
    assert f"{reason}; it ends on all agents {seconds:.0f} s after its start" in out
    assert reason in out.partition("verdict COMPLETE")[2]
    for name in AGENTS:
        records = [json.loads(line) for line in (bench.run / "agents" / name / "journal.ndjson").read_text().splitlines()]
        (ending,) = [record for record in records if record["kind"] == "ending"]
        assert ending["lasts_ns"] == ending["duration_ns"] == decided["duration_ns"]
        (end,) = [record for record in records if record["kind"] == "stage_end" and record["name"] == "read"]
        assert end["end_clock_ns"] - end["start_clock_ns"] == decided["duration_ns"]


def test_a_later_run_finds_what_of_an_earlier_ones_objects_is_gone_or_altered(bench: Bench) -> None:
    text = WORKLOAD.partition("stages:")[0].replace("size_spec: 1KiB", "size_spec: 1KiB, dedup_factor: 2, compress_factor: 2")
    out, err = bench.start(text=text + "stages: [{{name: prepare, type: prepare}}]").communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    names = sorted(path.name for path in (bench.directory / "target" / "data").iterdir())
    (bench.directory / "target" / "data" / names[3]).unlink()
    (bench.directory / "target" / "data" / names[70]).write_bytes(bytes(1024))
    bench.results = bench.directory / "later"
    out, err = bench.start(text=text + "stages: [{{name: check, type: verify}}]").communicate(timeout=120)
    assert bench.processes[-1].returncode == 3, out + err
    assert "check: 2 objects cannot be read back as written (1 not_found, 1 verify), such as file://" in out
    found = json.loads((bench.run / "results.json").read_text())["stages"][0]
    listed = [wrong for agent in found["agents"].values() for wrong in agent["unreadable"]["objects"]]
    assert sorted((one["object"].rpartition("/")[2], one["error"]) for one in listed) == [(names[3], "not_found"), (names[70], "verify")]
    assert (found["unreadable"], found["operations"]["get"]["ops"]) == (2, 98)
    assert len(list((bench.directory / "target" / "data").iterdir())) == 99


def test_json_is_an_object_a_line(bench: Bench) -> None:
    out, err = bench.start("--json").communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events[:2]] == ["preflight", "run_created"]
    assert events[-1]["event"] == "run_ended"
    assert events[-1]["exit_code"] == 0


def test_links_that_are_cut_again_and_again_cost_nothing(bench: Bench) -> None:
    process = bench.start(duration="6s")
    bench.wait_for("stage_started", name="read")
    for _ in range(3):
        wait_until(lambda: bench.pids("follow"), "a link")
        for pid in bench.pids("follow"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.7)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert verdict(bench.run) == "COMPLETE"
    assert [event for event in bench.events("link_down") if event["level"] == "warning"]
    assert [event for event in bench.events("link_up") if event["resumed_offset"] > 0]
    for name in AGENTS:
        records = [json.loads(line) for line in (bench.run / "agents" / name / "journal.ndjson").read_text().splitlines()]
        seconds = [record["second"] for record in records if record["kind"] == "sec" and record["stage"] == 1]
        assert seconds[:6] == list(range(6))


def test_an_agent_whose_supervisor_is_killed_goes_on_and_the_lost_time_is_told(bench: Bench) -> None:
    process = bench.start(duration="8s")
    bench.wait_for("stage_started", name="read")
    time.sleep(2.0)
    (victim,) = bench.pids("supervise", "left")
    os.killpg(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, out + err
    assert "Traceback" not in out + err
    results = json.loads((bench.run / "results.json").read_text())
    assert results["verdict"] == "PARTIAL"
    assert results["reasons"] == [f"coverage {100 * results['coverage']:.2f} % of the planned agent-seconds (at least 100 % is needed)"]
    assert 0.4 < results["coverage"] < 1.0
    assert {lost["cause"] for lost in results["lost_intervals_s"]["left"]} == {"the supervisor died"}
    assert "right" not in results["lost_intervals_s"]
    assert not bench.pids("supervise")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_once_everything_is_stopped_and_collected(bench: Bench, number: signal.Signals) -> None:
    process = bench.start(duration="60s")
    bench.wait_for("stage_started", name="read")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not bench.pids("supervise")
    assert verdict(bench.run) == "PARTIAL"
    assert "Traceback" not in out + err
    for name in AGENTS:
        last = json.loads((bench.run / "agents" / name / "journal.ndjson").read_text().splitlines()[-1])
        assert (last["kind"], last["outcome"]) == ("final", "stopped")


def test_interrupted_twice_it_leaves_at_once_and_says_what_still_runs(bench: Bench) -> None:
    process = bench.start(duration="60s")
    bench.wait_for("stage_started", name="read")
    (frozen,) = bench.pids("supervise", "left")
    os.kill(frozen, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    bench.wait_for("stop_requested")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 15.0
    assert process.returncode == 130, out + err
    assert "left: RUNNING" in err
    assert bench.run.name in err
    assert f"sai3ssh stop {bench.run.name}" in err


def test_interrupted_before_the_start_nothing_stays_on_the_hosts(bench: Bench) -> None:
    process = bench.start()
    bench.wait_for("submitted")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert not bench.events("commit")
    assert bench.left_on_hosts() == []
    assert not bench.pids("supervise")


@pytest.mark.parametrize(("skip", "code"), [((), 5), (("--skip", "file"), 4)])
def test_a_target_that_refuses_is_named_and_leaves_nothing(bench: Bench, skip: tuple[str, ...], code: int) -> None:
    """By preflight before anything is created, and by the agents where that was not asked."""
    (bench.directory / "file").write_text("")
    out, err = bench.start(*skip, target=f"file://{bench.directory}/file/x/").communicate(timeout=60)
    assert bench.processes[-1].returncode == code, out + err
    assert "left: " in err or "right: " in err
    assert f"{bench.directory}/file" in err
    assert "Traceback" not in out + err
    assert bench.left_on_hosts() == []
    assert bench.results.exists() == bool(skip)


def test_what_preflight_skipped_and_warned_of_is_in_the_results(bench: Bench) -> None:
    out, err = bench.start("--skip", "host.nic", "--skip", "fleet").communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    assert out.startswith("preflight: 2 hosts, ")
    assert "preflight skipped: host.nic, fleet" in out
    results = json.loads((bench.run / "results.json").read_text())
    assert results["preflight"]["skipped"] == ["host.nic", "fleet"]
    report = json.loads((bench.run / "preflight.json").read_text())
    assert results["preflight"]["warnings"] == report["warnings"]
    assert [one["check"] for one in report["hosts"]["left"]["findings"] if one["level"] == "skipped"] == ["host.nic"]
    assert report["hosts"]["left"]["cpu_s"] > 0
    assert "# preflight skipped: host.nic, fleet" in (bench.run / "STATUS.txt").read_text()
    assert "preflight skipped" in (bench.run / "02_read_results.tsv").read_text()


def test_a_run_without_any_preflight_says_so(bench: Bench) -> None:
    out, err = bench.start("--skip", "all").communicate(timeout=120)
    assert bench.processes[-1].returncode == 0, out + err
    assert "preflight: 0 hosts, 0 checks" in out
    assert "preflight skipped: net, ssh, host, storage, file, fleet" in out


def test_an_agent_that_fails_preflight_is_left_out_where_that_is_allowed(bench: Bench) -> None:
    hosts = json.loads(bench.inventory.read_text())
    (bench.directory / "nothing").write_text("")
    hosts["all"]["hosts"]["left"]["sai3ssh_agent_state_dir"] = str(bench.directory / "nothing")
    bench.inventory.write_text(json.dumps(hosts))
    out, err = bench.start().communicate(timeout=120)
    assert bench.processes[-1].returncode == 5, out + err
    assert "preflight failed: left: host.disk" in err
    assert not bench.results.exists()
    out, err = bench.start("--start-with-available").communicate(timeout=120)
    assert bench.processes[-1].returncode in (0, 3), out + err
    assert "failure left: host.disk" in out
    assert [one for one in json.loads((bench.run / "results.json").read_text())["preflight"]["warnings"] if "left: host.disk" in one]


class Forbidden(BaseHTTPRequestHandler):
    """Answers 403 to whatever is asked, and repeats in its body what it was asked with."""

    def _answer(self) -> None:
        body = f"<Error><Code>AccessDenied</Code><Message>{self.headers}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_PUT = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def forbidden() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidden) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("skip", [(), ("--skip", "storage")])
def test_secrets_are_in_no_file_and_no_output(bench: Bench, forbidden: str, skip: tuple[str, ...]) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "never-to-be-seen-1234567890", "AWS_SESSION_TOKEN": "neither-is-this-0987654321"}
    more = f's3: {{endpoint_url: "{forbidden}"}}'
    process = bench.start("--json", *skip, target="s3://bucket/x/", more=more, AWS_ACCESS_KEY_ID="AKIDAKIDAKID", **secrets)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (4 if skip else 5), out + err
    assert "403" in err
    files = {path: path.read_bytes() for path in bench.directory.rglob("*") if path.is_file()}
    assert any(path.name == "events.ndjson" for path in files) == bool(skip)
    assert any(path.name == "journal.ndjson" for path in files) == bool(skip)
    assert out
    for secret in secrets.values():
        assert secret not in out + err
        assert not [path for path, content in files.items() if secret.encode() in content]
