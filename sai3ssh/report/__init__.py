"""The report of a run: one JSON document, and one HTML file that shows it and needs nothing else."""

from __future__ import annotations

from .document import document
from .page import html, write

__all__ = ["document", "html", "write"]
