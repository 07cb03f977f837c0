"""Finds what is wrong before a run does: from here to the hosts, and on the hosts by the agent's own `preflight` verb."""

from __future__ import annotations

from .examine import FEW_PROBES, Options, examine
from .junit import write_junit
from .names import check_skip, parse_ports
from .report import FLEET, Report, preflight_failed

__all__ = ["FEW_PROBES", "FLEET", "Options", "Report", "check_skip", "examine", "parse_ports", "preflight_failed", "write_junit"]
