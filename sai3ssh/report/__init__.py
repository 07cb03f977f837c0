"""The report of a run, or of a series of runs: one JSON document, and one HTML file that shows it and needs nothing else."""

from __future__ import annotations

from .document import document
from .matrix import matrix
from .page import html, write

__all__ = ["document", "html", "matrix", "write"]
