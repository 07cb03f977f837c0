"""Hosts from inventories of every kind, read by Ansible's own library."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import inventory
from sai3ssh.errors import InventoryError

INI = """\
[clients]
a ansible_host=192.0.2.1 ansible_port=2222
b ansible_host=192.0.2.2

[spare]

[clients:vars]
ansible_user=bench
"""
YAML = """\
all:
  vars: {ansible_user: bench, net: 192.0.2, ansible_ssh_common_args: "-J jump@192.0.2.9"}
  children:
    clients:
      hosts:
        a: {ansible_host: "{{ net }}.1", ansible_ssh_private_key_file: ~/.ssh/k, sai3ssh_agent_state_dir: /mnt/state}
        b: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3.11}
"""
SCRIPT = """\
#!/usr/bin/env python3
import json, sys
hosts = {"d1": {"ansible_host": "192.0.2.31"}, "d2": {"ansible_host": "192.0.2.32"}}
print(json.dumps({"clients": {"hosts": list(hosts)}, "_meta": {"hostvars": hosts}}) if "--list" in sys.argv else "{}")
"""


PLUGIN = """\
DOCUMENTATION = '''
name: fleet
short_description: hosts of a cloud
options:
  count: {description: how many, type: int, required: true}
'''
from ansible.plugins.inventory import BaseInventoryPlugin

class InventoryModule(BaseInventoryPlugin):
    NAME = "example.cloud.fleet"

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        if self.get_option("count") == 0:
            raise ValueError("the cloud says no")
        for n in range(self.get_option("count")):
            inventory.add_host(f"i-{n}")
            inventory.set_variable(f"i-{n}", "ansible_host", f"192.0.2.{n}")
