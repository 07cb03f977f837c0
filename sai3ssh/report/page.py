"""The HTML file of a report: style, scripts and data are in it, and a policy that lets it load nothing and run nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..results.files import replace_file

Json = dict[str, Any]
NAME = "report.html"
_SHARED = ("base.js", "palette.js", "chart.js", "shell.js")
SCRIPTS = (*_SHARED, "plots.js", "sections.js", "page.js")
"""Our own of a run's page, in this order, in one scope."""
MATRIX_SCRIPTS = (*_SHARED, "matrix.js")
"""Those of a series' page."""


@cache
def source(name: str) -> str:
    """A file of static/."""
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")


def scripts(names: Iterable[str]) -> tuple[str, str]:
    """ECharts, and ours, which makes window.sai3ssh.render(document)."""
    return source("echarts.min.js"), "\n".join(source(name) for name in names)


def policy(style: str, *code: str) -> str:
    """The Content-Security-Policy under which just these run."""
    allowed = " ".join(_hash(one) for one in code)
    return f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def html(told: Json) -> str:
    """The report of a document, of a run or of a series."""
    packed = gzip.compress(json.dumps(told, separators=(",", ":")).encode(), 6, mtime=0)
    style, boot = source("report.css"), source("boot.js")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_template())
    verdict = told["verdict"]
    about = told.get("run") or told["series"]
    code = scripts(SCRIPTS if "run" in told else MATRIX_SCRIPTS)
    return template.render(
        policy=policy(style, *code, boot),
        version=__version__,
        verdict=verdict["verdict"] if verdict else "RUNNING",
        reasons=verdict["reasons"] if verdict else [],
        name=about["name"],
        run_id=about["run_id"],
        style=style,
        scripts=code,
        document=base64.b64encode(packed).decode(),
        boot=boot,
    )


def _template() -> str:
    return (resources.files(__package__) / "templates" / "report.html").read_text(encoding="utf-8")


def write(told: Json, directory: Path, file: Path | None = None) -> Path:
    """Writes the report of a document, into the directory unless another file is given; returns where. Raises OSError."""
    where = file if file is not None else directory / NAME
    replace_file(where, [html(told)])
    return where
