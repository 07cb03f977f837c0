"""sai3ssh: a distributed storage benchmark that the network cannot kill."""

__version__ = "0.1.0"