"""
"""An inventory plugin as collections have them."""


def write(path: Path, text: str, mode: int = 0o644) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_ini_with_groups_and_limit(tmp_path: Path) -> None:
    source = write(tmp_path / "hosts.ini", INI)
    hosts = inventory.load([source])
    assert [(h.name, h.address, h.port, h.user, h.connection) for h in hosts] == [
        ("a", "192.0.2.1", 2222, "bench", "ssh"),
        ("b", "192.0.2.2", 0, "bench", "ssh"),
    ]
    assert [h.name for h in inventory.load([source], "clients:!a")] == ["b"]


def test_yaml_with_templates_keys_jump_hosts_and_local(tmp_path: Path) -> None:
    a, b = inventory.load([write(tmp_path / "hosts.yml", YAML)])
    assert (a.address, a.key_file, a.ssh_args, a.state_dir, a.python) == (
        "192.0.2.1",
        "~/.ssh/k",
        "-J jump@192.0.2.9",
        "/mnt/state",
        "python3",
    )
    assert (b.connection, b.python) == ("local", "/usr/bin/python3.11")
    assert b.state_dir is not None
    assert b.state_dir.endswith("/b")


def test_ports_that_must_be_reached(tmp_path: Path) -> None:
    listed = "[all]\na sai3ssh_ports='[7761, 7762]'\nb sai3ssh_ports=22\nc\n"
    assert [host.ports for host in inventory.load([write(tmp_path / "hosts", listed)])] == [(7761, 7762), (22,), ()]
    for wrong in ("[0]", "http", "[65536]"):
        with pytest.raises(InventoryError, match=r"a: sai3ssh_ports .* is no list of ports"):
            inventory.load([write(tmp_path / "hosts", f"[all]\na sai3ssh_ports={wrong}\n")])


def test_directory_with_group_vars_and_a_script(tmp_path: Path) -> None:
    write(tmp_path / "1.ini", INI)
    write(tmp_path / "2.py", SCRIPT, 0o755)
    (tmp_path / "group_vars").mkdir()
    write(tmp_path / "group_vars" / "clients.yml", "ansible_python_interpreter: /opt/py/bin/python3\n")
    hosts = inventory.load([str(tmp_path)])
    assert [h.name for h in hosts] == ["a", "b", "d1", "d2"]
    assert {h.python for h in hosts} == {"/opt/py/bin/python3"}


def test_the_agents_own_python_goes_before_that_of_ansible(tmp_path: Path) -> None:
    text = "[all]\na ansible_python_interpreter=/usr/bin/python3 sai3ssh_python=/srv/venv/bin/python\nb sai3ssh_python=/srv/b/python\n"
    assert [h.python for h in inventory.load([write(tmp_path / "hosts", text)])] == ["/srv/venv/bin/python", "/srv/b/python"]


def test_list_of_names() -> None:
    assert [h.address for h in inventory.load(["192.0.2.1,192.0.2.2,"])] == ["192.0.2.1", "192.0.2.2"]


def test_packaged_inventories(repository: Path) -> None:
    assert len(inventory.load([str(repository / "inventory" / "example")])) == 4
    assert {h.connection for h in inventory.load([str(repository / "inventory" / "loopback")])} == {"local"}


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        (INI, "spare", r"no host of inventory .* matches 'spare' \(groups: clients, spare; 2 hosts\). Check --limit"),
        (INI, "nobody", "matches 'nobody'"),
        ("", "all", "has no hosts"),
        ("[a\nx y z = [[\n", "all", "hosts"),
        ("a ansible_port=many\n", "all", "a: ansible_port 'many' is no port"),
        ("a ansible_connection=winrm\n", "all", "a: ansible_connection 'winrm' is not supported. ssh and local are"),
        ("a ansible_ssh_common_args='-o \"x'\n", "all", "a: ansible_ssh_common_args .* cannot be split"),
        ("a ansible_host='{{ nothing_of_that_name }}'\n", "all", "a: variable ansible_host cannot be evaluated"),
    ],
)
def test_mistakes(text: str, limit: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=expected):
        inventory.load([write(tmp_path / "hosts.ini", text)], limit)


def test_missing_file() -> None:
    with pytest.raises(InventoryError, match="does not exist"):
        inventory.load(["/nonexistent/hosts.yml"])


def test_a_plugin_of_a_collection(tmp_path: Path) -> None:
    plugins = tmp_path / "collections/ansible_collections/example/cloud/plugins/inventory"
    plugins.mkdir(parents=True)
    write(plugins / "fleet.py", PLUGIN)
    source = tmp_path / "fleet.yml"
    # Ansible looks for collections once in a process.
    code = "import sys; from sai3ssh import inventory; print([h.address for h in inventory.load(sys.argv[1:])])"
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}

    def load(*sources: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", code, *sources]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

    write(source, "plugin: example.cloud.fleet\ncount: 2\n")
    done = load(str(source))
    assert done.stdout == "['192.0.2.0', '192.0.2.1']\n", done.stderr
    write(source, "plugin: example.cloud.fleet\ncount: 0\n")
    done = load(str(source), "192.0.2.9,")
    assert done.returncode != 0
    assert "InventoryError: " in done.stderr
    assert "the cloud says no" in done.stderr


def test_a_plugin_that_is_not_installed_is_named_even_when_others_have_hosts(repository: Path) -> None:
    said = "needs the plugin amazon.aws.aws_ec2, which is not installed. .*: ansible-galaxy collection install amazon.aws"
    with pytest.raises(InventoryError, match=said):
        inventory.load([str(repository / "inventory/ec2"), "192.0.2.9,"])


def test_two_threads_leave_the_output_of_the_program_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    out, second_is_in, first_is_out = sys.stdout, threading.Event(), threading.Event()

    def read(name: str) -> None:
        with pytest.raises(InventoryError):
            inventory.load([f"{name},"])

    second = threading.Thread(target=read, args=("second",))

    def ansible(sources: list[str]) -> Any:
        if sources == ["first,"]:
            second.start()
            # Only where both are in at once this does not time out.
            second_is_in.wait(0.2)
        else:
            second_is_in.set()
            first_is_out.wait(10)
        raise InventoryError("none")

    monkeypatch.setattr(inventory, "_ansible", ansible)
    read("first")
    first_is_out.set()
    second.join()
    assert sys.stdout is out
