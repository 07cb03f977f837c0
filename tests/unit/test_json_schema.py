"""The schema for editors: it accepts what the validator accepts, and rejects what it can know of what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from sai3ssh import config
from sai3ssh.cli import app
from sai3ssh.config.json_schema import workload_schema
from sai3ssh.config.schema import NO_MEANING, OperationKeys, Section, StageKeys, WorkloadKeys
from sai3ssh.config.starter import SCHEMA_FILE
from sai3ssh.errors import ConfigError
from tests.unit.test_config import AZ, BAD, EFFECTS, GOOD, changed, compiled
from tests.unit.test_starter import CHOICES, OPTION, starter

SCHEMA = workload_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

BEYOND = {
    "keys that contradict each other, or the target, or the engine": (
        "contradict",
        "has no meaning for",
        "has no effect",
        "is for the cleanup that",
        "needs s3:// targets",
        "needs the native engine",
        "needs one endpoint",
        "one run has one kind of target",
        "no place in a zipf order",
        "expected a mount point",
        "some agents have a multi_endpoint",
        "directory_structure needs an entry",
        "stages is given both",
        "relative, but there is no target",
        "nothing to do",
        "nothing to execute",
        "nothing to verify",
        "count of the objects is missing",
    ),
    "figures that have to be compared with others, or counted": (
        "greater than",
        "leaves nothing of stage",
        "is not steady before",
        "whole number of rounds",
        "workers share a concurrency",
        "are more than stage",
        "more than an object can have",
        "more than one request can put",
        "S3 copies at most 5 GiB",
        "cannot be partitioned among",
        "directory_structure has",
        "can be told apart",
        "at most 10 years",
        "expected at least",
        "expected at most",
        "expected more than",
    ),
    "entries of lists that have to be compared": (
        "given twice",
        "two stages are named",
        "both have order",
        "after the cleanup stage",
        "is prepared after it",
        "is prepared by an earlier entry",
    ),
    "paths and URIs that are looked at closely, or compared": (
        "no objects are prepared there",
        "names a part of what is prepared",
        "found the pattern",
        "removes what mkdir has made",
        "cannot be the name of",
        "no names with an empty part",
        "needs an absolute path",
        "no control characters",
        "expected s3://host:port",
        "expected http://host:port",
        "is not below",
        "is below none",
    ),
    "what stands in the environment": ("environment", "in the file)"),
}
"""What no schema of keys and types can know: by reason, words of what the validator says."""


def errors(text: str) -> list[str]:
    try:
        data = yaml.safe_load(text)
        return [error.message for error in VALIDATOR.iter_errors(data)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [str(error)]


def test_it_is_a_schema_of_a_dialect_that_editors_know() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    references = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(SCHEMA))
    assert set(references) == set(SCHEMA["$defs"])


GOOD_FILES = {
    "good": GOOD,
    "az": AZ,
    **{name: changed(**keys) for name, (keys, _, _) in EFFECTS.items()},
    **{name: config.example_path(name).read_text() for name in ("quickstart-file.yml", "s3-mixed.yml", "s3-prepare.yml")},
    **{f"init {name}": starter(choices) for name, choices in CHOICES.items()},
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_good_files_are_accepted(name: str) -> None:
    assert errors(GOOD_FILES[name]) == []


def test_so_is_each_line_that_init_comments_out() -> None:
    lines = starter(CHOICES["all"]).splitlines()
    options = [n for n, line in enumerate(lines) if OPTION.match(line) and not line.startswith(("# Run it", "# A workload", "# Check"))]
    for chosen in options:
        assert errors("\n".join(OPTION.sub(r"\1\2", line) if n == chosen else line for n, line in enumerate(lines))) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_rejected_but_for_what_no_schema_can_know(name: str, tmp_path: Path) -> None:
    text, _ = BAD[name]
    if errors(text):
        return
    with pytest.raises(ConfigError) as caught:
        compiled(text, tmp_path)
    assert any(word in str(caught.value) for words in BEYOND.values() for word in words)


def test_that_is_most_of_what_it_can_know() -> None:
    rejected = [name for name, (text, _) in BAD.items() if errors(text)]
    assert len(rejected) > 100


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("concurrency: 8", "concurrency: ${N:-8}"),
        GOOD.replace("op: get", "op: '${OP}'"),
        GOOD.replace("weight: 70", 'weight: "${W}"'),
        GOOD.replace("s3://bench-bucket/run/", "${TARGET}"),
        GOOD.replace("30s", "${MINUTES}m"),
        GOOD + "verify_reads: ${V}\npin_workers: ${P:-true}\nsteady: ${S}\n",
        GOOD + "stages: [{name: a, config: {type: execute, duration: '1,000'}}]\n",
        GOOD + "".join(f"{key}: 1\n" for key in sorted(NO_MEANING)),
        GOOD + "distributed: {deployment: {x: 1}, agents: [{id: h1, listen_port: 7}]}\n",
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {fixed: 32KB}}\nworkload"),
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {lognormal: {mean: 1k, std_dev: 1k}}}\nworkload"),
        GOOD.replace("op: get,", "op: get, delete_batch: 1, dedup_factor: 1, delimiter: null,"),
    ],
)
def test_all_spellings_are_accepted(text: str, tmp_path: Path) -> None:
    assert errors(text) == []
    environ = {"N": "8", "W": "1", "OP": "get", "TARGET": "s3://buc/x/", "MINUTES": "3", "V": "5%", "S": "false"}
    compiled(text, tmp_path, **environ)


def models(model: type[BaseModel] = WorkloadKeys) -> Iterator[type[BaseModel]]:
    """All sections of a file."""
    yield model
    for field in model.model_fields.values():
        stack: list[Any] = [field.annotation]
        while stack:
            found = stack.pop()
            stack += get_args(found)
            if isinstance(found, type) and issubclass(found, BaseModel):
                yield from models(found)


@pytest.mark.parametrize("model", sorted(set(models()), key=lambda model: model.__name__))
def test_every_key_has_a_description_of_one_line_for_users(model: type[Section]) -> None:
    assert model.__doc__
    for key, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{key} has no description: put one, for users, in a string below it"
        assert re.fullmatch(r"\S.{5,150}\.", field.description), f"{model.__name__}.{key}: one line with a full stop at its end"
    assert set(model.only_for) | {key for groups in model.needs.values() for group in groups for key in group} <= set(model.model_fields)


def test_defaults_are_written_as_in_a_file() -> None:
    properties = SCHEMA["properties"]
    assert (properties["duration"]["default"], properties["op_log_max_bytes"]["default"]) == ("60s", "4GiB")
    assert "default" not in properties["s3"]
    assert properties["engine"]["default"] == "native"
    assert properties["target"]["examples"]
    assert properties["engine"]["anyOf"][0]["enum"] == ["native", "boto3"]


@pytest.mark.parametrize(("model", "place"), [(OperationKeys, "workload"), (StageKeys, "stages")])
def test_keys_of_some_operations_and_stages_are_refused_for_others(model: type[Section], place: str, tmp_path: Path) -> None:
    """The schema and compile_plan() agree about them."""
    decisive = "op" if model is OperationKeys else "type"
    values = get_args(model.model_fields[decisive].annotation)
    samples = {"object_size": 5, "size_spec": 5, "dedup_factor": 2, "compress_factor": 2, "key_selection": "zipf", "recursive": True}
    samples |= {"delete_batch": 5, "delimiter": "/", "duration": "20s", "steady": {"window": "5s", "min_duration": "5s"}}
    samples |= {"max_duration": "20s", "command": "/bin/true"}
    for key, allowed in model.only_for.items():
        for value in values:
            entry = {decisive: value, key: samples[key], **({"path": "data/", "weight": 1} if place == "workload" else {"name": "x"})}
            if value == "put" and key not in ("object_size", "size_spec"):
                entry["object_size"] = 5
            data = (
                changed(**{place: [entry]}) if value not in ("mkdir", "rmdir") else changed(target="file:///d/", s3=None, workload=[entry])
            )
            assert (errors(data) == []) == (value in allowed), (key, value, errors(data))
            if value not in allowed:
                with pytest.raises(ConfigError, match=r"has no meaning for|only get, stat and copy|no duration|can be steady|max_duration"):
                    compiled(data, tmp_path)


def test_the_command_writes_it_and_init_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    printed = runner.invoke(app, ["schema"])
    assert json.loads(printed.stdout) == SCHEMA
    assert runner.invoke(app, ["init", "before.yml"]).exit_code == 0
    assert "$schema" not in Path("before.yml").read_text()
    written = runner.invoke(app, ["schema", "--output", SCHEMA_FILE])
    assert (written.exit_code, json.loads(Path(SCHEMA_FILE).read_text())) == (0, SCHEMA)
    assert "# yaml-language-server: $schema=sai3ssh.schema.json" in written.stderr
    assert runner.invoke(app, ["init", "after.yml"]).exit_code == 0
    assert Path("after.yml").read_text().startswith("# yaml-language-server: $schema=sai3ssh.schema.json\n# A workload of sai3ssh")
    assert config.load(Path("after.yml")).keys == config.load(Path("before.yml")).keys.model_copy(update={"name": "after"})
    assert isinstance(runner.invoke(app, ["schema", "-o", "no/such/x"]).exception, ConfigError)
