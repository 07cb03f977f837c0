"""The file that init writes: valid as it is, and with anything in it that is commented out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sai3ssh import config
from sai3ssh.cli import app
from sai3ssh.config.starter import Choices, parse_mix, starter
from sai3ssh.errors import ConfigError
from sai3ssh.model import Host

HOSTS = [Host("h1", "h1")]
CHOICES = {
    "s3": Choices("s3://bucket/x/", endpoint="http://127.0.0.1:9000"),
    "aws": Choices("s3://bucket/x/"),
    "file": Choices("file:///mnt/test/"),
    "put only": Choices("s3://bucket/x/", mix={"put": 1}),
    "all": Choices("s3://bucket/x/", mix={"get": 1, "put": 1, "list": 1, "stat": 1, "delete": 1}),
}
OPTION = re.compile(r"^(\s*)# (\w+: .*)$")


@pytest.mark.parametrize("choices", CHOICES.values(), ids=list(CHOICES))
def test_it_is_a_workload_and_so_is_each_line_that_is_commented_out(choices: Choices, tmp_path: Path) -> None:
    text = starter(choices)
    lines = text.splitlines()
    options = [n for n, line in enumerate(lines) if OPTION.match(line) and not line.startswith(("# Run it", "# A workload", "# Check"))]
    assert len(options) >= 5
    for chosen in [None, *options]:
        tried = [OPTION.sub(r"\1\2", line) if n == chosen else line for n, line in enumerate(lines)]
        file = tmp_path / "w.yml"
        file.write_text("\n".join(tried))
        loaded = config.load(file)
        assert loaded.notices == ()
        plan, _ = config.compile_plan(loaded, "r", HOSTS)
        assert {op.kind for stage in plan.stages for op in stage.operations} == set(choices.mix or {"get": 1, "put": 1})


def test_flags_choose(tmp_path: Path) -> None:
    file = tmp_path / "my load.yml"
    words = [
        "init",
        str(file),
        "--target",
        "file:///mnt/x/",
        "--size",
        "1MiB",
        "--objects",
        "50",
        "--duration",
        "5m",
        "--mix",
        "get=1,stat=2",
    ]
    done = CliRunner().invoke(app, [*words, "--concurrency", "3"])
    assert done.exit_code == 0, done.output
    keys = config.load(file).keys
    assert (keys.name, keys.target, keys.duration, keys.concurrency) == ("my-load", "file:///mnt/x/", 300.0, 3)
    assert (keys.prepare.ensure_objects[0].count, [op.op for op in keys.workload]) == (50, ["get", "stat"])
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, ConfigError)
    assert "is there already" in str(again.exception)
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0


@pytest.mark.parametrize("text", ["get", "get=x", "get=70,get=30", "read=70", ""])
def test_a_mix_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected operations with weights"):
        parse_mix(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "big"], "--size: expected a size"),
        (["--duration", "long"], "--duration"),
        (["--target", "nowhere"], "--target: expected a URI"),
        (["--duration", "0s"], "--duration: expected more than nothing, found '0s'"),
        (["--mix", "get=0,put=0"], "--mix 'get=0,put=0': expected a weight above 0"),
        (["--endpoint", "host:9000"], "--endpoint: expected http://host:port or https://host, found 'host:9000'"),
        (
            ["--endpoint", "http://me:Secret@h"],
            "--endpoint: expected http://host:port or https://host and nothing else, found 'http://...@h'",
        ),
        (["--endpoint", "http://h", "--target", "file:///mnt/x/"], "--endpoint: it has no meaning for file:///mnt/x/"),
    ],
)
def test_flags_that_are_wrong_write_nothing(words: list[str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "w.yml"
    done = CliRunner().invoke(app, ["init", str(file), *words])
    assert said in str(done.exception)
    assert not file.exists()
