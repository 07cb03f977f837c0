"""The shape of what checks find."""

from __future__ import annotations

import json

from sai3ssh.agent.preflight import service
from sai3ssh.controller import install
from sai3ssh.findings import Finding, Level, skips
from sai3ssh.model import from_json, to_json


def test_a_finding_survives_the_journey_from_host_to_controller() -> None:
    found = Finding("host.disk", Level.FAILURE, "1 MiB free", "9 MiB", "Make room", "/var", {"free_bytes": 1 << 20, "shares": [1, 2]}, 0.25)
    assert from_json(Finding, json.loads(json.dumps(to_json(found)))) == found


def test_both_sides_look_for_the_deployed_agent_in_the_same_place() -> None:
    assert service.DEPLOYED == install.DEPLOYED


def test_a_name_skips_itself_and_what_is_below_it() -> None:
    assert skips("storage.tls", ["storage"])
    assert skips("storage.tls", ["host", "storage.tls"])
    assert not skips("storage", ["storage.tls"])
    assert not skips("storage.tls", ["stor", "storage.t"])
    assert not skips("storage.tls", None)
