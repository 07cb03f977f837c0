"""What a worker does in a stage, against an engine whose outcomes the test decides."""

import contextlib
import dataclasses
import os
import random
import tempfile
import unittest
from collections import Counter

from sai3ssh.agent import metrics
from sai3ssh.agent.batches import BatchedIndexWork, BatchedMixWork
from sai3ssh.agent.engines.base import DELETE, GET, MKDIR, PUT, RMDIR, STAT, PlainTask, RepeatedTask, Root, Task
from sai3ssh.agent.engines.tasks import DeleteBatch
from sai3ssh.agent.mix import CountedMixWork, MixWork
from sai3ssh.agent.pacing import Pacer, Ramp
from sai3ssh.agent.recovery import Recovered
from sai3ssh.agent.stage import Published
from sai3ssh.agent.verify import LISTED, TRIES, VerifyWork
from sai3ssh.agent.work import FEW, Fatal, IndexWork, Objects, Recorder
from sai3ssh.model import (
    ERROR_CLASSES,
    OPERATIONS,
    ErrorLimits,
    Intervals,
    IoRate,
    KeySelection,
    OperationSpec,
    Population,
    SizeSpec,
    Stage,
    StageKind,
)

SECOND = 1_000_000_000


class FakeEngine:
    def root(self, uri):
        return Root(uri)


def population(name="prepared", count=1000):
    return Population(name, "s3://b/p/", f"{name}-%08d.dat", count, SizeSpec("fixed", 4096, 4096), 7)


