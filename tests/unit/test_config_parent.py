"""Keys of sai3-bench: each has its effect, or a notice that says why it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sai3ssh import config
from sai3ssh.errors import ConfigError
from sai3ssh.model import ErrorLimits, StageKind

from .test_config import GOOD, HOSTS, changed, compiled

OBJECTS = [{"base_uri": "data/", "count": 1000, "size_spec": 4096}]
CLEANUP = {"ensure_objects": OBJECTS, "cleanup": True}
BEST_EFFORT = {"type": "best_effort", "heartbeat_interval": 30}


def prepare(**keys: Any) -> dict[str, Any]:
    return {"prepare": {"ensure_objects": OBJECTS, **keys}}


def agents(keys: dict[str, Any]) -> dict[str, Any]:
    return {"distributed": {"agents": [{"id": "h1", **keys}, {"id": "h2"}]}}


MIX = [
    {"op": "get", "path": "data/", "weight": 1},
    {"op": "put", "path": "new/", "weight": 1, "object_size": 1},
    {"op": "list", "path": "new/", "weight": 1},
    {"op": "list", "path": "data/", "weight": 1},
    {"op": "put", "path": "s3://elsewhere/", "weight": 1, "object_size": 1},
]


def places(plan: Any) -> list[str]:
    """Of the population and of each operation of MIX."""
    uris = [population.target for population in plan.populations] + [op.target for op in plan.stages[1].operations]
    return [uri.removeprefix("s3://") for uri in uris]


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
    "expected_tasks and max_duration of hybrid": (
        stages({"type": "hybrid", "max_duration": "90s", "expected_tasks": "5,000"}, {"type": "hybrid", "config": {"expected_tasks": 7}}),
        lambda p: [(s.kind, s.duration_s, s.tasks, bool(s.operations)) for s in p.stages],
        [(StageKind.EXECUTE, 90.0, 5000, True), (StageKind.EXECUTE, None, 7, True)],
    ),
    "hybrid without limits of its own": (
        stages({"type": "hybrid", "completion": "duration_or_tasks"}),
        lambda p: [(s.duration_s, s.tasks) for s in p.stages],
        [(30.0, None)],
    ),
    "expected_tasks of execute, which is never steady": (
        stages({"type": "execute", "expected_tasks": 7}, {"type": "execute"}, duration="5m", steady=True),
        lambda p: [(s.duration_s, s.tasks, s.steady is None) for s in p.stages],
        [(300.0, 7, True), (300.0, None, False)],
    ),
    "timeout_secs": (
        stages({"type": "prepare", "timeout_secs": 9}, {"type": "execute", "timeout_secs": "31s"}, {"type": "verify", "timeout_secs": 5}),
        lambda p: [s.timeout_s for s in p.stages],
        [9.0, 31.0, 5.0],
    ),
    "completion that fits": (
        stages(
            {"type": "prepare", "completion": "tasks_done", "expected_objects": 1000},
            {"type": "execute", "completion": "duration"},
            {"type": "validation", "completion": "validation_passed"},
            {"type": "cleanup", "completion": "tasks_done"},
        ),
        lambda p: [s.kind.value for s in p.stages],
        ["prepare", "execute", "verify", "cleanup"],
    ),
    "a validation before what it could read": (
        stages({"type": "execute", "order": 3}, {"type": "validation", "order": 1}, {"type": "prepare", "order": 2}),
        names,
        [("s2", "prepare"), ("s0", "execute")],
    ),
    "barrier_sync of one type": (
        {"distributed": {"barrier_sync": {"enabled": True, "prepare": BEST_EFFORT, "execute": BEST_EFFORT}}},
        lambda p: p.policy.name,
        "best_effort",
    ),
    "a stage's barrier, as text and as a mapping": (
        stages({"type": "prepare", "barrier": "majority"}, {"type": "execute", "barrier": {"type": "majority"}}),
        lambda p: p.policy.name,
        "continue_if_majority",
    ),
    "barrier_sync of several types": (
        {
            "duration": 31,
            "distributed": {"barrier_sync": {"enabled": True, "prepare": {"type": "all_or_nothing"}, "cleanup": BEST_EFFORT}},
        },
        lambda p: p.policy.name,
        "retry",
    ),
    "agent_barrier_timeout of barrier_sync": (
        {"distributed": {"barrier_sync": {"enabled": True, "prepare": {"agent_barrier_timeout": "2d"}, "execute": {}}}},
        lambda p: p.agent_barrier_timeout_s,
        172800.0,
    ),
    "agent_barrier_timeout goes before": (
        {"distributed": {"agent_barrier_timeout": 5, "barrier_sync": {"enabled": True, "prepare": {"agent_barrier_timeout": 9}}}},
        lambda p: p.agent_barrier_timeout_s,
        5.0,
    ),
    "concurrency_override": (
        agents({"concurrency_override": 32}),
        lambda p: [[s.concurrency for s in p.of_agent(n).stages] for n in (0, 1)],
        [[32, 32], [8, 8]],
    ),
    "concurrency_override beside concurrencies of operations": (
        {**agents({"concurrency_override": 32}), "workload": [{"op": "get", "path": "data/", "weight": 1, "concurrency": 5}]},
        lambda p: [[s.concurrency for s in p.of_agent(n).stages] for n in (0, 1)],
        [[32, 5], [8, 5]],
    ),
    "target_override": (
        {**agents({"target_override": "s3://other/x"}), "workload": MIX},
        lambda p: [places(p.of_agent(n)) for n in (0, 1)],
        [
            ["other/x/data/", "other/x/data/", "other/x/new/", "other/x/new/", "other/x/data/", "elsewhere/"],
            ["bench-bucket/run/data/"] * 2 + ["bench-bucket/run/new/"] * 2 + ["bench-bucket/run/data/", "elsewhere/"],
        ],
    ),
    "path_template": (
        {"distributed": {"path_template": "agent-{id}"}, "workload": MIX},
        lambda p: places(p.of_agent(1)),
        [
            "bench-bucket/run/data/",
            "bench-bucket/run/data/",
            "bench-bucket/run/agent-h2/new/",
            "bench-bucket/run/agent-h2/new/",
            "bench-bucket/run/data/",
            "elsewhere/agent-h2/",
        ],
    ),
    "path_template of an agent, and its target": (
        {
            "distributed": {
                "path_template": "a/{id}/",
                "agents": [{"id": "x", "address": "h1", "path_template": "{id}", "target_override": "s3://other/"}, {"id": "h2"}],
            },
            "workload": MIX,
        },
        lambda p: [places(p.of_agent(n))[2:4] for n in (0, 1)],
        [["other/x/new/"] * 2, ["bench-bucket/run/a/h2/new/"] * 2],
    ),
    "env": (
        agents({"env": {"AWS_PROFILE": "reader", "N": 3, "DEBUG": True}}),
        lambda p: [own.env for own in p.own],
        [{"AWS_PROFILE": "reader", "N": "3", "DEBUG": "true"}, {}],
    ),
    "size_distribution, and an entry without base_uri": (
        {
            "prepare": {"ensure_objects": [{"count": 9, "size_distribution": {"type": "uniform", "min": 1, "max": 5}}]},
            "workload": [{"op": "put", "path": "new/", "weight": 1, "size_distribution": {"type": "fixed", "size": "4KiB"}}],
        },
        lambda p: (p.populations[0].target, p.populations[0].size.max, p.stages[1].operations[0].size.max),
        ("s3://bench-bucket/run/", 5, 4096),
    ),
    "agents' own endpoints instead of a target": (
        {
            "target": None,
            "s3": None,
            "distributed": {
                "agents": [
                    {"id": f"h{n}", "multi_endpoint": {"endpoints": [f"file:///mnt/{n}/a/", f"file:///mnt/{n}/b/"]}} for n in (1, 2)
                ]
            },
        },
        lambda p: (p.populations[0].target, p.target.endpoints[2], [spread.positions for spread in p.spreads]),
        ("file:///mnt/1/a/data/", "file:///mnt/2/a/", [(0, 1), (2, 3)]),
    ),
    "custom, command and args": (
        stages({"type": "custom", "command": "/bin/sh", "args": ["-c", "sleep 5", 7], "completion": "script_exit", "timeout_secs": 30}),
        lambda p: [(s.kind, s.command, s.timeout_s) for s in p.stages],
        [(StageKind.CUSTOM, ("/bin/sh", "-c", "sleep 5", "7"), 30.0)],
    ),
    "optional": (
        stages({"type": "prepare", "optional": True}, {"type": "custom", "command": "x", "config": {"optional": True}}),
        lambda p: [s.optional for s in p.stages],
        [True, True],
    ),
    "perf_log": ({"perf_log": {"interval": "10s", "path": "/tmp/x.tsv"}}, lambda p: p.perf_log_interval_s, 10),
    "perf_log in whole seconds": ({"duration": 31, "perf_log": {"interval": "300ms"}}, lambda p: p.perf_log_interval_s, 1),
    "backoff_duration": ({"error_handling": {"backoff_duration": "5s"}}, lambda p: p.error_limits, ErrorLimits(backoff_s=5.0)),
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
    "completion that does not fit": (
        stages({"type": "execute", "completion": "script_exit"}),
        "a stage of type execute ends with completion: duration or duration_or_tasks or tasks_done; write that, or remove completion",
    ),
    "tasks_done of nobody knows how many": (
        stages({"type": "execute", "completion": "tasks_done"}),
        "completion: tasks_done of an execute stage needs expected_tasks",
    ),
    "expected_tasks of a cleanup": (
        stages({"type": "cleanup", "expected_tasks": 5}),
        "expected_tasks has no meaning for a stage of type cleanup; it belongs to hybrid and execute",
    ),
    "max_duration of execute": (stages({"type": "execute", "max_duration": 5}), "max_duration belongs to hybrid; write duration"),
    "duration of hybrid": (stages({"type": "hybrid", "duration": 5}), "a stage of type hybrid has max_duration; write that"),
    "objects that are not expected": (
        stages({"type": "prepare", "expected_objects": 50}),
        "expected_objects is 50, but prepare makes 1,000 objects; correct one of them",
    ),
    "a timeout before the end": (
        stages({"type": "execute", "timeout_secs": 30}),
        "timeout_secs (30 s) is over before stage 's0' (30 s); raise it, or remove it",
    ),
    "barriers that contradict the policy": (
        {"distributed": {"failure_policy": "fail_fast", "barrier_sync": {"enabled": True, "prepare": BEST_EFFORT}}},
        "barriers of type best_effort contradict failure_policy fail_fast: write failure_policy: best_effort, or remove the type",
    ),
    "a secret in env": (
        agents({"env": {"VAULT_TOKEN": "x"}}),
        "VAULT_TOKEN may be a secret, and plans are files: set it in the agent's own environment on the host",
    ),
    "no name of a variable": (agents({"env": {"A B": "x"}}), "expected the name of an environment variable, found 'A B'"),
    "a variable that is none": (agents({"env": {"A": [1]}}), "env.A: expected text, found [1]"),
    "a secret in env, by one of its usual names": (agents({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}), "no secrets in workload files"),
    "target_override of another kind": (
        agents({"target_override": "az://con/x/"}),
        "one run has one kind of target; found az://con/x/ beside s3://bench-bucket/run/",
    ),
    "target_override that is none": (agents({"target_override": "/mnt/x"}), "expected a URI such as s3://bucket/prefix/"),
    "path_template that is none": (
        agents({"path_template": "/abs/{id}"}),
        "path_template: expected a relative path such as agent-{id}/, found '/abs/{id}'",
    ),
    "path_template of what is to be read": (
        {**agents({"path_template": "{id}/"}), "dynamic_put_pool": True},
        "path_template contradicts dynamic_put_pool",
    ),
    "more workers than an agent's concurrency": (
        {**agents({"concurrency_override": 2}), "workers": 4},
        "4 workers share a concurrency of 2: some would have nothing to do",
    ),
    "custom without a command": (stages({"type": "custom"}), "a stage of type custom needs a command"),
    "a size by both its names": (
        {"prepare": {"ensure_objects": [{"base_uri": "data/", "count": 9, "size_distribution": 5, "size_spec": 5}]}},
        "size_distribution is another name of size_spec; give one of them",
    ),
    "a command line for a command": (
        stages({"type": "custom", "command": "echo hello"}),
        "command is one program, found 'echo hello'; give its arguments in args (for a shell: /bin/sh, args: [-c, ...])",
    ),
    "a command of another stage": (
        stages({"type": "execute", "command": "true"}),
        "command has no meaning for a stage of type execute; it belongs to custom",
    ),
    "a duration of a command": (stages({"type": "custom", "command": "true", "duration": 5}), "it has no duration"),
    "steady beside expected_tasks": (
        stages({"type": "hybrid", "expected_tasks": 5, "steady": True}),
        "steady and expected_tasks contradict each other: the stage ends by its operations; remove one",
    ),
    "batches of deletes that are counted": (
        stages({"type": "hybrid", "expected_tasks": 5}, workload=[{"op": "delete", "path": "data/", "weight": 1, "delete_batch": 2}]),
        "delete_batch contradicts expected_tasks of stage 's0', which counts operations; remove one of them",
    ),
    "a validation of nothing": (
        stages({"type": "validation"}, {"type": "prepare"}, **prepare(skip_verification=True)),
        "nothing is left to do",
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
    "a validation before what it could read": (
        stages({"type": "validation"}, {"type": "prepare"}, {"type": "validation"}),
        ("stage 's0' is left out: preflight checks that before the run; to read objects back, put it after prepare",),
    ),
    "duration_or_tasks of prepare": (
        stages({"type": "prepare", "completion": "duration_or_tasks"}),
        ("completion: prepare ends when its work is done; to limit it set timeout_secs",),
    ),
    "barriers that are switched off": (
        {"distributed": {"barrier_sync": {"enabled": False, "prepare": BEST_EFFORT}}},
        ("barrier_sync: agents begin every stage together, whether it is enabled or not",),
    ),
    "barriers of several types": (
        {"distributed": {"barrier_sync": {"enabled": True, "prepare": {"type": "majority"}, "cleanup": {"type": "best_effort"}}}},
        ("barriers are of types majority and best_effort, but one failure_policy holds for the whole run: continue_if_majority",),
    ),
    "timing of barriers": (
        {"distributed": {"barrier_sync": {"enabled": True, "prepare": BEST_EFFORT, "default_query_retries": 2}}},
        ("heartbeat_interval, default_query_retries of barriers: no effect; an agent whose link is silent for three",),
    ),
    "target_override where all is read": (
        agents({"target_override": "s3://other/x"}),
        ("target_override: agents read what others have prepared; where they do not see the same storage give get and stat",),
    ),
    "a command": (
        stages({"type": "custom", "command": "/bin/sh", "args": ["-c", "a; b"]}, {"type": "prepare"}),
        ("stage 's0': every agent runs /bin/sh -c 'a; b' once, with the rights of the agent's user",),
    ),
    "use_multi_endpoint": (
        {"prepare": {"ensure_objects": [{**OBJECTS[0], "use_multi_endpoint": True}]}},
        ("use_multi_endpoint has no effect: all operations go to the endpoints",),
    ),
    "a place of a secret": (agents({"env": {"GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json", "AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}}), ()),
    "perf_log elsewhere": (
        {"perf_log": {"path": "/tmp/x"}},
        ("perf_log is always written: it is perf_log.tsv of the run directory, not /tmp/x",),
    ),
    "perf_log, switched off": ({"perf_log": {"enabled": False}}, ("perf_log is always written",)),
    "perf_log of less than a second": ({"perf_log": {"interval": "0.3s"}}, ("perf_log.interval is 1 s: agents tell",)),
    "perf_log of several seconds": ({"perf_log": {"interval": 5}}, ("perf_log: percentiles over 5 s are empty",)),
    "expected_objects of a cleanup": (
        stages({"type": "prepare"}, {"type": "cleanup", "expected_objects": 7}),
        ("expected_objects has no effect in a stage of type cleanup; it belongs to prepare",),
    ),
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


def test_a_majority_of_two_is_both(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(changed(**stages({"type": "prepare", "barrier": "majority"})))
    assert config.compile_plan(config.load(path), "r", HOSTS[:2])[0].policy.name == "retry"


def test_the_command_line_goes_before_barriers(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text(changed(distributed={"failure_policy": "best_effort", "barrier_sync": {"enabled": True, "prepare": BEST_EFFORT}}))
    loaded = config.load(path)
    loaded.override(("distributed", "failure_policy"), "fail_fast", "--policy")
    assert config.compile_plan(loaded, "r", HOSTS)[0].policy.name == "fail_fast"


def test_the_description_says_what_is_run_and_how_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    given = stages(
        {"type": "custom", "command": "/bin/sh", "args": ["-c", "a; b"], "timeout_secs": 9, "optional": True},
        {"type": "prepare"},
        {"type": "hybrid", "expected_tasks": 6000},
        {"type": "cleanup"},
    )
    path.write_text(changed(**given, **agents({"concurrency_override": 3}), prepare={**CLEANUP, "post_prepare_delay": 4}))
    loaded = config.load(path)
    described = config.describe(*config.compile_plan(loaded, "r", HOSTS), loaded)
    assert [(part.name, part.seconds, part.pace) for part in described.stages if part.kind in ("custom", "pause", "execute")] == [
        ("s0", 0.0, "each agent runs /bin/sh -c 'a; b', at most 9 s, optional"),
        ("s1-delay", 4.0, "all agents wait (post_prepare_delay)"),
        ("s2", 1.5, "until 6,000 operations are done, concurrency 3 on h1"),
    ]


def test_a_whole_file_of_the_other_system_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "w.yml"
    path.write_text("""\
