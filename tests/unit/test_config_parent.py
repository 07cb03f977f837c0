"""Keys of sai3-bench: each has its effect, or a notice that says why it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sai3ssh import config
from sai3ssh.errors import ConfigError
from sai3ssh.model import StageKind

from .test_config import GOOD, HOSTS, changed, compiled

OBJECTS = [{"base_uri": "data/", "count": 1000, "size_spec": 4096}]
CLEANUP = {"ensure_objects": OBJECTS, "cleanup": True}


def prepare(**keys: Any) -> dict[str, Any]:
    return {"prepare": {"ensure_objects": OBJECTS, **keys}}


def stages(*given: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"stages": [{"name": f"s{n}", **stage} for n, stage in enumerate(given)], **keys}


def names(plan: Any) -> list[tuple[str, str]]:
    return [(stage.name, stage.kind.value) for stage in plan.stages]


EFFECTS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "prepare_strategy": (prepare(prepare_strategy="parallel"), lambda p: [s.interleaved for s in p.stages], [True, False]),
    "skip_verification": (prepare(skip_verification=True), names, [("execute", "execute")]),
    "skip_verification of given stages": (
        {**prepare(skip_verification=True), **stages({"type": "prepare"}, {"type": "execute"}, {"type": "cleanup"})},
        names,
        [("s1", "execute"), ("s2", "cleanup")],
    ),
    "force_overwrite": (
        {"duration": 31, **prepare(skip_verification=True, force_overwrite=True)},
        names,
        [("prepare", "prepare"), ("execute", "execute")],
    ),
    "post_prepare_delay": (
        prepare(post_prepare_delay="5s", cleanup=True),
        lambda p: [(s.name, s.kind, s.duration_s) for s in p.stages[:2]],
        [("prepare", StageKind.PREPARE, None), ("prepare-delay", StageKind.PAUSE, 5.0)],
    ),
    "post_prepare_delay beside a stage of its name, and at the end": (
        {
            **prepare(post_prepare_delay=1),
            "stages": [
                {"name": "a", "type": "prepare"},
                {"name": "a-delay", "type": "execute"},
                {"name": "b", "type": "prepare"},
            ],
        },
        names,
        [("a", "prepare"), ("a-delay_", "pause"), ("a-delay", "execute"), ("b", "prepare")],
    ),
    "cleanup_only": (prepare(cleanup_only=True), lambda p: [(s.name, s.kind, s.cleanup_mode) for s in p.stages], [
        ("cleanup", StageKind.CLEANUP, "tolerant")
    ]),
    "cleanup_only of given stages": (
        {**prepare(cleanup_only=True, cleanup_mode="strict"), **stages({"type": "cleanup"}, {"type": "prepare"}, {"type": "execute"})},
        lambda p: [(s.name, s.kind, s.cleanup_mode) for s in p.stages],
        [("s0", StageKind.CLEANUP, "strict")],
    ),
    "cleanup_mode": (
        prepare(cleanup=True, cleanup_mode="besteffort"),
        lambda p: [s.cleanup_mode for s in p.stages],
        ["strict", "strict", "besteffort"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EFFECTS)
def test_every_key_has_its_effect(name: str, tmp_path: Path) -> None:
    keys, look, expected = EFFECTS[name]
    plan = compiled(changed(**keys), tmp_path)
    assert look(plan) == expected
    assert plan != compiled(GOOD, tmp_path)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "cleanup_only with nothing to remove": ({"prepare": {"cleanup_only": True}, "workload": []}, "what is to be removed"),
    "cleanup_only without such a stage": (
        {**prepare(cleanup_only=True), **stages({"type": "execute"})},
        "cleanup_only has nothing to do; give a stage of type cleanup",
    ),
    "skip_verification of all that there is": (
        {**prepare(skip_verification=True), "workload": []},
        "nothing is left to do; set force_overwrite: true to write them",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_contradictions_are_named(name: str, tmp_path: Path) -> None:
    keys, words = BAD[name]
    with pytest.raises(ConfigError) as caught:
        compiled(changed(**keys), tmp_path)
    assert words in str(caught.value)


NOTICES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "enable_metadata_cache": ({"enable_metadata_cache": True}, ("enable_metadata_cache has no effect: it tunes another engine",)),
    "cache_checkpoint_interval_secs": ({"cache_checkpoint_interval_secs": 600}, ("cache_checkpoint_interval_secs has no effect",)),
    "volumes": ({"distributed": {"agents": [{"id": "h1", "volumes": ["/a:/b"]}]}}, ("volumes has no effect: agents are no containers",)),
    "skip_verification": (prepare(skip_verification=True), ("skip_verification: the objects are taken as there",)),
    "skip_verification and force_overwrite": (prepare(skip_verification=True, force_overwrite=True), ()),
    "force_overwrite": (prepare(force_overwrite=False), ("force_overwrite has no effect: prepare puts every object in any case",)),
    "cleanup_only": (prepare(cleanup_only=True), ("cleanup_only: objects of ensure_objects are removed and nothing else is done",)),
}


@pytest.mark.parametrize("name", NOTICES)
def test_what_has_another_meaning_here_is_said(name: str, tmp_path: Path) -> None:
    keys, expected = NOTICES[name]
    path = tmp_path / "w.yml"
    path.write_text(changed(**keys))
    loaded = config.load(path)
    config.compile_plan(loaded, "r", HOSTS)
    assert len(loaded.notices) == len(expected)
    for notice, words in zip(loaded.notices, expected, strict=True):
        assert notice.startswith("line ")
        assert notice.partition(": ")[2].startswith(words), notice
