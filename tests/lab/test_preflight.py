"""Preflight on eight hosts, each broken in one way: what is broken is named, the healthy one stays green, and nothing else is blamed."""

from __future__ import annotations

import contextlib
import datetime
import json
import secrets
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.lab import broken
from tests.lab.lab import STORAGE, Lab, LabHost, sh
from tests.lab.operator import Operator
from tests.servers import Rclone

pytestmark = pytest.mark.lab

OF_THE_LAB = {"host.clock_sync", "host.cpu"}
"""What hosts that share one machine cannot help."""
BUCKET = "bench"
CA = "/root/lab-ca.pem"
WORKLOAD = f"""
name: preflight
target: s3://{BUCKET}/run/
duration: 2s
concurrency: 2
workers: 1
s3: {{endpoint_url: "https://{broken.NAME}:7480", ca_file: {CA}}}
prepare:
  ensure_objects:
    - {{base_uri: data/, count: 80, size_spec: 4KiB}}
  cleanup: true
workload:
  - {{op: get, path: data/, weight: 60}}
  - {{op: put, path: new/, weight: 30, size_spec: 4KiB}}
  - {{op: stat, path: data/, weight: 10}}
"""


class Case(NamedTuple):
    """How a host is broken, and what is to be said of it."""

    fault: Callable[[Operator, LabHost], contextlib.AbstractContextManager[None]]
    check: str
    level: str
    words: tuple[str, ...]


def preflight(operator: Operator, *arguments: str, code: int = 5) -> dict[str, list[dict[str, Any]]]:
    """The findings by host."""
    process = operator.command("preflight", *arguments, "-i", str(operator.inventory), "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return broken.findings(out)


def judge(found: dict[str, list[dict[str, Any]]], expected: dict[str, Case]) -> None:
    """Exactly what is broken is named, with what was expected and what to do."""
    bad = {
        host: [one for one in findings if one["level"] in ("failure", "warning") and one["check"] not in OF_THE_LAB]
        for host, findings in found.items()
        if host
    }
    named = {host: {(one["check"], one["level"]) for one in findings} for host, findings in bad.items()}
    assert named == {host: {(expected[host].check, expected[host].level)} if host in expected else set() for host in named}, bad
    for host, case in expected.items():
        for one in bad[host]:
            assert all(one[key] for key in ("found", "expected", "remedy")), one
        text = " ".join(f"{one['subject']} {one['found']} {one['remedy']}" for one in bad[host])
        missing = [word for word in case.words if word not in text]
        assert not missing, f"{host}: {missing} not in: {text}"


def examine(operator: Operator, cases: list[Case], *arguments: str, code: int = 5) -> None:
    """The first host is healthy, each further one is broken in its way."""
    hosts = operator.lab.hosts
    expected = {host.name: case for host, case in zip(hosts[1:], cases, strict=False)}
    with contextlib.ExitStack() as faults:
        for host, case in zip(hosts[1:], cases, strict=False):
            faults.enter_context(case.fault(operator, host))
        judge(preflight(operator, *arguments, code=code), expected)


def test_the_way_to_the_hosts(operator: Operator) -> None:
    examine(
        operator,
        [
            Case(broken.sshd_stopped, "ssh.port", "failure", ("22", "refused")),
            Case(broken.ssh_filtered, "ssh.port", "failure", ("22",)),
            Case(broken.lossy, "net.ping", "failure", ("lost", "ICMP")),
            Case(broken.not_authorized, "ssh.auth", "failure", ("root",)),
            Case(broken.host_key_changed, "ssh.host_key", "failure", ("known_hosts-h6",)),
            Case(broken.host_key_unknown, "ssh.host_key", "failure", ("known_hosts-h7",)),
            Case(broken.name_unknown, "net.dns", "failure", ("no-such-host.invalid",)),
        ],
    )


def test_the_hosts_themselves(operator: Operator, tmp_path: Path) -> None:
    examine(
        operator,
        [
            Case(broken.clock_ahead, "ssh.clock", "warning", ("3.0", "ahead")),
            Case(broken.disk_full, "host.disk", "failure", ("/mnt/spool/state",)),
            Case(broken.few_open_files, "host.open_files", "failure", ("256", "limits.d")),
            Case(broken.old_python, "host.python", "failure", ("3.8",)),
            Case(broken.no_python, "host.python", "failure", ("/opt/python/bin/python3",)),
            Case(broken.other_agent, "host.agent", "failure", ("other-run", "in progress")),
            Case(broken.disk_read_only, "host.disk", "failure", ("/mnt/spool/state",)),
        ],
    )


def test_ports_and_what_else_is_going_on(operator: Operator) -> None:
    hosts = operator.lab.hosts
    with broken.listening([host for host in hosts if host.name != "h2"], 7761):
        examine(
            operator,
            [
                Case(lambda operator, host: contextlib.nullcontext(), "net.ports", "failure", ("7761", "refused", "Start the service")),
                Case(broken.port_filtered, "net.ports", "failure", ("7761", "firewall")),
                Case(broken.peers_cut, "host.reach", "failure", ("22",)),
                Case(broken.run_in_progress, "host.runs", "warning", ("another-run",)),
                Case(broken.busy, "host.processes", "warning", ("hog",)),
                Case(broken.no_shared_memory, "host.shm", "failure", ("/dev/shm",)),
            ],
            "--ports",
            "7761",
            "--matrix",
        )


# --- storage -----------------------------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of the lab."""

    def __init__(self, directory: Path, name: str = "lab CA") -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = directory / "ca.pem"
        self.certificate = self._sign(name, self._key, 30, ca=True)
        self.pem.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, days: int, *, ca: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self._name)])
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=60)).not_valid_after(now + datetime.timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, days: int) -> tuple[str, ...]:
        """Options of a server that shows a certificate for a name, valid for so many more days."""
        key = ec.generate_private_key(ec.SECP256R1())
        place = self._directory / secrets.token_hex(4)
        certificate = self._sign(name, key, days)
        place.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        place.with_suffix(".key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
        )
        return ("--cert", f"{place}.pem", "--key", f"{place}.key")


