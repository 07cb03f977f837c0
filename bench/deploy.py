"""How long a deployment takes, how long one that changes nothing, and that a run works right after it.

    python bench/deploy.py [--hosts 8] [--most 1.0] [--quick]

Hosts that systemd runs (containers with a network namespace and an sshd of their own) get limits, keepalive and agent by `sai3ssh deploy`,
from a bare system; then once more. Then `sai3ssh run` without any further step. The ratio is that of the second deployment to the first.
Hosts and operator share the machine's cores, so what is measured is the work of Ansible on both ends rather than waiting. Exits 1
above the limit, when the second deployment changed something, or when the run is not COMPLETE or was not done by the deployed agents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.lab.booted import Fleet
from tests.lab.lab import Lab
from tests.lab.operator import Operator

WORKLOAD = """
name: deployed
target: file:///var/tmp/
prepare:
  ensure_objects:
    - {base_uri: data/, count: 800, size_spec: 4KiB}
"""


def deploy(operator: Operator, home: Path) -> tuple[float, dict[str, int]]:
    """Seconds, and what changed on each host."""
    # This machine may allow its containers no more open files.
    options = ["-e", "sai3ssh_host_limits_open_files=16384", "-e", "sai3ssh_agent_open_files=16000"]
    began = time.monotonic()
    process = operator.command("deploy", "-i", str(operator.inventory), "--json", *options, HOME=str(home))
    out, err = process.communicate(timeout=900)
    seconds = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"deploy: exit code {process.returncode}: {out[-3000:]}{err}")
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    return seconds, {name: row["changed"] for name, row in last["hosts"].items()}


def main() -> int:
    """One lab, two deployments, one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--most", type=float, default=1.0, help="second deployment / first")
    parser.add_argument("--quick", action="store_true", help="2 hosts: shows only that it works")
    options = parser.parse_args()
    count = 2 if options.quick else options.hosts
    with tempfile.TemporaryDirectory(prefix="lab-") as name, Lab(Path(name) / "lab", 0) as lab:
        directory = Path(name)
        with Fleet(lab, directory, count).up() as fleet:
            fleet.known_hosts.write_text("".join(f"{host.address} {host.host_key}\n" for host in fleet.hosts))
            storage: Any = SimpleNamespace(access_key="", secret_key="")
            operator = Operator(fleet, storage, directory, Path(sys.executable).parent / "sai3ssh")
            (directory / "home").mkdir()
            first_s, first = deploy(operator, directory / "home")
            second_s, second = deploy(operator, directory / "home")
            done: subprocess.CompletedProcess[str] = operator.run(WORKLOAD)
            verdict = json.loads((operator.last_run() / "results.json").read_text())["verdict"]
            runs = [host.exec("ls /var/lib/sai3ssh/runs").stdout.split() == [operator.last_run().name] for host in fleet.hosts]
    print(f"deploy to {count} hosts: {first_s:.1f} s, {sum(first.values())} changed")
    print(f"again: {second_s:.1f} s, {sum(second.values())} changed; again / first = {second_s / first_s:.2f} (limit {options.most})")
    print(f"sai3ssh run right after: {verdict}, exit code {done.returncode}, by the deployed agents on {sum(runs)} of {count} hosts")
    return 0 if second_s / first_s <= options.most and not any(second.values()) and done.returncode == 0 and all(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
