"""The HTML file of a report: style, scripts and data are in it, and a policy that lets it load nothing and run nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..results.files import replace_file

Json = dict[str, Any]
NAME = "report.html"
SCRIPTS = ("base.js", "palette.js", "plots.js", "chart.js", "sections.js", "page.js")
"""Our own, in this order, in one scope."""


@cache
def source(name: str) -> str:
    """A file of static/."""
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")


@cache
def scripts() -> tuple[str, str]:
    """ECharts, and ours, which makes window.sai3ssh.render(document)."""
    return source("echarts.min.js"), "\n".join(source(name) for name in SCRIPTS)


def policy(style: str, *code: str) -> str:
    """The Content-Security-Policy under which just these run."""
    allowed = " ".join(_hash(one) for one in code)
    return f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def html(told: Json) -> str:
    """The report of a document."""
    packed = gzip.compress(json.dumps(told, separators=(",", ":")).encode(), 6, mtime=0)
    style, boot = source("report.css"), source("boot.js")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_template())
    verdict = told["verdict"]
    return template.render(
        policy=policy(style, *scripts(), boot),
        version=__version__,
        verdict=verdict["verdict"] if verdict else "RUNNING",
        reasons=verdict["reasons"] if verdict else [],
        name=told["run"]["name"],
        run_id=told["run"]["run_id"],
        style=style,
        scripts=scripts(),
        document=base64.b64encode(packed).decode(),
        boot=boot,
    )


def _template() -> str:
    return (resources.files(__package__) / "templates" / "report.html").read_text(encoding="utf-8")


def write(told: Json, run: Path, file: Path | None = None) -> Path:
    """Writes the report of a document, into the run directory unless another file is given; returns where. Raises OSError."""
    where = file if file is not None else run / NAME
    replace_file(where, [html(told)])
    return where
