"""How long the operator's side of preflight takes for 100 hosts, beside a shell script that goes from one host to the next.

    python bench/preflight.py [--hosts 100] [--machines 4] [--most-s 5]

Root. Four machines of the lab (network namespaces with an sshd of their own) get 25 addresses each: 100 hosts of an inventory. Both ways
ask from the operator's namespace. `sai3ssh preflight --skip host --skip storage --skip file` looks up, pings (20 times), connects, verifies
the host key, logs in, asks for keepalive settings, clock, round trip and throughput. The script does what people do without a tool:
`ping -c 3 -W 2` and `nc -z -w 2` to the SSH port, no login. Both are measured with all hosts well; and the script also with one
address where nobody is.

CPU per host is the CPU time of the command over the number of hosts; that of the host's own part is what agents say of themselves
(`cpu_s`), in a preflight of eight hosts with their own part: a hundred agents on these cores would wait for each other. Exits 1 when the
100 hosts take longer than --most-s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.lab.lab import OPERATOR, Lab, sh

SCRIPT = """#!/bin/bash
failed=0
for host in "$@"; do
  ping -q -c 3 -W 2 "$host" >/dev/null || { echo "$host: no ping"; failed=1; }
  nc -z -w 2 "$host" 22 || { echo "$host: port 22 is closed"; failed=1; }
done
exit $failed
"""
NOBODY = "10.88.3.250"
FEW = 8


def addresses(lab: Lab, count: int) -> dict[str, str]:
    """Gives the machines so many more addresses; address to host key."""
    found = {}
    for number in range(count):
        machine = lab.hosts[number % len(lab.hosts)]
        address = f"10.88.{1 + number // 200}.{1 + number % 200}"
        sh(f"ip -n {machine.netns} addr add {address}/16 dev eth0")
        found[address] = machine.host_key
    sh(f"ip -n {OPERATOR} addr add 10.88.200.1/16 dev eth0")
    return found


def timed(argv: list[str]) -> tuple[float, float, subprocess.CompletedProcess[str]]:
    """Wall and CPU seconds of a command in the operator's namespace."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(["ip", "netns", "exec", OPERATOR, *argv], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def main() -> int:
    """Prints the figures; 1 when it took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--most-s", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sai3ssh-bench-") as scratch, Lab(Path(scratch) / "lab", arguments.machines) as lab:
        keys = addresses(lab, arguments.hosts)
        lab.known_hosts.write_text("".join(f"{address} {key}\n" for address, key in keys.items()))
        common = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(lab.key),
            "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={lab.known_hosts} -o IdentityAgent=none",
        }
        inventory = Path(scratch) / "hosts.yml"
        hosts = {f"h{number}": {"ansible_host": address} for number, address in enumerate(keys, 1)}
        inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
        script = Path(scratch) / "check.sh"
        script.write_text(SCRIPT)
        preflight = [sys.executable, "-m", "sai3ssh.cli", "preflight", "-i", str(inventory), "--json"]
        network = [*preflight, "--skip", "host", "--skip", "storage", "--skip", "file"]
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)

        timed(network)  # whatever is cold
        ours_s, cpu_s, done = timed(network)
        report = json.loads(done.stdout)
        failures = [one for host in report["hosts"].values() for one in host["findings"] if one["level"] == "failure"]
        assert done.returncode == 0, failures or done.stderr
        assert len(report["hosts"]) == arguments.hosts
        checks = sum(one["level"] != "skipped" for host in report["hosts"].values() for one in host["findings"])
        theirs_s, _, done = timed(["bash", str(script), *keys])
        assert done.returncode == 0, done.stdout
        away_s, _, done = timed(["bash", str(script), NOBODY])
        assert NOBODY in done.stdout
        _, _, done = timed([*preflight, "--limit", ",".join(list(hosts)[:FEW])])
        whole = json.loads(done.stdout)
        agents = [host["cpu_s"] for host in whole["hosts"].values() if "cpu_s" in host]
        assert len(agents) == FEW, done.stdout + done.stderr

    examined_s = report["seconds"]
    print(f"{arguments.hosts} hosts on {arguments.machines} machines, {os.cpu_count()} cores for all of them and the operator")
    print(f"preflight, operator's side: {examined_s:.2f} s for {checks} checks ({ours_s:.2f} s with Python's start and the inventory)")
    print(f"  CPU {1000 * cpu_s / arguments.hosts:.1f} ms per host, of the operator's machine")
    print(f"ping and nc, one host after the other: {theirs_s:.1f} s for {2 * arguments.hosts} checks; one that is away: {away_s:.1f} s")
    print(f"ratio: {theirs_s / ours_s:.1f} times as long (limit of preflight: {arguments.most_s:g} s)")
    agent_ms = [1000 * seconds for seconds in agents]
    print(f"with the hosts' own part, {FEW} hosts: {whole['seconds']:.2f} s")
    print(f"  CPU of the agent per host: median {statistics.median(agent_ms):.0f} ms, at most {max(agent_ms):.0f} ms")
    return 0 if examined_s <= arguments.most_s else 1


if __name__ == "__main__":
    sys.exit(main())
