"""Who of several controllers that want a run may have it."""

import types
import unittest
from unittest import mock

from sai3ssh.agent import state
from sai3ssh.agent.supervisor import Supervisor
from sai3ssh.errors import Superseded, Transient

SECOND = 10**9


class Claims(unittest.TestCase):
    """The agent was steered by `first`; `alive` are controllers and when each was last known to be alive, in seconds."""

    def setUp(self):
        self.now, self.alive = 100, {}
        desk = types.SimpleNamespace(controllers=self.controllers)
        release = types.SimpleNamespace(controller="first")
        plan = types.SimpleNamespace(heartbeat_s=1.0)
        self.supervisor = types.SimpleNamespace(_desk=desk, _release=release, _plan=plan, _claims={})

    def controllers(self, since_ns):
        return {name: at * SECOND for name, at in self.alive.items() if at * SECOND >= since_ns}

    def ask(self, controller, at):
        self.now = at
        with mock.patch.object(state, "clock_ns", lambda: self.now * SECOND):
            try:
                Supervisor._check_alone(self.supervisor, controller)
            except (Superseded, Transient) as refusal:
                return type(refusal).__name__
        return "granted"

    def test_one_that_is_in_charge_and_alive_keeps_the_run(self):
        self.alive = {"first": 99, "second": 100}
        self.assertEqual(self.ask("second", 100), "Transient")
        self.alive["first"] = 101
        self.assertEqual(self.ask("second", 102), "Superseded")

    def test_one_that_is_in_charge_and_dead_is_waited_for(self):
        self.alive = {"first": 99, "second": 100}
        self.assertEqual([self.ask("second", at) for at in (100, 105, 109, 110)], ["Transient", "Transient", "Transient", "granted"])

    def test_of_two_that_want_the_run_of_a_dead_one_the_earlier_has_it(self):
        """Both left it to the other, and nobody had it."""
        self.alive = {"first": 99, "second": 100}
        self.assertEqual(self.ask("second", 100), "Transient")
        self.alive.update(second=103, third=103)
        self.assertEqual(self.ask("third", 103), "Transient")
        self.alive.update(second=105, third=105)
        self.assertEqual(self.ask("second", 105), "Transient")
        self.alive.update(second=110, third=110)
        self.assertEqual(self.ask("third", 110), "Superseded")
        self.assertEqual(self.ask("second", 110), "granted")
