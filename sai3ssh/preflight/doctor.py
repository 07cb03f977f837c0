"""The operator's own machine: what sai3ssh, ssh and Ansible need here."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from packaging.requirements import Requirement

from .. import __version__
from ..agent.preflight import clock
from ..config.units import size_text
from ..errors import Sai3sshError
from ..model import Host
from ..transport import SshTransport, transport_for
from .report import Notes, Report
from .stacks import compare_stacks

MACHINE = "this machine"
MIN_OPENSSH = (7, 3)
"""The first with ProxyJump, which is how jump hosts are reached."""
SHOWN = ("paramiko", "ansible-core", "ansible-runner", "boto3", "pandas")
FILES_PER_HOST, FILES = 8, 64
LOW_BYTES, LITTLE_BYTES = 64 << 20, 1 << 30
_TIMEOUT_S = 10.0


def doctor(hosts: Sequence[Host], results_dir: Path) -> Report:
    """The findings about this machine and, of hosts that are reached by SSH, whether both SSH stacks agree."""
    began = time.monotonic()
    notes = Notes(())
    _versions(notes)
    _openssh(notes)
    _ssh_config(notes)
    public = _agent(notes)
    _keys(notes, hosts, public)
    _permissions(notes)
    _locale(notes)
    _open_files(notes, hosts)
    _clock(notes)
    _disk(notes, results_dir)
    return Report({MACHINE: notes.found, **compare_stacks(hosts)}, seconds=time.monotonic() - began)


def _versions(notes: Notes) -> None:
    notes.ok("doctor.python", f"{sys.version.split()[0]} ({sys.executable})")
    wrong, shown = [], [f"sai3ssh {__version__}"]
    for text in importlib.metadata.requires("sai3ssh") or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing (needs {need.specifier})")
            continue
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} is {found} (needs {need.specifier})")
        if need.name in SHOWN:
            shown.append(f"{need.name} {found}")
    if wrong:
        remedy = "Install sai3ssh into a virtual environment of its own: pip install sai3ssh"
        notes.fail("doctor.packages", "; ".join(wrong), "the versions that sai3ssh was made for", remedy)
    else:
        notes.ok("doctor.packages", ", ".join(shown))


def _run(*argv: str) -> subprocess.CompletedProcess[str] | None:
    """None when there is no such program, or it does not end."""
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _openssh(notes: Notes) -> None:
    done = _run("ssh", "-V")
    told = (done.stderr or done.stdout).strip() if done else ""
    version = re.match(r"OpenSSH_(\d+)\.(\d+)", told)
    if version is None:
        notes.fail("doctor.openssh", told or "there is no ssh command", "OpenSSH's client", "Install it (openssh-client)")
    elif (int(version[1]), int(version[2])) < MIN_OPENSSH:
        notes.fail("doctor.openssh", told, f"OpenSSH {MIN_OPENSSH[0]}.{MIN_OPENSSH[1]} or later", "Update openssh-client")
    else:
        notes.ok("doctor.openssh", told.partition(",")[0])


def _ssh_config(notes: Notes) -> None:
    done = _run("ssh", "-G", "localhost")
    if done is None:
        notes.leave(("doctor.ssh_config",), "cannot be done: there is no ssh")
    elif done.returncode:
        told = " ".join(done.stderr.split())
        notes.fail("doctor.ssh_config", told, "a configuration that ssh accepts", "Correct that line of ~/.ssh/config (or its permissions)")
    else:
        notes.ok("doctor.ssh_config", "ssh accepts its configuration")


def _agent(notes: Notes) -> set[str]:
    """The public keys in ssh-agent."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        notes.ok("doctor.agent", "no ssh-agent: keys come from files")
        return set()
    done = _run("ssh-add", "-L")
    if done is None or done.returncode > 1:
        told = " ".join((done.stderr if done else "").split()) or "no answer"
        remedy = "Start one (eval `ssh-agent`) and load keys with ssh-add, or unset SSH_AUTH_SOCK"
        notes.warn("doctor.agent", f"{os.environ['SSH_AUTH_SOCK']}: {told}", "an ssh-agent that answers", remedy)
        return set()
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    names = [line.split(maxsplit=2)[-1] for line in lines]
    notes.ok("doctor.agent", f"{len(lines)} keys: {', '.join(names)}" if lines else "ssh-agent answers and has no keys")
    return {line.split()[1] for line in lines if len(line.split()) > 1}


def _keys(notes: Notes, hosts: Sequence[Host], in_agent: set[str]) -> None:
    """Each private key that would be offered: OpenSSH refuses one that others can read, where we would take it."""
    named = {Path(host.key_file).expanduser() for host in hosts if host.key_file}
    paths = set(named)
    for host in hosts:
        transport = transport_for(host)
        if isinstance(transport, SshTransport):
            try:
                paths.update(transport.route()[-1].identity_files)
            except Sai3sshError:
                continue  # compare_stacks says so
    if not hosts:
        paths.update(path for path in Path("~/.ssh").expanduser().glob("id_*") if path.suffix != ".pub")
    for path in sorted(paths):
        if path.exists() or path in named:
            _key(notes, path, in_agent)