KEEP = "keep"


class Shop:
    """S3 servers on addresses of their own, all on one port and for one key pair; each host finds the one that it is to find."""

    def __init__(self, lab: Lab, directory: Path, stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._next = 200
        self.authority = Authority(directory)
        good = self.server(*self.authority.issue(broken.NAME, 300))
        self.access_key, self.secret_key, self.address = good.access_key, good.secret_key, good.address
        self.good = good
        for host in lab.hosts:
            broken.resolve(host, self.address)
            Path(f"/proc/{host.pid1}/root{CA}").write_bytes(self.authority.pem.read_bytes())

    def server(self, *options: str, bucket: str = BUCKET, secret_key: str = "") -> Rclone:
        """One more."""
        self._next += 1
        address = f"10.88.0.{self._next}"
        sh(f"ip -n {STORAGE} addr add {address}/24 dev eth0")
        self._stack.callback(sh, f"ip -n {STORAGE} addr del {address}/24 dev eth0")
        place = self._directory / address
        # rclone removes a directory that has become empty, at times while another client has just put something there.
        for name in ("data", "new"):
            keep = place / "data" / bucket / "run" / name / KEEP
            keep.parent.mkdir(parents=True)
            keep.touch()
        server = Rclone(place, address, netns=STORAGE)
        server.options = options
        if self._next > 201:
            server.access_key, server.secret_key = self.access_key, secret_key or self.secret_key
        self._stack.enter_context(server)
        return server

    def instead(self, *options: str, **changes: str) -> Callable[[Operator, LabHost], contextlib.AbstractContextManager[None]]:
        """A fault: the host finds another server than the others."""

        @contextlib.contextmanager
        def fault(operator: Operator, host: LabHost) -> Iterator[None]:
            server = self.server(*(options or self.authority.issue(broken.NAME, 300)), **changes)
            broken.resolve(host, server.address)
            try:
                yield
            finally:
                broken.resolve(host, self.address)

        return fault

    def arguments(self, operator: Operator) -> list[str]:
        """The workload of these servers."""
        operator.environment = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        path = operator.directory / "preflight.yml"
        path.write_text(WORKLOAD)
        return [str(path)]


@pytest.fixture
def shop(lab: Lab, tmp_path: Path) -> Iterator[Shop]:
    with contextlib.ExitStack() as stack:
        yield Shop(lab, tmp_path, stack)
        for host in lab.hosts:
            broken.resolve(host, None)


def test_the_way_from_the_hosts_to_the_storage(operator: Operator, shop: Shop) -> None:
    other = Authority(operator.directory, "another CA")
    examine(
        operator,
        [
            Case(broken.storage_unknown, "storage.dns", "failure", (broken.NAME,)),
            Case(broken.storage_refuses, "storage.tcp", "failure", ("7480", "refused")),
            Case(broken.storage_filtered, "storage.tcp", "failure", ("7480",)),
            Case(shop.instead(*shop.authority.issue(broken.NAME, -3)), "storage.tls", "failure", ("expired",)),
            Case(shop.instead(*shop.authority.issue("other.lab.test", 300)), "storage.tls", "failure", (broken.NAME,)),
            Case(shop.instead(*other.issue(broken.NAME, 300)), "storage.tls", "failure", ("another CA", "ca_file")),
            Case(shop.instead(*shop.authority.issue(broken.NAME, 3)), "storage.tls", "warning", ("days",)),
        ],
        *shop.arguments(operator),
    )


def test_the_bucket_and_what_may_be_done_in_it(operator: Operator, shop: Shop) -> None:
    good = shop.authority.issue(broken.NAME, 300)
    examine(
        operator,
        [
            Case(shop.instead(bucket="another"), "storage.list", "failure", (BUCKET, "NoSuchBucket")),
            Case(shop.instead(secret_key="another"), "storage.list", "failure", ("SignatureDoesNotMatch",)),
            Case(shop.instead(*good, "--read-only"), "storage.put", "failure", (BUCKET,)),
        ],
        *shop.arguments(operator),
    )
    # What was written to find out is gone.
    assert [path.name for path in (shop.good.directory / "data").rglob("*") if path.is_file()] == [KEEP] * 2


def test_what_is_found_is_told_to_people_and_to_machines(operator: Operator, shop: Shop) -> None:
    """Table, JUnit and a run that does not begin; skipped, it begins, and its results say so."""
    inventory, arguments = str(operator.inventory), shop.arguments(operator)
    h3 = operator.lab.hosts[2]
    with broken.storage_refuses(operator, h3):
        junit = operator.directory / "preflight.xml"
        process = operator.command("preflight", *arguments, "-i", inventory, "--junit", str(junit))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 5, out + err
        for word in ("h3", "storage.tcp", "refused"):
            assert word in out, out
        suites = ET.parse(junit).getroot()
        failed = [(case.get("classname"), case.get("name")) for case in suites.iter("testcase") if case.find("failure") is not None]
        assert len(failed) == 1, failed
        assert "h3" in str(failed)
        assert "storage.tcp" in str(failed)
        done = operator.run(WORKLOAD)
        assert done.returncode == 5, done.stdout + done.stderr
        assert "h3" in done.stdout + done.stderr
        assert not operator.results.exists() or not list(operator.results.iterdir())
        assert operator.processes() == {}
    done = operator.run(WORKLOAD, "--skip", "storage")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((operator.last_run() / "results.json").read_text())
    assert results["preflight"]["skipped"] == ["storage"]
    assert "storage" in (operator.last_run() / "STATUS.txt").read_text()