concurrency: 64
page_cache_mode: dontneed
perf_log: {enabled: true, interval: 1s}
prepare:
  prepare_strategy: parallel
  skip_verification: true
  force_overwrite: true
  directory_structure: {width: 4, depth: 2, files_per_dir: 5, distribution: bottom, dir_mask: "d%d_w%d.dir"}
  ensure_objects:
    - {count: 80, fill: random, size_distribution: {type: lognormal, mean: 8MiB, std_dev: 1MiB}, use_multi_endpoint: true}
workload: [{op: get, path: "d*_w*.dir/**/*", weight: 100, use_multi_endpoint: true}]
distributed:
  path_selection: random
  barrier_sync:
    enabled: true
    prepare: {type: all_or_nothing, heartbeat_interval: 120, agent_barrier_timeout: 2d}
    execute: {type: all_or_nothing}
  stages:
    - {name: preflight, order: 1, completion: validation_passed, type: validation, timeout_secs: 300}
    - {name: prepare, order: 2, completion: tasks_done, type: prepare}
    - {name: execute, order: 3, completion: duration, type: execute, duration: 30s}
  agents:
    - {address: "192.0.2.1:7761", id: agent-1, concurrency_override: 16, multi_endpoint: {endpoints: ["file:///mnt/1/", "file:///mnt/2/"]}}
    - {address: "192.0.2.2:7761", id: agent-2, concurrency_override: 16, multi_endpoint: {endpoints: ["file:///mnt/3/", "file:///mnt/4/"]}}
""")
    plan, assignments = config.compile_plan(config.load(path), "r", HOSTS)
    assert names(plan) == [("prepare", "prepare"), ("execute", "execute")]
    assert [a.ranges["prepared"] for a in assignments] == [((0, 40),), ((40, 80),)]
    assert (plan.agent_barrier_timeout_s, plan.of_agent(1).stages[0].concurrency) == (172800.0, 16)
