"""The engine that brings its own server: it needs nobody, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import textwrap
import unittest

from tests.agent.s3_server import wait_for

PROGRAM = textwrap.dedent(
    """
    import json, sys
    from sai3ssh.agent.engines import make_engine
    from sai3ssh.agent.engines.base import GET, PUT
    from sai3ssh.dataset import Content
    from sai3ssh.model import Deadlines, Retry, Target
    from tests.agent.s3_server import CountingWork, task

    engine = make_engine(Target("null"), "s3://null/70000/", None, Deadlines(5, 5, 10), Retry(0))
    engine.check(write=True)
    root = engine.root("s3://null/70000/")
    work = CountingWork([task(root, op, "k%d" % n, 70000, n, Content(1)) for n in range(50) for op in (GET, PUT)])
    engine.run(work, 8)
    children = open("/proc/self/task/%d/children" % __import__("os").getpid()).read().split()
    print(json.dumps([len(work.dones), work.bytes, work.failures, children]))
    sys.stdout.flush()
    sys.stdin.read()
    """
)


class TestNullEngine(unittest.TestCase):
    def gone(self, end):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "HOME": "/nowhere"},
        )
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.stdout.close)
        dones, size, failures, children = json.loads(process.stdout.readline())
        self.assertEqual((dones, size, failures, len(children)), (100, 100 * 70000, [], 1))
        end(process)
        process.wait(30)
        self.assertEqual(process.stdout.read(), "", "its pipe is closed although the server may go on for a moment")
        wait_for(lambda: not os.path.exists("/proc/%s" % children[0]), "the end of the server")

    def test_its_server_ends_with_it(self):
        self.gone(lambda process: process.stdin.close())

    def test_and_when_it_is_killed(self):
        self.gone(lambda process: process.kill())


if __name__ == "__main__":
    unittest.main()
