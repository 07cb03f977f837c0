"""Real S3 servers for tests: Ceph RADOS Gateway and rclone, each in memory, each with a log of every request."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from tests.netns import inside

CONFIG = """[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{mon_port}]
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data = {dir}/mon/a
mon data avail crit = 1
run dir = {dir}/run
admin socket = {dir}/run/$name.$pid.asok
log file = {dir}/log/$name.log
pid file =
osd data = {dir}/osd/0
osd objectstore = memstore
memstore device bytes = 6442450944
memstore page set = false
ms bind ipv6 = false
ms bind msgr1 = true
ms bind msgr2 = false
mon osd full ratio = .99
osd heartbeat grace = 120
[client.rgw]
rgw frontends = beast endpoint={address}:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw enable usage log = false
rgw dynamic resharding = false
debug rgw = 1/1
debug ms = 0/0
"""


def free_port(address: str = "127.0.0.1", netns: str | None = None) -> int:
    """A port that is free now; in another namespace one that is unlikely to be taken there."""
    if netns is not None:
        return 7480
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class Server:
    """A server and its key pair."""

    def __init__(self, directory: Path, address: str = "127.0.0.1", netns: str | None = None) -> None:
        self.directory = directory
        self.address = address
        self.port = free_port(address, netns)
        self.access_key = "AK" + secrets.token_hex(8).upper()
        self.secret_key = secrets.token_hex(20)
        self._prefix = ["ip", "netns", "exec", netns] if netns else []
        self._netns = netns
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint_url(self) -> str:
        """Where it listens."""
        return f"http://{self.address}:{self.port}"

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts and waits until it serves."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends all its processes."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        self._processes.clear()

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Connections that this thread opens meanwhile begin where the server is."""
        return inside(self._netns)

    def client(self) -> Any:
        """A boto3 client, for use within `inside`."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"test-{uuid.uuid4().hex[:16]}"
        self.client().create_bucket(Bucket=name)
        return name

    def _spawn(self, argv: list[str], name: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                [*self._prefix, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        self._processes.append(process)
        return process

    def _wait(self, ready: Any, what: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            dead = [process.args for process in self._processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(f"{path}: {path.read_text(errors='replace')[-500:]}" for path in self.directory.rglob("*.out"))
                raise RuntimeError(f"{what} did not come within {timeout_s:.0f} s (ended: {dead})\n{logs}")
            time.sleep(0.05)

    def _accepts(self, port: int) -> bool:
        code = f"import socket; socket.create_connection(({self.address!r}, {port}), 1).close()"
        return subprocess.run([*self._prefix, sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


class RadosGw(Server):
    """Ceph RADOS Gateway over one monitor and one OSD in memory. Verifies signatures and payload hashes; about 15 s to start."""

    @property
    def access_log(self) -> Path:
        """A line a request, written at once."""
        return self.directory / "log" / "client.rgw.log"

    def start(self) -> None:
        root = self.directory
        for name in ("mon", "osd/0", "run", "log"):
            (root / name).mkdir(parents=True, exist_ok=True)
        mon_port = free_port("127.0.0.1", None) if not self._netns else 6789
        fsid = str(uuid.uuid4())
        config = root / "ceph.conf"
        config.write_text(CONFIG.format(fsid=fsid, mon_port=mon_port, dir=root, address=self.address, port=self.port))
        self._environment = {"CEPH_CONF": str(config)}
        monmap = str(root / "monmap")
        self._call(["monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon_port}]", monmap])
        self._call(["ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap])
        self._spawn(["ceph-mon", "-i", "a", "-f"], "mon", **self._environment)
        self._wait(lambda: self._answers(["ceph", "-s"]), "the monitor")
        osd = str(uuid.uuid4())
        self._call(["ceph", "osd", "new", osd, "0"])
        self._call(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd])
        # An OSD that asks the monitor before it has the monitor's map is told 'wrong fsid' and ends; as systemd would, start it again.
        self._spawn(["bash", "-c", "until ceph-osd -i 0 -f; do sleep 0.2; done"], "osd", **self._environment)
        self._wait(lambda: "1 up" in self._answers(["ceph", "osd", "stat"]), "the OSD")
        self._call(["ceph", "osd", "crush", "add-bucket", "h", "host"])
        self.up()
        self.add_user("test", self.access_key, self.secret_key)

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """A user who owns nothing yet."""
        user = ["radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}"]
        self._call([*user, f"--access-key={access_key}", f"--secret-key={secret_key}"])

    def up(self) -> None:
        """Starts the gateway; what it holds is elsewhere."""
        self._gateway = self._spawn(["radosgw", "-n", "client.rgw", "-f"], "rgw", **self._environment)
        self._wait(lambda: self._accepts(self.port), "the gateway")

    def down(self) -> None:
        """Kills the gateway."""
        os.killpg(self._gateway.pid, signal.SIGKILL)
        self._gateway.wait(10)
        self._processes.remove(self._gateway)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.directory / "osd", ignore_errors=True)

    def _call(self, argv: list[str]) -> str:
        for _ in range(20):
            done = subprocess.run(
                [*self._prefix, *argv], env={**os.environ, **self._environment}, capture_output=True, text=True, timeout=60, check=False
            )
            if "problem getting command descriptions" not in done.stderr:
                break
            time.sleep(0.2)  # a monitor of a busy machine answers before it knows its own commands
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr[-800:]}")
        return done.stdout

    def _answers(self, argv: list[str]) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*self._prefix, *argv], env={**os.environ, **self._environment}, capture_output=True, text=True, timeout=5, check=False
            )
            return done.stdout if done.returncode == 0 else ""
        return ""


class Rclone(Server):
    """rclone serve s3 on a directory: starts in a moment, verifies signatures but not payload hashes."""

    options: tuple[str, ...] = ()
    """Further ones of the command."""

    def start(self) -> None:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        rclone = str(Path(sys.executable).parent / "rclone")
        argv = [rclone, "serve", "s3", "--addr", f"{self.address}:{self.port}", *self.options, str(data)]
        self._spawn(argv, "rclone", RCLONE_CONFIG=os.devnull, **self._pair())
        self._wait(lambda: self._accepts(self.port), "rclone")

    def _pair(self) -> dict[str, str]:
        """The variable that says whom it serves."""
        # It is a list in CSV: without the quotes the pair would be two entries.
        return {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}
