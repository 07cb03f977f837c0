"""Hosts from an Ansible inventory, read by Ansible's own library.

YAML, INI, directories, executable scripts and plugins, with group_vars and host_vars beside them: whatever `ansible-inventory`
understands. Ansible keeps
process-wide state (plugins, options, a display that writes to the terminal); it is imported on the first call and its messages are
collected here.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import InventoryError
from .model import Host

_ONE_AT_A_TIME = threading.Lock()
"""Ansible's state and what it writes are the process's: of two threads, the later would give the program's output away for good."""
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,100}$")


def load(sources: Sequence[str], limit: str = "all") -> list[Host]:
    """The hosts of the inventory that match an Ansible host pattern, in the inventory's order.

    Raises InventoryError: a source that is missing or cannot be parsed, a pattern or group without hosts, variables that make no sense.
    """
    for source in sources:
        if "," not in source and not Path(source).exists():
            raise InventoryError(f"inventory {source} does not exist", remedy="Name a file, a directory or a script with -i")
    with _ONE_AT_A_TIME, _quiet() as said:
        manager, variables = _ansible(sources)
        found = manager.get_hosts(limit)
        raw = [(host.name, _templated(manager, variables, host)) for host in found]
    if not raw:
        everyone = [host.name for host in manager.get_hosts("all")]
        where = ", ".join(sources)
        if everyone:
            groups = ", ".join(sorted(set(manager.groups) - {"all", "ungrouped"})) or "none"
            raise InventoryError(
                f"no host of inventory {where} matches {limit!r} (groups: {groups}; {len(everyone)} hosts)", remedy="Check --limit"
            )
        detail = f": {_first_line(said)}" if said else ""
        raise InventoryError(f"inventory {where} has no hosts{detail}", remedy="Try `ansible-inventory -i ... --list`")
    return [_host(name, values) for name, values in raw]


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collects what Ansible would write to the terminal."""
    os.environ.setdefault("ANSIBLE_DEVEL_WARNING", "0")
    # Another locale makes Ansible end the process.
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    # Ansible reconfigures what it writes to, which a StringIO has not, and complains of that.
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    said: list[str] = []
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            yield said
        finally:
            said += [line for line in raw.getvalue().decode("utf-8", "replace").splitlines() if line.strip()]


def _first_line(said: list[str]) -> str:
    interesting = [line for line in said if "ailed to parse" in line or "ERROR" in line or "rror" in line]
    return (interesting or said)[0].strip()[:300]


def _ansible(sources: Sequence[str]) -> tuple[Any, Any]:
    try:
        from ansible.errors import AnsibleError
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.plugins.loader import init_plugin_loader
        from ansible.utils.display import Display
        from ansible.vars.manager import VariableManager
    except ImportError as error:
        raise InventoryError(f"Ansible's library cannot be imported: {error}", remedy="pip install ansible-core") from error
    collected: list[str] = []
    # Ansible's signatures; from 2.19 on, what plugins raised comes as an exception.
    Display.warning = lambda self, msg, *_, **__: collected.append(str(msg))  # noqa: ARG005
    Display.error_as_warning = lambda self, msg, exception, **_: collected.append(f"{msg} {exception}")  # noqa: ARG005
    with contextlib.suppress(Exception), warnings.catch_warnings():
        # It warns where it is called a second time in a process.
        warnings.simplefilter("ignore")
        init_plugin_loader()
    try:
        loader = DataLoader()
        manager = InventoryManager(loader=loader, sources=list(sources))
        variables = VariableManager(loader=loader, inventory=manager)
    except AnsibleError as error:
        raise InventoryError(f"inventory {', '.join(sources)}: {str(error).splitlines()[0]}") from error
    _check_plugins(sources, collected)
    failed = [text for text in collected if "Unable to parse" in text or "Failed to parse" in text or "rror" in text]
    if failed and not manager.get_hosts("all"):
        reason = " ".join(failed[0].split())[:400]
        raise InventoryError(f"inventory {', '.join(sources)}: {reason}", remedy="Try `ansible-inventory -i ... --list`")
    return manager, variables


def _check_plugins(sources: Sequence[str], collected: Sequence[str]) -> None:
    """Raises InventoryError when a dynamic inventory failed, whatever the others gave: a run would silently be smaller."""
    for text in collected:
        if not re.search(r"with '?auto'? plugin", text) or "no root 'plugin' key" in text:
            continue
        reason = " ".join(text.split())
        missing = re.search(r"unknown plugin '([^']+)'", reason)
        if missing is None:
            raise InventoryError(f"inventory {', '.join(sources)}: {reason[:400]}", remedy="Try `ansible-inventory -i ... --list`")
        collection = ".".join(missing[1].split(".")[:2])
        raise InventoryError(
            f"inventory {', '.join(sources)} needs the plugin {missing[1]}, which is not installed",
            remedy=f"Install its collection: ansible-galaxy collection install {collection}",
        )


def _templated(manager: Any, variables: Any, host: Any) -> dict[str, Any]:
    from ansible.template import Templar

    values = variables.get_vars(host=host)
    templar = Templar(loader=manager._loader, variables=values)
    wanted = {
        key: value
        for key, value in values.items()
        if key.startswith(
            ("ansible_host", "ansible_port", "ansible_user", "ansible_ssh_", "ansible_connection", "ansible_python", "sai3ssh_")
        )
    }
    result = {}
    for key, value in wanted.items():
        try:
            result[key] = templar.template(value)
        except Exception as error:
            raise InventoryError(f"variable {key} cannot be evaluated: {error}", host=host.name) from error
    return result


def _host(name: str, values: dict[str, Any]) -> Host:
    if not _NAME.match(name):
        raise InventoryError(f"host name {name!r} cannot name an agent (letters, digits, '.', '_', '-', '@' and ':')")
    connection = str(values.get("ansible_connection", "ssh"))
    if connection in ("smart", "paramiko", "ansible.builtin.ssh", "ansible.netcommon.paramiko"):
        connection = "ssh"
    if connection not in ("ssh", "local"):
        raise InventoryError(f"ansible_connection {connection!r} is not supported", host=name, remedy="ssh and local are")
    port = values.get("ansible_port", values.get("ansible_ssh_port", 0))
    if not str(port).isdigit() or int(port) > 65535:
        raise InventoryError(f"ansible_port {port!r} is no port (1 to 65535)", host=name)
    arguments = " ".join(str(values[key]) for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args") if values.get(key))
    try:
        shlex.split(arguments)
    except ValueError as error:
        raise InventoryError(f"ansible_ssh_common_args {arguments!r} cannot be split: {error}", host=name) from error
    # The agent's own, such as that of a virtual environment, goes before the one that Ansible's modules run with.
    python = _text(values.get("sai3ssh_python")) or str(values.get("ansible_python_interpreter", "python3"))
    key = values.get("ansible_ssh_private_key_file", values.get("ansible_private_key_file"))
    state = values.get("sai3ssh_agent_state_dir")
    return Host(
        name=name,
        address=str(values.get("ansible_host", values.get("ansible_ssh_host", name))),
        port=int(port),
        user=_text(values.get("ansible_user", values.get("ansible_ssh_user"))),
        connection=connection,
        key_file=_text(key),
        ssh_args=arguments,
        python="python3" if python.startswith("auto") else python,
        state_dir=_text(state) or (f"~/.local/state/sai3ssh-local/{name}" if connection == "local" else None),
        ports=_ports(name, values.get("sai3ssh_ports", [])),
    )


def _ports(name: str, value: Any) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not all(str(number).isdigit() and 0 < int(number) <= 65535 for number in numbers):
        raise InventoryError(f"sai3ssh_ports {value!r} is no list of ports (1 to 65535)", host=name, remedy="Write it as [7761, 7762]")
    return tuple(int(number) for number in numbers)


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)