class Base(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.cells = metrics.create(os.path.join(directory.name, "m"))
        self.recorder = Recorder(self.cells)
        self.reader = metrics.Reader(self.cells)
        self.clock = 0

    def objects(self, *populations):
        return {p.name: Objects(FakeEngine(), p) for p in populations}


class Makers(Base):
    def kind(self, op, count, key_format="prepared-%08d.dat"):
        objects = self.objects(dataclasses.replace(population(count=count), key_format=key_format))["prepared"]
        task = objects.maker(op, lambda: count - 1)(5)
        self.assertEqual((task.op, task.key, task.size, task.index, task.start_ns), (op, key_format % (count - 1), 4096, count - 1, 5))
        return type(task)

    def test_plain_gets_of_few_objects_are_made_again(self):
        self.assertIs(self.kind(GET, FEW), RepeatedTask)
        self.assertIs(self.kind(GET, FEW + 1), PlainTask)
        self.assertIs(self.kind(STAT, 10), PlainTask)
        self.assertIs(self.kind(GET, 10, "a b-%08d"), Task)


class Prepare(Base):
    def work(self, owned, outage_timeout_s=10.0, op=PUT):
        return IndexWork(
            op, self.objects(population()), {"prepared": Intervals(owned)}, self.recorder,
            outage_timeout_s=outage_timeout_s, target="http://s3", now_ns=lambda: self.clock,
        )  # fmt: skip

    def test_every_index_once_and_the_ledger_tells_which(self):
        work = self.work([(0, 5), (990, 993)])
        tasks = []
        while (task := work.next(self.clock)) is not None:
            tasks.append(task)
        self.assertEqual([t.index for t in tasks], [0, 1, 2, 3, 4, 990, 991, 992])
        self.assertEqual((tasks[0].key, tasks[0].size, tasks[0].uri), ("prepared-00000000.dat", 4096, "s3://b/p/prepared-00000000.dat"))
        for task in (tasks[7], tasks[0], tasks[1], tasks[3]):
            work.done(task, 10, 4096)
        self.assertEqual(work.take_finished(), {"prepared": [(0, 2), (3, 4), (992, 993)]})
        self.assertEqual(work.take_finished(), {})
        self.assertFalse(work.finished)
        for task in (tasks[2], tasks[4], tasks[5], tasks[6]):
            work.done(task, 10, 4096)
        self.assertTrue(work.finished)
        self.assertEqual(work.take_finished(), {"prepared": [(2, 3), (4, 5), (990, 992)]})
        self.assertEqual(self.reader.completed(PUT), 8)

    def test_nothing_owned_is_finished_at_once(self):
        self.assertTrue(self.work([]).finished)

    def test_a_failed_index_comes_back_after_a_pause(self):
        work = self.work([(0, 2)])
        first, second = work.next(0), work.next(0)
        work.failed(first, SECOND, "http_503", "SlowDown", True)
        work.done(second, SECOND, 4096)
        self.assertIsNone(work.next(SECOND))
        self.assertGreater(work.wake_ns, SECOND)
        again = work.next(work.wake_ns)
        self.assertEqual(again.index, 0)
        work.done(again, 2 * SECOND, 4096)
        self.assertTrue(work.finished)
        self.assertEqual(work.take_finished(), {"prepared": [(0, 2)]})
        self.assertEqual(self.reader.delta(0).counters()["errors"], {"put": {"http_503": 1}})

    def test_an_outage_ends_the_stage_at_its_deadline_only(self):
        work = self.work([(0, 10)], outage_timeout_s=10.0)
        work.failed(work.next(0), 10 * SECOND, "refused", "connection refused", False)
        with self.assertRaises(Fatal) as caught:
            work.failed(work.next(0), 10 * SECOND + 1, "refused", "connection refused", False)
        self.assertIn("nothing has succeeded for 10 s (target_outage_timeout 10 s)", str(caught.exception))
        self.assertIn("s3://b/p/prepared-00000001.dat", str(caught.exception))

    def test_what_a_person_must_mend_is_fatal_at_once(self):
        for error_class in ("http_403", "http_404", "permission", "tls"):
            with self.assertRaises(Fatal, msg=error_class):
                work = self.work([(0, 1)])
                work.failed(work.next(0), 1, error_class, "no", True)

    def test_populations_are_filled_together_in_proportion(self):
        owned = {"prepared": Intervals([(0, 6)]), "deletable": Intervals([(0, 2), (8, 9)])}
        work = IndexWork(
            PUT, self.objects(population(), population("deletable")), owned, self.recorder,
            outage_timeout_s=10.0, target="http://s3", interleaved=True,
        )  # fmt: skip
        tasks = iter(lambda: work.next(0), None)
        self.assertEqual("".join(f"{task.owner[0]}{task.index} " for task in tasks), "p0 d0 p1 p2 d1 p3 p4 d8 p5 ")

    def best_effort(self, owned):
        self.notices = []
        return IndexWork(
            DELETE, self.objects(population()), {"prepared": Intervals(owned)}, self.recorder, outage_timeout_s=10.0, target="http://s3",
            unsure=["prepared"], best_effort=True, notice=self.notices.append, now_ns=lambda: self.clock,
        )  # fmt: skip

    def test_a_cleanup_that_does_what_it_can_leaves_what_it_cannot_delete(self):
        work = self.best_effort([(0, 4)])
        for error_class in ("http_403", "http_404"):
            work.failed(work.next(0), 1, error_class, "no", True)
        work.done(work.next(0), 1, 0)
        for n in range(1, TRIES + 1):
            work.failed(work.next(n * SECOND if n == 1 else work.wake_ns), n * SECOND, "http_500", "InternalError", True)
        self.assertTrue(work.finished)
        self.assertEqual(work.take_finished(), {"prepared": [(0, 4)]})
        self.assertEqual(self.reader.delta(0).counters()["errors"], {"delete": {"http_403": 1, "http_500": TRIES}})
        self.assertEqual(len(self.notices), 1)
        self.assertIn("an object stays, others may: DELETE s3://b/p/prepared-00000000.dat", self.notices[0])

    def test_a_cleanup_that_does_what_it_can_ends_in_order_in_an_outage(self):
        work = self.best_effort([(0, 10)])
        first, second = work.next(0), work.next(0)
        for task in (first, second):
            work.failed(task, 10 * SECOND + 1, "refused", "connection refused", False)
        self.assertTrue(work.finished)
        self.assertFalse(work.stopped)
        self.assertIsNone(work.next(20 * SECOND))
        self.assertEqual(len(self.notices), 1)
        self.assertIn("10 objects stay: DELETE s3://b/p/prepared-00000000.dat", self.notices[0])

    def test_cleanup_takes_a_missing_object_for_deleted(self):
        work = self.work([(0, 1)], op=DELETE)
        work.failed(work.next(0), 1, "not_found", "gone", True)
        self.assertTrue(work.finished)


class Verify(Base):
    def work(self, owned, unsure=(), outage_timeout_s=60.0):
        self.verify = VerifyWork(
            self.objects(population(count=5000)), {"prepared": Intervals(owned)}, self.recorder,
            outage_timeout_s=outage_timeout_s, target="http://s3", unsure=unsure, now_ns=lambda: 0,
        )  # fmt: skip
        return self.verify

    def errors(self):
        return {ERROR_CLASSES[code]: n for code, n in self.reader.delta(0).errors.get(GET, {}).items()}

    def test_what_is_missing_or_wrong_is_told_with_the_ledger_and_the_stage_goes_on(self):
        work = self.work([(0, 5)])
        tasks = [work.next(0) for _ in range(5)]
        self.assertEqual({(task.op, task.size) for task in tasks}, {(GET, 4096)})
        work.done(tasks[0], 5, 4096)
        work.failed(tasks[1], 5, "http_404", "NoSuchKey", True)
        work.failed(tasks[3], 5, "verify", "the bytes differ", True)
        self.assertEqual(work.take_finished(), {"prepared": [(0, 2), (3, 4)]})
        self.assertEqual(
            work.take_unreadable(),
            {"prepared": {"count": 2, "errors": {"http_404": 1, "verify": 1}, "objects": [
                {"object": "s3://b/p/prepared-00000001.dat", "error": "http_404", "detail": "NoSuchKey"},
                {"object": "s3://b/p/prepared-00000003.dat", "error": "verify", "detail": "the bytes differ"},
            ]}},
        )  # fmt: skip
        self.assertEqual(work.take_unreadable(), {})
        work.done(tasks[2], 6, 4096)
        self.assertFalse(work.finished)
        work.failed(tasks[4], 7, "not_found", "No such file", True)
        self.assertTrue(work.finished)
        self.assertEqual(self.reader.completed(GET) + self.reader.not_found, 5)
        self.assertEqual(self.errors(), {"http_404": 1, "verify": 1, "not_found": 1})

    def test_names_are_bounded_and_the_count_is_not(self):
        work = self.work([(0, LISTED + 50)])
        for _ in range(LISTED + 50):
            work.failed(work.next(0), 1, "not_found", "x" * 1000, True)
        told = work.take_unreadable()["prepared"]
        self.assertEqual((told["count"], told["errors"], len(told["objects"])), (LISTED + 50, {"not_found": LISTED + 50}, LISTED))
        self.assertEqual(len(told["objects"][0]["detail"]), 300)
        self.assertTrue(work.finished)

    def test_an_agent_lists_no_more_names_than_one_worker(self):
        stage = Published(Stage("v", StageKind.VERIFY, 1), 0, [self.reader], 0)
        told = [stage.list_unreadable({"count": 700, "errors": {}, "objects": [{}] * 700}) for _ in range(3)]
        self.assertEqual([(part["count"], len(part["objects"])) for part in told], [(700, 700), (700, LISTED - 700), (700, 0)])

    def test_what_may_have_been_deleted_is_not_missing_but_can_be_wrong(self):
        work = self.work([(0, 2)], unsure=["prepared"])
        work.failed(work.next(0), 1, "http_404", "NoSuchKey", True)
        work.failed(work.next(0), 1, "verify", "the bytes differ", True)
        self.assertEqual(work.take_unreadable()["prepared"]["errors"], {"verify": 1})
        self.assertTrue(work.finished)
        counted = self.reader.delta(0)
        self.assertEqual((counted.errors, counted.requests), ({GET: {ERROR_CLASSES.index("verify"): 1}}, {GET: 2}))

    def test_an_object_that_fails_while_others_are_read_is_given_up(self):
        work = self.work([(0, 2)])
        bad, good = work.next(0), work.next(0)
        for n in range(1, TRIES):
            work.failed(bad, n * 10 * SECOND // TRIES, "http_500", "InternalError", True)
            bad = work.next(work.wake_ns)
            self.assertEqual(bad.index, 0)
        work.done(good, 10 * SECOND, 4096)
        self.assertEqual(work.take_unreadable(), {})
        work.failed(bad, 11 * SECOND, "http_500", "InternalError", True)
        self.assertEqual([found["error"] for found in work.take_unreadable()["prepared"]["objects"]], ["http_500"])
        self.assertTrue(work.finished)

    def test_an_outage_gives_no_object_up(self):
        work = self.work([(0, 1)], outage_timeout_s=20)
        now = 0
        for _ in range(2 * TRIES):
            now += SECOND
            work.failed(work.next(work.wake_ns or 0), now, "http_503", "SlowDown", True)
        self.assertEqual((work.finished, work.take_unreadable()), (False, {}))
        with self.assertRaisesRegex(Fatal, "nothing has succeeded for 21 s"):
            work.failed(work.next(work.wake_ns), 21 * SECOND, "http_503", "SlowDown", True)

    def test_the_last_objects_that_answer_with_errors_for_good_are_told_and_hang_nobody(self):
        work = self.work([(0, 4)], outage_timeout_s=600)
        tasks = [work.next(0) for _ in range(4)]
        for task in tasks[:2]:
            work.done(task, SECOND, 4096)
        for n, task in enumerate(tasks[2:]):  # their first failures come after the last success
            work.failed(task, (2 + n) * SECOND, "http_500", "InternalError", True)
        now = 4 * SECOND
        for _ in range(2 * TRIES - 2):
            now += 10 * SECOND
            work.failed(work.next(now), now, "http_500", "InternalError", True)
        self.assertTrue(work.finished)
        told = work.take_unreadable()["prepared"]
        self.assertEqual((told["count"], told["errors"]), (2, {"http_500": 2}))

    def test_a_target_that_says_something_is_missing_has_no_outage(self):
        work = self.work([(0, 3)], outage_timeout_s=20)
        first, second, third = (work.next(0) for _ in range(3))
        work.failed(first, 19 * SECOND, "http_404", "NoSuchKey", True)
        work.failed(second, 30 * SECOND, "http_503", "SlowDown", True)
        with self.assertRaises(Fatal):
            work.failed(third, 40 * SECOND, "http_503", "SlowDown", True)

    def test_what_a_person_must_mend_is_fatal(self):
        with self.assertRaises(Fatal):
            self.work([(0, 2)]).failed(self.verify.next(0), 1, "http_403", "AccessDenied", True)


class BatchesInMix(Base):
    def work(self, limits=ErrorLimits(0, 0, 1.0), pacer=None, concurrency=None):  # noqa: B008 (frozen)
        mix = [
            OperationSpec("delete", 1, "s3://b/p/", "deletable", delete_batch=10, concurrency=concurrency),
            OperationSpec("stat", 1, "s3://b/p/", "prepared"),
        ]
        return BatchedMixWork(
            FakeEngine(), mix, self.objects(population("prepared"), population("deletable")), {"deletable": Intervals([(0, 95)])},
            self.recorder, put_format="put-w0-%010d.dat", mkdir_format="mkdir-w0-%d/", seed="s/0", limits=limits, end_ns=SECOND,
            notice=lambda text: None, pacer=pacer,
        )  # fmt: skip

    def batches(self, work):
        tasks = [work.next(5) for _ in range(100)]
        return [task for task in tasks if isinstance(task, DeleteBatch)], [task for task in tasks if not isinstance(task, DeleteBatch)]

    def test_each_object_is_deleted_once(self):
        work = self.work()
        batches, others = self.batches(work)
        self.assertEqual([one.index for batch in batches for one in batch.tasks], list(range(95)))
        self.assertEqual([len(batch.tasks) for batch in batches], [10] * 9 + [5])
        batches[0].refused = {batches[0].tasks[0]: ("http_503", "slow")}
        for task in batches[:2] + others:
            work.done(task, 50, 0)
        work.failed(batches[2], 50, "reset", "hung up", True)
        self.assertEqual(work.take_finished(), {"deletable": [(1, 20)]})
        delta = self.reader.delta(0)
        self.assertEqual(sum(delta.regions[DELETE, 0].cells.values()), 19)
        counters = delta.counters()
        self.assertEqual(counters["requests"], {"delete": 3, "stat": len(others)})
        self.assertEqual(counters["errors"], {"delete": {"http_503": 1, "reset": 10}})

    def test_a_failed_request_is_one_error_as_to_limits(self):
        work = self.work(limits=ErrorLimits(3, 0.0, 1.0))
        batches, _ = self.batches(work)
        for batch in batches[:3]:
            work.failed(batch, 50, "reset", "hung up", True)
        batches[3].refused = dict.fromkeys(batches[3].tasks, ("http_503", "slow"))
        with self.assertRaises(Fatal):
            work.done(batches[3], 50, 0)

    def test_a_batch_is_one_operation_in_flight(self):
        work = self.work(concurrency=2)
        batches, _ = self.batches(work)
        self.assertEqual(len(batches), 2)
        batches[0].refused = {batches[0].tasks[3]: ("http_503", "slow")}
        work.done(batches[0], 50, 0)
        work.failed(batches[1], 50, "reset", "", True)
        self.assertEqual(len(self.batches(work)[0]), 2)
        ramp = Ramp(0.5, 4, (0, 1), 0)
        work = self.work(pacer=ramp)
        begun = []
        for at in range(400_000_000, 400_000_100):
            task = work.next(at)
            begun += [task] if task is not None else []
        self.assertEqual(len(begun), 4)
        for task in begun:
            work.done(task, 400_000_200, 0)
        self.assertEqual(ramp.due_ns(400_000_300), 400_000_300, "all have ended, each once")


class Killed(BaseException):
    """As SIGKILL: between any two writes."""


class Dying:
    """Cells of a worker that is killed before it writes once more than `writes` times."""

    def __init__(self, cells):
        self.cells = cells
        self.writes = 1 << 62

    def __getitem__(self, at):
        return self.cells[at]

    def __setitem__(self, at, value):
        self.writes -= 1
        if self.writes < 0:
            raise Killed
        self.cells[at] = value


class KilledWorker(Base):
    def test_what_is_counted_agrees_wherever_a_worker_is_killed(self):
        for op, kind in ((PUT, StageKind.PREPARE), (DELETE, StageKind.CLEANUP), (GET, StageKind.VERIFY)):
            for missing in (False,) if op == PUT else (False, True):
                self.check(op, Stage("s", kind, 1, populations=("prepared",)), missing)

    def check(self, op, stage, missing):
        stage_of = Published(stage, 0, [self.reader], 0)
        dying = Dying(self.cells)
        finished = began = stage_of.finished(0)
        counted = 0
        for writes in range(8):
            recorder = Recorder(dying)
            parts = (self.objects(population()), {"prepared": Intervals([(0, 9)])}, recorder)
            options = {"outage_timeout_s": 1, "target": "", "unsure": ["prepared"]}
            work = VerifyWork(*parts, **options) if op == GET else IndexWork(op, *parts, **options)
            dying.writes = writes
            try:
                task = work.next(0)
                if missing:
                    work.failed(task, 5, "not_found", "", True)
                else:
                    work.done(task, 5, 4096)
            except Killed:
                pass
            delta = self.reader.delta(0)
            ops = sum(sum(region.cells.values()) for region in delta.regions.values())
            finished, before = stage_of.finished(0), finished
            counted += ops
            if not missing:
                self.assertEqual((finished - before, delta.requests.get(op, 0)), (ops, ops), writes)
        self.assertGreater(finished, began)
        self.assertEqual(counted == 0, missing)


class Batches(Base):
    def work(self, size, ranges=((0, 25),), **keywords):
        objects = {name: Objects(FakeEngine(), population(name, 1000)) for name in ("prepared", "other")}
        owned = {"prepared": Intervals(ranges), "other": Intervals(((0, 3),))}
        options = {"outage_timeout_s": 100, "target": "", "batch": size, "now_ns": lambda: 0, **keywords}
        return BatchedIndexWork(DELETE, objects, owned, self.recorder, **options)

    def requests(self):
        return self.reader.delta(0).counters()

    def test_every_object_is_in_one_batch_and_batches_have_one_root(self):
        work = self.work(10)
        batches = [work.next(5) for _ in range(4)]
        self.assertIsNone(work.next(5))
        self.assertEqual([len(batch.tasks) for batch in batches], [10, 10, 5, 3])
        self.assertEqual([{one.root for one in batch.tasks} for batch in batches], [{batch.root} for batch in batches])
        for at, batch in enumerate(batches):
            work.done(batch, 100 + at, 0)
        self.assertEqual(work.take_finished(), {"prepared": [(0, 25)], "other": [(0, 3)]})
        self.assertTrue(work.finished)
        delta = self.reader.delta(0)
        self.assertEqual((sum(delta.regions[DELETE, 0].cells.values()), delta.regions[DELETE, 0].max_ns), (28, 98))
        self.assertEqual(delta.counters()["requests"], {"delete": 4})

    def test_what_was_not_deleted_goes_back_to_the_queue(self):
        work = self.work(10, ranges=((0, 10),))
        batch = work.next(0)
        batch.refused = {batch.tasks[0]: ("http_503", "slow"), batch.tasks[4]: ("http_503", "slow"), batch.tasks[7]: ("http_404", "none")}
        work.done(batch, 5, 0)
        self.assertEqual(work.take_finished(), {"prepared": [(1, 4), (5, 10)]})
        counters = self.requests()
        self.assertEqual((counters["requests"], counters["errors"]), ({"delete": 1}, {"delete": {"http_503": 2, "http_404": 1}}))
        self.assertEqual([one.index for one in work.next(0).tasks], [0, 1, 2])
        self.assertIsNone(work.next(10))
        again = work.next(SECOND)
        self.assertEqual(sorted(one.index for one in again.tasks), [0, 4])
        again.refused = dict.fromkeys(again.tasks, ("http_404", "gone"))
        work.done(again, SECOND, 0)
        self.assertEqual(self.requests()["requests"], {"delete": 1}, "of a batch of which nothing was deleted, too")

    def test_a_request_that_failed_comes_back_as_one(self):
        work = self.work(1000, ranges=((0, 1000),))
        batch = work.next(0)
        work.failed(batch, 5, "reset", "hung up", True)
        counters = self.requests()
        self.assertEqual((counters["requests"], counters["errors"]), ({"delete": 1}, {"delete": {"reset": 1000}}))
        work.next(5)
        self.assertEqual(sorted(one.index for one in work.next(work.wake_ns or SECOND).tasks), list(range(1000)))

    def test_objects_that_may_not_be_there_are_no_errors(self):
        work = self.work(10, ranges=((0, 4),), unsure=["prepared"])
        batch = work.next(0)
        batch.refused = dict.fromkeys(batch.tasks, ("http_404", "none"))
        work.done(batch, 5, 0)
        counters = self.requests()
        self.assertEqual((counters["requests"], counters["errors"], self.reader.not_found), ({"delete": 1}, {}, 4))

    def test_a_server_that_cannot_do_it_ends_the_stage_and_says_what_to_do(self):
        for error_class in ("http_404", "http_5xx", "http_4xx", "http_400"):
            work = self.work(10)
            with self.assertRaises(Fatal) as caught:
                work.failed(work.next(0), 5, error_class, "DELETE of 10 objects: HTTP 501", True)
            self.assertIn("set delete_batch: 1", str(caught.exception))
        work = self.work(10)
        with self.assertRaises(Fatal):
            work.failed(work.next(0), 5, "http_403", "", True)

    def test_a_stop_gives_out_nothing_more(self):
        work = self.work(25)
        work.next(0)
        work.stop()
        self.assertIsNone(work.next(0))

    def test_a_worker_that_is_killed_counts_a_request_too_many_at_most(self):
        for writes in range(12):
            dying = Dying(self.cells)
            work = self.work(3, ranges=((0, 3),))
            work._recorder = Recorder(dying)
            batch = work.next(0)
            dying.writes = writes
            with contextlib.suppress(Killed):
                work.done(batch, 5, 0)
            delta = self.reader.delta(0)
            ops = sum(sum(region.cells.values()) for region in delta.regions.values())
            self.assertIn(delta.requests.get(DELETE, 0), (1, 2) if ops else (0,))


class Late(Base):
    def test_a_new_supervisor_does_not_tell_again_how_late_the_load_was_before_it_came(self):
        self.recorder.late(30 * SECOND)
        stage = Published(Stage("s", StageKind.EXECUTE, 1, 60.0), 0, [self.reader], 0)
        stage.resume(Recovered(), 0, SECOND, "the supervisor died")
        self.recorder.late(SECOND // 2)
        ((_, second),) = stage.second(2 * SECOND)
        self.assertEqual(second["host"]["late_ms"], 500.0)


class Names(unittest.TestCase):
    def test_when_only_the_journal_is_left_names_of_puts_and_of_copies_are_counted(self):
        past = Recovered()
        record = {"requests": {}, "retried": {}, "errors": {"copy": {"http_500": 2}, "get": {"http_500": 9}}}
        past.told[0].second({**record, "ops": {"put": [10, 0, 0], "copy": [5, 0, 0], "get": [100, 0, 0]}})
        past.told[0].second({**record, "errors": {}, "ops": {"put": [4, 0, 0], "copy": [7, 0, 0]}})
        done, peak, concurrency = 10 + 5 + 4 + 7 + 2, 10 + 7, 3
        self.assertEqual(past.puts_at_most(2, Stage("s", StageKind.EXECUTE, concurrency, 60.0)), done + 2 * peak + concurrency)


class Mix(Base):
    def work(self, mix, *, deletable=(), limits=ErrorLimits(0, 0, 1.0), end_ns=SECOND, count=1000, pacer=None, kind=MixWork, **rest):  # noqa: B008 (frozen)
        self.notices = []
        return kind(
            FakeEngine(), mix, self.objects(population("prepared", count), population("deletable", count)),
            {"deletable": Intervals(deletable)}, self.recorder, put_format="put-w0-%010d.dat", mkdir_format="mkdir-w0-%d/", seed="s/0",
            limits=limits, end_ns=end_ns, notice=self.notices.append, pacer=pacer, **rest,
        )  # fmt: skip

    def test_beyond_the_error_rate_it_pauses_where_a_backoff_is_given(self):
        limits = ErrorLimits(0, 2.0, 1.0, 5.0)
        work = self.work((OperationSpec("get", 1, "s3://b/p/", "prepared"),), limits=limits, end_ns=10 * SECOND)
        tasks = [work.next(0) for _ in range(5)]
        for task in tasks[:2]:
            work.failed(task, 1, "http_500", "no", True)
        self.assertIsNotNone(work.next(1))
        work.failed(tasks[2], 2, "http_500", "no", True)
        self.assertIsNone(work.next(3))
        self.assertEqual(work.wake_ns, 5 * SECOND + 2)
        work.failed(tasks[3], SECOND, "http_500", "no", True)
        self.assertEqual(len(self.notices), 1)
        self.assertIn("no operations for 5 s (error_handling.backoff_duration): more than 2 errors/s over 1 s", self.notices[0])
        self.assertIsNotNone(work.next(work.wake_ns))
        # A pause is over with the stage.
        for _ in range(3):
            work.failed(tasks[4], 8 * SECOND, "http_500", "no", True)
        self.assertIsNone(work.next(8 * SECOND))
        self.assertEqual(work.wake_ns, 10 * SECOND)
        self.assertFalse(work.finished)
        self.assertIsNone(work.next(10 * SECOND))
        self.assertTrue(work.finished)

    def test_errors_count_towards_the_total_in_a_pause_too(self):
        work = self.work((OperationSpec("get", 1, "s3://b/p/", "prepared"),), limits=ErrorLimits(4, 1.0, 1.0, 5.0))
        tasks = [work.next(0) for _ in range(5)]
        for task in tasks[:4]:
            work.failed(task, 1, "http_500", "no", True)
        with self.assertRaises(Fatal) as caught:
            work.failed(tasks[4], 1, "http_500", "no", True)
        self.assertIn("more than 4 errors (error_handling.max_total_errors)", str(caught.exception))

    def test_a_number_of_operations_ends_the_mix(self):
        mix = (OperationSpec("get", 1, "s3://b/p/", "prepared"),)
        for begun, left in ((0, 3), (2, 1), (3, 0), (4, 0)):
            work = self.work(mix, kind=CountedMixWork, tasks=3, begun=begun)
            self.assertEqual(len(list(iter(lambda work=work: work.next(0), None))), left)
            self.assertTrue(work.finished)
        work = self.work(mix, kind=CountedMixWork, tasks=3, begun=0)
        work.next(0)
        self.assertFalse(work.finished)
        self.assertIsNone(work.next(SECOND))
        self.assertTrue(work.finished)

    def test_operations_that_have_ended_are_counted_with_errors_and_warm_up(self):
        work = self.work((OperationSpec("get", 1, "s3://b/p/", "prepared"),))
        self.recorder.warmup_until_ns = 5
        for at in (0, 0, 6, 6):
            work.done(work.next(at), at + 1, 4096)
        work.failed(work.next(7), 7, "http_500", "no", True)
        work.retried(work.next(7), "http_500", True)
        self.assertEqual(metrics.ended(self.cells), 5)

    def test_weights_are_kept(self):
        mix = [
            OperationSpec("get", 60, "s3://b/p/", "prepared"),
            OperationSpec("put", 30, "s3://b/new/", size=SizeSpec("uniform", 1, 9)),
            OperationSpec("list", 10, "s3://b/p/"),
            OperationSpec("stat", 0, "s3://b/p/", "prepared"),
        ]
        work = self.work(mix)
        tasks = [work.next(5) for _ in range(20_000)]
        counts = Counter(OPERATIONS[task.op] for task in tasks)
        self.assertEqual(set(counts), {"get", "put", "list"})
        for name, weight in (("get", 0.6), ("put", 0.3), ("list", 0.1)):
            self.assertAlmostEqual(counts[name] / 20_000, weight, delta=0.015)
        puts = [task for task in tasks if task.op == PUT]
        self.assertEqual([task.key for task in puts], [f"put-w0-{n:010d}.dat" for n in range(len(puts))])
        self.assertEqual({task.size for task in puts}, set(range(1, 10)))
        gets = {task.index for task in tasks if task.op == 0}
        self.assertGreater(len(gets), 990)
        self.assertTrue(gets <= set(range(1000)))
        work.failed(puts[3], 9, "http_500", "x", True)
        made = work.result()["puts"]
        self.assertEqual(made, [{"target": "s3://b/new/", "key_format": "put-w0-%010d.dat", "count": len(puts), "failed": [3]}])

    DIRECTORIES = (
        OperationSpec("mkdir", 1, "file:///d/"),
        OperationSpec("rmdir", 1, "file:///d/"),
        OperationSpec("mkdir", 1, "file:///e/"),
    )

    def test_rmdir_removes_what_this_workers_mkdir_has_made_once_it_is_there(self):
        work = self.work(self.DIRECTORIES)
        there, removed, failed, in_flight = [], [], [], []
        rng = random.Random(3)
        for _ in range(3000):
            task = work.next(5)
            self.assertEqual(task.key, f"mkdir-w0-{task.index}/")
            if task.op == RMDIR:
                self.assertEqual(task.root.uri, "file:///d/")
                self.assertEqual(task.index, there.pop(0), "what was there first")
            in_flight.append(task)
            if len(in_flight) < 4:
                continue
            task = in_flight.pop(rng.randrange(4))
            if task.root.uri == "file:///e/":
                work.done(task, 9, 0)
            elif rng.random() < 0.02:
                work.failed(task, 9, "io", "x", True)
                failed += [task.index] if task.op == MKDIR else []
            else:
                work.done(task, 9, 0)
                (there if task.op == MKDIR else removed).append(task.index)
        self.assertGreater(len(removed), 700)
        one, other = work.result()["puts"]
        self.assertEqual((one["target"], one["key_format"], one["failed"], one["unsure"]), ("file:///d/", "mkdir-w0-%d/", failed, True))
        self.assertEqual([n for lo, hi in one["removed"] for n in range(lo, hi)], sorted(removed))
        self.assertLess(len(one["removed"]), 100)
        self.assertEqual((other["target"], other["removed"], other["unsure"]), ("file:///e/", [], False))
        self.assertEqual(self.reader.names, one["count"] + other["count"])
        self.assertEqual(self.notices, [])

    def test_rmdir_leaves_the_mix_of_a_worker_that_makes_no_directories(self):
        # The first worker makes directories, the second has none to remove.
        mix = [
            OperationSpec("stat", 1, "file:///d/", "prepared"),
            OperationSpec("mkdir", 1, "file:///d/", concurrency=1),
            self.DIRECTORIES[1],
        ]
        for worker in (0, 1):
            work = self.work(mix, lane=(worker, 2))
            kinds = set()
            for _ in range(200):
                task = work.next(5)
                kinds.add(OPERATIONS[task.op])
                work.done(task, 9, 0)
            self.assertEqual(kinds, {"stat"} if worker else {"stat", "mkdir", "rmdir"})
            self.assertEqual(self.notices, ["no directories left to remove: rmdir leaves the mix for the rest of the stage"] * worker)

    def test_rmdir_waits_for_the_directory_that_is_being_made(self):
        for limit in (None, 5):
            work = self.work(
                [OperationSpec("mkdir", 1, "file:///d/", concurrency=1), OperationSpec("rmdir", 9, "file:///d/", concurrency=limit)]
            )
            made = work.next(5)
            self.assertEqual((made.op, work.next(5), work.finished, work.wake_ns), (MKDIR, None, False, None))
            work.done(made, 9, 0)
            self.assertEqual({work.next(9).op, work.next(9).op}, {MKDIR, RMDIR})
            self.assertEqual(self.notices, [])

    def test_a_list_with_a_delimiter_lists_one_level(self):
        for delimiter in ("", "/"):
            work = self.work([OperationSpec("list", 1, "s3://b/p/", delimiter=delimiter)])
            self.assertEqual(work.next(5).delimiter, delimiter)

    def test_copies_have_new_names_and_the_sizes_of_what_they_copy(self):
        mix = [
            OperationSpec("copy", 1, "s3://b/p/", "prepared", keys=KeySelection("sequential")),
            OperationSpec("put", 1, "s3://b/p/", size=SizeSpec("uniform", 1, 9)),
        ]
        work = self.work(mix, owned={"prepared": Intervals([(0, 1000)])})
        tasks = [work.next(5) for _ in range(100)]
        self.assertEqual([task.key for task in tasks], [f"put-w0-{n:010d}.dat" for n in range(100)], "no name is used twice")
        copies = [task for task in tasks if OPERATIONS[task.op] == "copy"]
        self.assertGreater(len(copies), 20)
        self.assertEqual([(task.source.key, task.size) for task in copies], [(f"prepared-{n:08d}.dat", 4096) for n in range(len(copies))])
        self.assertEqual({task.start_ns for task in copies}, {5})
        work.failed(copies[3], 9, "http_500", "x", True)
        made = {"target": "s3://b/p/", "key_format": "put-w0-%010d.dat", "count": 100, "failed": [copies[3].index]}
        self.assertEqual(work.result()["puts"], [made])
        self.assertEqual(self.reader.names, 100)

    def test_gets_and_stats_follow_their_key_selection(self):
        mix = [
            OperationSpec("get", 1, "s3://b/p/", "prepared", keys=KeySelection("sequential")),
            OperationSpec("stat", 1, "s3://b/p/", "prepared", keys=KeySelection("zipf", 1.5, partitioned=True)),
        ]
        work = self.work(mix, owned={"prepared": Intervals([(100, 300)])}, lane=(1, 2))
        tasks = [work.next(5) for _ in range(1000)]
        gets = [task.index for task in tasks if OPERATIONS[task.op] == "get"]
        self.assertEqual(gets, [(101 + 2 * n) % 1000 for n in range(len(gets))], "from the agent's own part, in this worker's lane")
        stats = Counter(task.index for task in tasks if OPERATIONS[task.op] == "stat")
        self.assertTrue(set(stats) <= set(range(100, 300)))
        self.assertGreater(stats.most_common(1)[0][1], sum(stats.values()) / 4)
        self.assertEqual({task.key for task in tasks}, {f"prepared-{task.index:08d}.dat" for task in tasks})

    POOLED = (
        OperationSpec("get", 1, "s3://b/p/", "prepared", put_pool=True),
        OperationSpec("put", 1, "s3://b/p/new/", size=SizeSpec("uniform", 1, 9000)),
        OperationSpec("put", 1, "s3://b/elsewhere/", size=SizeSpec("fixed", 1, 1)),
    )

    def test_gets_take_what_was_put_once_it_is_acknowledged(self):
        work = self.work(self.POOLED, count=100)
        acknowledged, gets, expected = {}, Counter(), 0.0
        for n in range(20_000):
            task = work.next(5)
            if task.op != PUT:
                gets[task.root.uri] += 1
                expected += len(acknowledged) / (100 + len(acknowledged))
                if task.root.uri == "s3://b/p/new/":
                    made = acknowledged[task.key]
                    self.assertEqual((task.size, task.index), (made.size, made.index))
                    self.assertIs(task.content, made.content)
                else:
                    self.assertEqual(task.size, 4096)
                work.done(task, 9, task.size)
            elif n % 10 == 0:
                work.failed(task, 9, "http_500", "x", True)
            elif n % 2:  # the others stay in flight
                if task.root.uri == "s3://b/p/new/":
                    acknowledged[task.key] = task
                work.done(task, 9, task.size)
        self.assertEqual(set(gets), {"s3://b/p/", "s3://b/p/new/"}, "none of those that were put elsewhere")
        self.assertAlmostEqual(gets["s3://b/p/new/"] / expected, 1, delta=0.02, msg="as often as any other object")

    def test_gets_take_what_was_put_in_an_earlier_stage(self):
        pools = []
        before = self.work(self.POOLED[1:2], pools=pools)
        self.assertEqual(pools, [], "nobody reads them")
        before = self.work(self.POOLED[:2], count=1, pools=pools)
        puts = [task for task in (before.next(5) for _ in range(100)) if task.op == PUT]
        for task in puts:
            before.done(task, 9, task.size)
        work = self.work(self.POOLED[:1], count=1, pools=pools)
        keys = {work.next(5).key for _ in range(2000)}
        self.assertEqual(keys, {"prepared-00000000.dat", *(task.key for task in puts)})

    def test_a_get_of_the_agents_own_part_takes_each_object_as_often(self):
        keys = KeySelection(partitioned=True)
        mix = [OperationSpec("get", 1, "s3://b/p/", "prepared", keys=keys, put_pool=True), self.POOLED[1]]
        work = self.work(mix, owned={"prepared": Intervals([(0, 50)])})
        while work.result()["puts"] == [] or work.result()["puts"][0]["count"] < 50:
            task = work.next(5)
            work.done(task, 9, task.size)
        gets = [task for task in (work.next(5) for _ in range(20_000)) if task.op != PUT]
        self.assertAlmostEqual(sum(task.root.uri == "s3://b/p/" for task in gets) / len(gets), 0.5, delta=0.02)

    def test_data_have_the_factors_of_their_populations_and_puts(self):
        put = OperationSpec("put", 1, "s3://b/n/", size=SizeSpec("fixed", 8192, 8192), dedup_factor=50.0, compress_factor=2.0)
        tasks = [self.work([put], count=1).next(0)]
        reduced = dataclasses.replace(population(), dedup_factor=50.0, compress_factor=2.0)
        tasks.append(self.objects(reduced)["prepared"].task(PUT, 3, 0))
        for task in tasks:
            objects = [task.content.head(index, 8192) for index in range(100)]
            self.assertEqual({data[1023 - 511 : 1024] for data in objects}, {bytes(512)})
            self.assertLess(len(set(objects)), 5)

    def test_nothing_begins_at_or_after_the_end(self):
        work = self.work([OperationSpec("get", 1, "s3://b/p/", "prepared")], end_ns=100)
        self.assertIsNotNone(work.next(99))
        self.assertIsNone(work.next(100))
        self.assertTrue(work.finished)

    def test_the_end_can_come_earlier_than_planned(self):
        work = self.work([OperationSpec("get", 1, "s3://b/p/", "prepared")], end_ns=SECOND)
        tasks = [work.next(now_ns) for now_ns in (0, 10, 20)]
        work.done(tasks[0], 30, 4096)
        work.end_at(100)
        work.done(tasks[1], 100, 4096)
        self.assertIsNotNone(work.next(99))
        self.assertIsNone(work.next(100))
        self.assertTrue(work.finished)
        work.done(tasks[2], 101, 4096)
        (region,) = self.reader.delta(0).regions.values()
        self.assertEqual((sum(region.cells.values()), region.tail_ops, region.tail_bytes), (3, 1, 4096))

    def test_a_schedule_knows_of_an_earlier_end(self):
        work = self.paced(iops=10.0)
        self.assertIsNotNone(work.next(0))
        self.assertIsNone(work.next(1))
        self.assertEqual(work.wake_ns, SECOND // 10)
        work.end_at(SECOND // 20)
        self.assertIsNone(work.next(2))
        self.assertEqual(work.wake_ns, SECOND // 20)
        self.assertIsNone(work.next(SECOND // 20))
        self.assertTrue(work.finished)

    def paced(self, iops=10.0):
        mix = [OperationSpec("get", 1, "s3://b/p/", "prepared")]
        return self.work(mix, pacer=Pacer(IoRate(iops, "deterministic"), 1.0, 0.0, 0, random.Random(1)))

    LIMITED = (
        OperationSpec("get", 98, "s3://b/p/", "prepared", concurrency=3),
        OperationSpec("stat", 2, "s3://b/p/", "prepared"),
        OperationSpec("list", 0, "s3://b/p/", concurrency=9),
    )

    def test_an_operation_has_as_many_in_flight_as_it_may_and_the_others_have_its_turns(self):
        work = self.work(self.LIMITED)
        in_flight = [work.next(5) for _ in range(40)]
        gets = [task for task in in_flight if OPERATIONS[task.op] == "get"]
        self.assertEqual((len(gets), in_flight[3].op == gets[0].op), (3, False))
        work.done(in_flight[-1], 9, 0)
        work.done(gets.pop(), 9, 4096)
        work.failed(gets.pop(), 9, "http_500", "x", True)
        after = [work.next(5) for _ in range(40)]
        self.assertEqual(sum(OPERATIONS[task.op] == "get" for task in after), 2, "one succeeded, one failed: both have left")
        self.assertEqual(self.notices, [], "nothing has left the mix")

    def test_nothing_begins_while_every_operation_is_at_its_limit(self):
        work = self.work([OperationSpec("get", 1, "s3://b/p/", "prepared", concurrency=2)])
        first, _ = work.next(5), work.next(5)
        self.assertEqual((work.next(5), work.wake_ns, work.finished), (None, None, False))
        work.done(first, 9, 4096)
        self.assertIsNotNone(work.next(5))
        self.assertIsNone(work.next(5))
        self.assertIsNone(work.next(SECOND))
        self.assertTrue(work.finished)

    def test_what_waits_for_its_turn_in_an_open_loop_is_late(self):
        mix = [OperationSpec("get", 1, "s3://b/p/", "prepared", concurrency=1)]
        work = self.work(mix, pacer=Pacer(IoRate(10.0, "deterministic"), 1.0, 0.0, 0, random.Random(1)))
        first = work.next(0)
        self.assertIsNone(work.next(SECOND // 2))
        work.done(first, SECOND // 2, 4096)
        self.assertEqual(work.next(SECOND // 2).start_ns, SECOND // 10)

    def test_workers_share_the_concurrency_of_an_operation(self):
        mix = [
            OperationSpec("get", 50, "s3://b/p/", "prepared", concurrency=2),
            OperationSpec("put", 50, "s3://b/new/", size=SizeSpec("fixed", 1, 1), concurrency=5),
        ]
        counts = []
        for n in range(4):
            work = self.work(mix, lane=(n, 4))
            tasks = list(iter(lambda: work.next(5), None))  # noqa: B023 (used up at once)
            counts.append(Counter(OPERATIONS[task.op] for task in tasks))
        self.assertEqual([(c["get"], c["put"]) for c in counts], [(0, 2), (1, 1), (1, 1), (0, 1)])

    def test_an_operation_that_few_workers_perform_has_its_share_all_the_same(self):
        mix = [
            OperationSpec("put", 30, "s3://b/new/", size=SizeSpec("fixed", 1, 1), concurrency=2),
            OperationSpec("list", 50, "s3://b/p/"),
            OperationSpec("stat", 20, "s3://b/p/", "prepared"),
        ]
        counts = Counter()
        for n in range(5):
            work = self.work(mix, lane=(n, 5))
            for _ in range(4000):
                task = work.next(5)
                counts[OPERATIONS[task.op]] += 1
                work.done(task, 9, max(task.size, 0))  # one at a time: no limit is ever reached
        for op, share in (("put", 0.3), ("list", 0.5), ("stat", 0.2)):
            self.assertAlmostEqual(counts[op] / 20_000, share, delta=0.012)

    def test_every_worker_deletes_its_own_objects_whatever_the_limit(self):
        mix = [OperationSpec("delete", 1, "s3://b/p/", "deletable", concurrency=1), OperationSpec("list", 1, "s3://b/p/")]
        for n in range(3):
            work = self.work(mix, deletable=[(n * 10, n * 10 + 10)], lane=(n, 3))
            found = set()
            for _ in range(100):
                task = work.next(5)
                if task.op == DELETE:
                    found.add(task.index)
                work.done(task, 9, 0)
            self.assertEqual(found, set(range(n * 10, n * 10 + 10)))

    def test_what_a_stop_cuts_off_is_beyond_no_error_limit(self):
        work = self.work([OperationSpec("get", 1, "s3://b/p/", "prepared")], limits=ErrorLimits(1, 1.0, 1.0))
        tasks = [work.next(5) for _ in range(9)]
        work.stop()
        for task in tasks:
            work.failed(task, 6, "other", "the run was stopped", False)

    def test_a_sequence_with_few_in_flight_leaves_out_no_object(self):
        keys = KeySelection("sequential")
        mix = [
            OperationSpec("get", 50, "s3://b/p/", "prepared", keys=keys, concurrency=2),
            OperationSpec("stat", 50, "s3://b/p/", "prepared", concurrency=7),
        ]
        found = set()
        for n in range(4):
            work = self.work(mix, count=100, lane=(n, 4))
            for _ in range(400):
                task = work.next(5)
                if OPERATIONS[task.op] == "get":
                    found.add(task.index)
                work.done(task, 9, 4096)
        self.assertEqual(found, set(range(100)))

    def test_deletes_with_a_limit_leave_the_mix_when_none_is_left(self):
        work = self.work(
            [OperationSpec("delete", 1, "s3://b/p/", "deletable", concurrency=1), OperationSpec("get", 1, "s3://b/p/", "prepared")],
            deletable=[(3, 6)],
        )
        for _ in range(100):
            work.done(work.next(5), 9, 0)
        self.assertEqual(work.take_finished(), {"deletable": [(3, 6)]})
        self.assertEqual(len(self.notices), 1)

    def test_an_open_loop_begins_what_is_due_and_latency_counts_from_then(self):
        work = self.paced()
        self.assertEqual(work.next(0).start_ns, 0)
        self.assertIsNone(work.next(1))
        self.assertEqual(work.wake_ns, SECOND // 10)
        self.assertFalse(work.finished)
        # The target was busy for a while: what was due meanwhile is late already when it begins.
        self.assertEqual([work.next(SECOND // 2).start_ns for _ in range(5)], [SECOND * n // 10 for n in range(1, 6)])
        self.assertIsNone(work.next(SECOND // 2))
        for n in range(6, 10):
            self.assertIsNotNone(work.next(SECOND * n // 10))
        self.assertIsNone(work.next(SECOND - 1))
        self.assertEqual(
            (work.wake_ns, work.finished), (SECOND, False), "the stage ends when its time is over, not with its last operation"
        )
        self.assertIsNone(work.next(SECOND))
        self.assertEqual((work.finished, self.notices), (True, []))

    def test_a_closed_loop_with_a_ramp_fills_up(self):
        mix = [
            OperationSpec("get", 1, "s3://b/p/", "prepared"),
            OperationSpec("delete", 1, "s3://b/p/", "deletable"),
            OperationSpec("list", 1, "s3://b/p/", concurrency=1),
        ]
        work = self.work(mix, deletable=[(0, 1000)], pacer=Ramp(0.4, 4, (0, 1), 0))

        def take(now_ns):
            return list(iter(lambda: work.next(now_ns), None))

        (first,) = take(0)
        self.assertEqual((first.start_ns, work.wake_ns), (0, SECOND // 10))
        self.assertEqual(take(SECOND // 20), [])
        work.failed(first, SECOND // 20, "http_500", "x", True)
        (again,) = take(SECOND // 20)
        self.assertEqual(again.start_ns, SECOND // 20, "latency counts from when it began: nothing was due")
        second, third = take(SECOND // 5)
        self.assertEqual(work.wake_ns, 3 * SECOND // 10)
        work.done(again, SECOND // 4, 0)
        self.assertEqual(len(take(SECOND // 4)), 1)
        # The ramp is over with the first end after it; then the engine alone limits what is in flight.
        work.done(second, SECOND // 2, 0)
        work.done(third, SECOND // 2, 0)
        tasks = [work.next(SECOND // 2) for _ in range(200)]
        self.assertNotIn(None, tasks)
        self.assertLessEqual(sum(OPERATIONS[task.op] == "list" for task in tasks), 1, "an operation's own limit goes on")
        deletes = [task for task in tasks if task.op == DELETE]
        for task in deletes:
            work.done(task, SECOND // 2, 0)
        self.assertGreaterEqual(sum(hi - lo for lo, hi in work.take_finished()["deletable"]), len(deletes))
        self.assertIsNone(work.next(SECOND))
        self.assertEqual((work.finished, self.notices), (True, []))

    def test_an_open_loop_that_ends_behind_its_schedule_says_so(self):
        work = self.paced()
        work.next(0)
        self.assertIsNone(work.next(SECOND))
        self.assertEqual(len(self.notices), 1)
        self.assertIn("about 9 operations were due and had not begun", self.notices[0])
        work = self.paced()
        work.next(0)
        work.stop()
        self.assertIsNone(work.next(SECOND))
        self.assertEqual(self.notices, [], "it was stopped")

    def test_delete_takes_each_object_once_and_then_leaves_the_mix(self):
        work = self.work(
            [OperationSpec("delete", 1, "s3://b/p/", "deletable"), OperationSpec("get", 1, "s3://b/p/", "prepared")],
            deletable=[(3, 8), (20, 22)],
        )
        tasks = [work.next(5) for _ in range(100)]
        deletes = [task for task in tasks if task.op == DELETE]
        self.assertEqual([task.index for task in deletes], [3, 4, 5, 6, 7, 20, 21])
        self.assertEqual(len(self.notices), 1)
        for task in deletes[:-1]:
            work.done(task, 9, 0)
        self.assertEqual(work.take_finished(), {"deletable": [(3, 8), (20, 21)]})

    def test_only_deletes_and_none_left_ends_the_stage(self):
        work = self.work([OperationSpec("delete", 1, "s3://b/p/", "deletable")], deletable=[(0, 1)])
        self.assertIsNotNone(work.next(5))
        self.assertIsNone(work.next(5))
        self.assertTrue(work.finished)

    def test_error_limits(self):
        mix = [OperationSpec("get", 1, "s3://b/p/", "prepared")]
        work = self.work(mix, limits=ErrorLimits(3, 0, 1.0))
        for n in range(3):
            work.failed(work.next(5), n, "http_404", "NoSuchKey", True)
        with self.assertRaises(Fatal) as caught:
            work.failed(work.next(5), 4, "http_404", "NoSuchKey", True)
        self.assertIn("more than 3 errors", str(caught.exception))
        work = self.work(mix, limits=ErrorLimits(0, 2.0, 1.0))
        for n in range(10):
            work.failed(work.next(5), n * SECOND, "reset", "x", True)
        work.failed(work.next(5), 10 * SECOND, "reset", "x", True)
        work.failed(work.next(5), 10 * SECOND + 1, "reset", "x", True)
        with self.assertRaises(Fatal) as caught:
            work.failed(work.next(5), 10 * SECOND + 2, "reset", "x", True)
        self.assertIn("2 errors/s", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
