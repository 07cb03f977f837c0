"""The import rule of ARCHITECTURE.md, and that what runs on hosts needs nothing but Python 3.9."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sai3ssh

ROOT = Path(sai3ssh.__file__).parent
SHARED = {"__init__", "compact", "errors", "findings", "model", "oplog", "protocol", "histogram", "dataset"}
MAY_IMPORT = {
    "__init__": SHARED | {"api"},  # when it is asked for `run`, on no host
    "agent": SHARED | {"agent"},
    "bundle": SHARED,
    "config": SHARED | {"config"},
    "inventory": SHARED,
    "plain": set(),
    "retry": {"errors"},
    "transport": SHARED | {"retry", "transport"},
    "controller": SHARED | {"retry", "transport", "bundle", "controller"},
    "results": SHARED | {"plain", "results"},
    "report": SHARED | {"plain", "results", "report"},
    "provision": {"errors", "provision"},
    "preflight": SHARED | {"agent", "config", "retry", "transport", "bundle", "controller", "inventory", "preflight"},
    "web": SHARED | {"controller", "results", "report", "web"},
    "ui": SHARED | {"plain", "results", "config", "controller", "preflight", "provision", "ui"},
}
ONLY_IN = {
    "paramiko": ("transport/",),
    "tenacity": ("retry.py",),
    "pandas": ("results/",),
    "scipy": ("results/compare.py",),
    "orjson": ("results/",),
    "openpyxl": (),
    "pyarrow": ("results/export.py",),
    "xlsxwriter": ("results/workbook.py",),
    "ansible": ("inventory.py",),
    "ansible_runner": ("provision/",),
    "boto3": ("agent/engines/boto3_engine.py", "config/credentials.py"),
    "botocore": ("agent/engines/boto3_engine.py", "config/credentials.py"),
    "obstore": ("agent/engines/obstore_engine.py",),
    "rich": ("ui/",),
    "typer": ("cli.py", "commands/"),
    "pydantic": ("config/",),
    "yaml": ("config/",),
    "junitparser": ("preflight/",),
    "zstandard": ("results/oplog.py", "trace.py"),
    "jinja2": ("report/",),
    "starlette": ("web/",),
    "uvicorn": ("web/server.py",),
    "prometheus_client": ("web/metrics.py",),
    "opentelemetry": ("web/otlp.py",),
    "requests": ("web/otlp.py",),
    "pexpect": (),
    "jsonschema": (),
}
ON_HOSTS = {"agent", *SHARED}


def imported(source: str, relative: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, also those within functions."""
    package = ["sai3ssh", *Path(relative).parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "sai3ssh":
                yield from ((node.lineno, f"sai3ssh.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, name


def breaches(source: str, relative: str) -> list[str]:
    """What a file imports and must not."""
    part = Path(relative).parts[0].removesuffix(".py")
    found = []
    for line, name in imported(source, relative):
        top, _, rest = name.partition(".")
        if top == "sai3ssh":
            module = rest.partition(".")[0] or "__init__"
            if (ROOT / f"{module}.py").exists() or (ROOT / module).is_dir():
                allowed = MAY_IMPORT.get(part, SHARED if part in SHARED else None)
                if module == "cli" or (module == "commands" and part not in ("cli", "commands")):
                    found.append(f"{relative}:{line}: nobody imports {module}")
                elif allowed is not None and module not in allowed:
                    found.append(f"{relative}:{line}: {part} may not import sai3ssh.{module}")
        elif top in ONLY_IN and not relative.startswith(tuple(ONLY_IN[top]) or ("\0",)):
            found.append(f"{relative}:{line}: {top} may be imported only in {ONLY_IN[top]}")
        elif part in ON_HOSTS and top not in ONLY_IN and top not in sys.stdlib_module_names:
            found.append(f"{relative}:{line}: {top} is not of the standard library")
    return found


def files() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


def test_nothing_breaks_the_rule() -> None:
    found = [breach for relative in files() for breach in breaches((ROOT / relative).read_text(), relative)]
    assert found == []
    assert len(files()) > 50


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("agent/x.py", "from sai3ssh.controller import link"),
        ("agent/x.py", "import boto3"),
        ("agent/x.py", "from obstore.store import AzureStore"),
        ("agent/x.py", "def f():\n    import yaml"),
        ("model.py", "from sai3ssh import agent"),
        ("dataset.py", "import numpy"),
        ("controller/session.py", "import paramiko"),
        ("results/verdict.py", "from ..controller import run"),
        ("ui/board.py", "from ..cli import app"),
        ("matrix.py", "from .commands import runs"),
        ("transport/ssh.py", "import tenacity"),
        ("agent/x.py", "import pexpect"),
        ("results/merge.py", "from ..web import catalogue"),
        ("web/app.py", "import uvicorn"),
        ("web/metrics.py", "from opentelemetry.sdk.metrics import export"),
    ],
)
def test_a_planted_breach_is_found(relative: str, source: str) -> None:
    assert len(breaches(source, relative)) == 1


def test_what_runs_on_hosts_is_python_3_9() -> None:
    checked = 0
    for relative in files():
        if Path(relative).parts[0].removesuffix(".py") in ON_HOSTS:
            ast.parse((ROOT / relative).read_text(), feature_version=(3, 9))
            checked += 1
    assert checked > 20
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case 1: pass", feature_version=(3, 9))
