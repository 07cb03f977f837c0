"""The agent's verbs. See ARCHITECTURE.md for who calls which."""

from __future__ import annotations

import argparse
import json
import sys
from typing import List, Optional

from sai3ssh.agent import state
from sai3ssh.errors import ConfigError
from sai3ssh.protocol import PROTOCOL


def main(argv: Optional[List[str]] = None) -> int:
    """Runs one verb and returns the exit code."""
    if sys.version_info < (3, 9):
        print(f"sai3ssh agent: Python 3.9 or later is needed, this is {sys.version.split()[0]} ({sys.executable})", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="agent.pyz", description="sai3ssh agent")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("version", help="version, digest and protocol as JSON")
    serve = verbs.add_parser("serve", help="the daemon; a second start answers 'already running'")
    serve.add_argument("--state")
    serve.add_argument("--foreground", action="store_true", help="do not detach (for systemd)")
    serve.add_argument("--halt", action="store_true", help="SIGTERM halts the runs too; the next start goes on with them")
    serve.add_argument("--keep-days", type=int, default=0, metavar="N", help="remove runs that ended longer ago; 0: keep them")
    serve.add_argument("--spool-max-bytes", type=int, default=0, metavar="B", help="remove the oldest runs above that; 0: keep them")
    serve.add_argument("--idle-s", type=float, default=0.0, metavar="S", help="end when not needed for so long; 0: stay")
    runs = verbs.add_parser("runs", help="the runs on this host as JSON; needs no daemon")
    runs.add_argument("--state")
    preflight = verbs.add_parser("preflight", help="what a run would need here, as JSON; the request comes on stdin")
    preflight.add_argument("--json", action="store_true", required=True, help="one line, the only form there is")
    follow = verbs.add_parser("follow", help="one controller's window: commands in, frames out")
    follow.add_argument("--nonce", required=True)
    follow.add_argument("--state")
    op_log = verbs.add_parser("oplog", help="the op-log of a run that has ended, as frames")
    op_log.add_argument("--nonce", required=True)
    op_log.add_argument("--state")
    op_log.add_argument("--from", dest="first", default="", metavar="SEGMENT", help="what comes before it is there already")
    op_log.add_argument("--offset", type=int, default=0, metavar="B", help="and so many bytes of it")
    op_log.add_argument("run_id")
    op_log.add_argument("agent_id")
    supervise = verbs.add_parser("supervise", help="one run (started by the daemon)")
    supervise.add_argument("directory")
    verbs.add_parser("work", help="one worker (started by a supervisor)")
    command = verbs.add_parser("command", help="the command of a stage (started by a worker)")
    command.add_argument("directory")
    command.add_argument("stage", type=int)
    command.add_argument("lock", type=int)
    arguments = parser.parse_args(argv)
    if arguments.verb == "version":
        print(json.dumps({**state.version(), "protocol": PROTOCOL}))
        return 0
    # Each verb loads only what it needs: a follow process is started at every reconnect.
    if arguments.verb in ("serve", "runs"):
        from sai3ssh.agent import daemon
        from sai3ssh.agent.rotation import Keep

        directory = state.state_dir(arguments.state)
        if arguments.verb == "runs":
            print(json.dumps({"runs": daemon.listing(directory)}))
            return 0
        if arguments.foreground:
            return daemon.main(directory, arguments.halt, Keep(arguments.keep_days, arguments.spool_max_bytes), arguments.idle_s)
        print(daemon.start(directory))
        return 0
    if arguments.verb == "preflight":
        try:
            from sai3ssh.agent import preflight as checks
        except ImportError as error:  # a Python built without OpenSSL, say
            print(f"sai3ssh agent: {sys.executable} lacks {error.name}. Install the whole python3 of the distribution", file=sys.stderr)
            return 2
        try:
            request = checks.read_request(sys.stdin.read())
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
        print(json.dumps(checks.answer(request)))
        return 0
    if arguments.verb == "follow":
        from sai3ssh.agent import follow as window

        return window.main(arguments.state, arguments.nonce)
    if arguments.verb == "oplog":
        from sai3ssh.agent import oplog_send

        a = arguments
        return oplog_send.main(a.state, a.nonce, a.run_id, a.agent_id, a.first, a.offset)
    if arguments.verb == "supervise":
        from sai3ssh.agent import supervisor

        return supervisor.main(arguments.directory)
    if arguments.verb == "command":
        from sai3ssh.agent import command as commands

        return commands.main(arguments.directory, arguments.stage, arguments.lock)
    from sai3ssh.agent import worker

    return worker.main()
