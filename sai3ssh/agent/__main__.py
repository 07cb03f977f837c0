"""`python -m sai3ssh.agent VERB`, the same as the zipapp."""

from sai3ssh.agent.cli import main

raise SystemExit(main())
