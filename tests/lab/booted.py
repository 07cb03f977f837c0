"""Hosts that are run by systemd, beside the light ones on the lab's network: what roles and units are tested on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.lab.lab import Lab, LabHost

CGROUPS = Path("/sys/fs/cgroup")
USER = "bench"
"""Who logs in: nobody special, who may use sudo."""

SSHD = "HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM yes\n"
ROOT = r"""
mount --make-rprivate /
mount -t overlay overlay -o lowerdir={image},upperdir={dir}/upper,workdir={dir}/work {dir}/root
{join}
exec systemd-nspawn -q -D {dir}/root -M {name} --hostname={name} --register=no --keep-unit --network-namespace-path=/run/netns/{netns} \
  --console=pipe --kill-signal=SIGRTMIN+3 --boot
"""


class BootedHost(LabHost):
    """One host with systemd as its init, in a container with cgroups and a boot id of its own."""

    def prepare(self) -> None:
        super().prepare()
        upper = self.directory / "upper"
        (upper / "etc/ssh/sshd_config.d/lab.conf").write_text(SSHD)
        (upper / "etc/machine-id").write_text(f"{self.number:032x}\n")
        (upper / "etc/sudoers.d").mkdir(parents=True)
        (upper / "etc/sudoers.d/lab").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        (upper / "etc/sudoers.d/lab").chmod(0o440)

    def add_user(self) -> None:
        """Makes USER, who logs in with the lab's key."""
        self.exec(
            f"useradd -m -s /bin/bash {USER} && cp -r /root/.ssh /home/{USER}/.ssh && chown -R {USER}:{USER} /home/{USER}/.ssh && "
            "until systemctl is-system-running | grep -qE 'running|degraded'; do sleep 0.1; done"
        )

    def _cgroups(self) -> list[Path]:
        # One hierarchy, or systemd's and others beside it.
        places = [CGROUPS / name for name in ("systemd", "unified", "freezer") if (CGROUPS / name).is_dir()] or [CGROUPS]
        return [place / self.netns for place in places]

    def boot(self) -> None:
        join = []
        for group in self._cgroups():
            group.mkdir(exist_ok=True)
            join.append(f"echo $$ > {group}/cgroup.procs")
        script = ROOT.format(image=self.lab.image, dir=self.directory, name=self.name, netns=self.netns, join="\n".join(join))
        with (self.directory / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "bash", "-ec", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_LOCK": "0", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
            )

    @property
    def pid1(self) -> int:
        assert self._process is not None
        todo = [self._process.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                inner = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if len(inner) > 1 and inner[-1] == "1":
                    return pid
                todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        raise RuntimeError(f"{self.name}: no init: {(self.directory / 'console.log').read_text()[-500:]}")

    def power_off(self) -> None:
        """An orderly shutdown, as by the power button; returns when the host is off."""
        assert self._process is not None
        os.kill(self.pid1, signal.SIGRTMIN + 4)
        self._process.wait(60)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, RuntimeError):
                os.kill(self.pid1, signal.SIGKILL)
            self._process.wait(10)
        for top in self._cgroups():
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)  # noqa: PTH106  (os.walk gives strings)


class Fleet:
    """Some booted hosts, for who expects a Lab."""

    def __init__(self, lab: Lab, directory: Path, count: int) -> None:
        self.lab = lab
        self.key = lab.key
        self.known_hosts = directory / "known_hosts"
        self.hosts = [BootedHost(lab, number) for number in range(21, 21 + count)]
        self.popen = lab.popen

    @contextlib.contextmanager
    def up(self) -> Iterator[Fleet]:
        """All hosts, ready."""
        try:
            for host in self.hosts:
                self.lab.plug(host.netns, host.port, host.address, 10 + host.number)
                host.prepare()
                host.boot()
            for host in self.hosts:
                host.wait()
                host.add_user()
            yield self
        finally:
            for host in self.hosts:
                host.stop()

    def inventory(self, path: Path, **more: dict[str, Any]) -> None:
        """Writes an Ansible inventory of the hosts; `more` adds variables to hosts by name."""
        common = {
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={self.known_hosts} -o IdentityAgent=none",
        }
        hosts = {host.name: {"ansible_host": host.address, **more.get(host.name, {})} for host in self.hosts}
        path.write_text(yaml.safe_dump({"all": {"children": {"clients": {"hosts": hosts}}, "vars": common}}, sort_keys=False))
