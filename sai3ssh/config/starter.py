"""The commented workload file that `sai3ssh init` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from . import units
from .endpoints import check_url
from .workload import check_uri

MIX = {"get": 70, "put": 30}
NEEDS_OBJECTS = ("get", "stat", "delete")


@dataclass(frozen=True)
class Choices:
    """What the flags chose, as people write it."""

    target: str
    name: str = "first"
    file: str = "workload.yml"
    endpoint: str | None = None
    objects: str = "10000"
    size: str = "64KiB"
    duration: str = "60s"
    concurrency: int = 16
    mix: Mapping[str, int] | None = None


def parse_mix(text: str) -> dict[str, int]:
    """Reads get=70,put=30. Raises ConfigError."""
    found = {}
    for part in text.split(","):
        op, _, weight = part.strip().partition("=")
        if op not in ("get", "put", "list", "stat", "delete") or not weight.isdigit() or op in found:
            raise ConfigError(
                f"--mix {text!r}: expected operations with weights, found {part.strip()!r}",
                remedy="Write for example --mix get=70,put=30; there are get, put, list, stat and delete",
            )
        found[op] = int(weight)
    if not any(found.values()):
        raise ConfigError(f"--mix {text!r}: expected a weight above 0, found none", remedy="Write for example --mix get=70,put=30")
    return found


def starter(choices: Choices) -> str:
    """The file. What it leaves commented out is what people look for next, and valid when the # is removed."""
    for text, read, option in ((choices.size, units.size, "--size"), (choices.objects, units.count, "--objects")):
        try:
            read(text)
        except ValueError as error:
            raise ConfigError(f"{option}: {error}", remedy=f"Write for example {option} {Choices('').__dict__[option[2:]]}") from error
    wrong = check_uri(choices.target) if "$" not in choices.target else None
    if wrong:
        raise ConfigError(f"--target: {wrong}", remedy="Write for example --target s3://bucket/prefix/")
    mix = choices.mix or MIX
    s3 = choices.target.startswith("s3://")
    wrong = check_url(choices.endpoint) if choices.endpoint is not None else None
    if choices.endpoint is not None and not s3:
        wrong = f"it has no meaning for {choices.target}, only for s3:// targets"
    if wrong:
        raise ConfigError(f"--endpoint: {wrong}", remedy="Write for example --endpoint http://10.0.0.1:9000")
    if not units.duration(choices.duration):
        raise ConfigError(f"--duration: expected more than nothing, found {choices.duration!r}", remedy="Write it as 30s or 5m")
    lines = [
        f"# A workload of sai3ssh. Look at what it would do:  sai3ssh validate {choices.file}",
        f"# Check network, hosts and storage:              sai3ssh preflight {choices.file} -i INVENTORY",
        f"# Run it:                                        sai3ssh run {choices.file} -i INVENTORY",
        "# ${VAR} and ${VAR:-default} are taken from the environment, and so are credentials (AWS_ACCESS_KEY_ID ...): none belong here.",
        f"name: {choices.name}",
        f"target: {json.dumps(choices.target)}          # the paths below are relative to it",
        f"duration: {choices.duration}           # of the execute stage",
        f"concurrency: {choices.concurrency}          # operations in flight per agent",
        "# warmup_period: 10s     # measured apart, not in the results",
        "# io_rate: {iops: 1000}  # per agent: an open loop; latency counts from when an operation was due",
        "# workers: 4             # processes per agent; one per core by default",
    ]
    if s3:
        endpoint = (
            f"endpoint_url: {json.dumps(choices.endpoint)}"
            if choices.endpoint
            else "# endpoint_url: http://10.0.0.1:9000  # for anything but AWS"
        )
        lines += [
            "s3:",
            f"  {endpoint}",
            "  region: us-east-1",
            "  # addressing_style: virtual   # bucket.host instead of host/bucket",
            "  # ca_file: /etc/ssl/my-ca.pem",
            "  # multipart_threshold: 64MiB  # larger objects are put in parts",
            "# range_engine: {enabled: true} # large objects are read in parallel ranges",
        ]
    if any(op in mix for op in NEEDS_OBJECTS):
        lines += [
            "prepare:",
            "  cleanup: true             # delete the objects at the end",
            "  ensure_objects:",
            "    - base_uri: data/",
            f"      count: {choices.objects}",
            f"      size_spec: {choices.size}      # or {{type: lognormal, mean: 64KiB, std_dev: 32KiB, min: 1KiB, max: 1MiB}}",
        ]
    lines.append("workload:                   # weights are relative to each other")
    for op, weight in mix.items():
        size = f", size_spec: {choices.size}" if op == "put" else ""
        path = "new/" if op == "put" else "data/"
        lines.append(f"  - {{op: {op}, path: {path}, weight: {weight}{size}}}")
    lines += [
        "# verify_reads: 1%           # compare that share of what is read with what was written",
        "distributed:",
        "  failure_policy: retry     # or fail_fast, retry_once, best_effort, continue_if_majority",
        "  # reconnect_timeout: 10m    # an agent that is away for longer is lost",
        "  # reassign_on_loss: true    # best_effort: the others prepare what a lost agent had not",
    ]
    return "\n".join(lines) + "\n"