def _key(notes: Notes, path: Path, in_agent: set[str]) -> None:
    subject = str(path)
    try:
        found = path.stat()
        path.open("rb").close()
    except OSError as error:
        notes.fail("doctor.keys", f"{error.strerror}", "a private key", "Correct ansible_ssh_private_key_file", subject=subject)
        return
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        notes.fail(
            "doctor.keys", f"mode {mode:04o}: ssh ignores a key that others may read", "mode 0600", f"chmod 600 {path}", subject=subject
        )
        return
    done = _run("ssh-keygen", "-y", "-P", "", "-f", subject)
    if done is not None and done.returncode == 0:
        notes.ok("doctor.keys", f"{done.stdout.split()[0]}, mode {mode:04o}, no passphrase", subject=subject)
        return
    told = " ".join((done.stderr if done else "").split())
    public = path.with_name(path.name + ".pub")
    fields = public.read_text(encoding="utf-8", errors="replace").split() if public.is_file() else []
    if "passphrase" not in told:
        notes.fail(
            "doctor.keys", told or "ssh-keygen gives no answer", "a private key", "`ssh-keygen -y -f FILE` shows the same", subject=subject
        )
    elif len(fields) > 1 and fields[1] in in_agent:
        notes.ok("doctor.keys", f"locked, and loaded in ssh-agent, mode {mode:04o}", subject=subject)
    else:
        notes.warn(
            "doctor.keys", "locked with a passphrase, and not in ssh-agent", "a key that can be used", f"ssh-add {path}", subject=subject
        )


def _permissions(notes: Notes) -> None:
    """Who can write there can have us trust any host."""
    home = Path("~/.ssh").expanduser()
    for path in (home, home / "config", home / "known_hosts"):
        if not path.exists():
            continue
        found = path.stat()
        mode, owner = stat.S_IMODE(found.st_mode), found.st_uid
        if mode & 0o022 or owner not in (0, os.getuid()):
            text = f"mode {mode:04o}, owner {owner}: others can write to it"
            remedy = f"chmod go-w {path}" if mode & 0o022 else f"chown {os.getuid()} {path}"
            notes.fail("doctor.permissions", text, "writable by its owner alone", remedy, subject=str(path))
        elif not os.access(path, os.R_OK):
            notes.fail("doctor.permissions", "cannot be read", "readable by you", f"chmod u+r {path}", subject=str(path))
        else:
            notes.ok("doctor.permissions", f"mode {mode:04o}", subject=str(path))


def _locale(notes: Notes) -> None:
    done = _run(sys.executable, "-c", "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.nl_langinfo(locale.CODESET))")
    coding = done.stdout.strip() if done is not None and done.returncode == 0 else ""
    name = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "C"
    if coding.upper().replace("-", "") != "UTF8":
        what = f"locale {name} {'has the encoding ' + coding if coding else 'does not exist here'}"
        notes.fail("doctor.locale", f"{what}; Ansible does not start with it", "a UTF-8 locale", "export LC_ALL=C.UTF-8")
    else:
        notes.ok("doctor.locale", f"{name}, {locale.getpreferredencoding(False)}")


def _open_files(notes: Notes, hosts: Sequence[Host]) -> None:
    limit, need = resource.getrlimit(resource.RLIMIT_NOFILE)[0], FILES + FILES_PER_HOST * len(hosts)
    if limit != resource.RLIM_INFINITY and limit < need:
        notes.fail("doctor.open_files", f"{limit} open files", f"at least {need} for {len(hosts)} hosts", f"ulimit -n {need}")
    else:
        notes.ok("doctor.open_files", f"at most {limit}, {need} needed")


def _clock(notes: Notes) -> None:
    if not Path("/proc").is_dir():
        notes.leave(("doctor.clock",), "this system does not tell whether its clock is synchronised")
        return
    notes.found.append(replace(clock.sync(), check="doctor.clock"))


def _disk(notes: Notes, results_dir: Path) -> None:
    place = next(path for path in (results_dir.absolute(), *results_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    subject, remedy = str(results_dir), "Choose another place with --results-dir"
    if not os.access(place, os.W_OK):
        notes.fail("doctor.disk", f"{place} cannot be written to", "a directory of yours", remedy, subject=subject)
    elif free < LOW_BYTES:
        notes.fail(
            "doctor.disk", f"{size_text(free)} free", f"at least {size_text(LOW_BYTES)}", f"Free space; {remedy.lower()}", subject=subject
        )
    elif free < LITTLE_BYTES:
        notes.warn(
            "doctor.disk",
            f"{size_text(free)} free",
            f"{size_text(LITTLE_BYTES)} for long runs",
            f"Free space; {remedy.lower()}",
            subject=subject,
        )
    else:
        notes.ok("doctor.disk", f"{size_text(free)} free", subject=subject)
