"""The dashboard for Grafana that shows what /metrics tells."""

from __future__ import annotations

from importlib import resources


def dashboard() -> str:
    """As JSON, to be imported."""
    return (resources.files(__package__) / "grafana.json").read_text(encoding="utf-8").rstrip()
