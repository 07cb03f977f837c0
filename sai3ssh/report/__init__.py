"""The report of a run: one JSON document, and one HTML file that shows it and needs nothing else."""

from __future__ import annotations

from .document import document

__all__ = ["document"]
