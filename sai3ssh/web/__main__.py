"""The page beside a run, in a process of its own; what it is to show comes from standard input."""

import sys

from .server import child

child(sys.stdin)
