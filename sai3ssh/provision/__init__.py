"""Deploys, upgrades and removes agents: the playbooks, run through ansible-runner."""

from .play import Play, run
from .progress import Failure, HostRow, Progress

__all__ = ["Failure", "HostRow", "Play", "Progress", "run"]
