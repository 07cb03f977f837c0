"""What records leave out comes back."""

import json
import random
import unittest
import zlib
from binascii import a2b_base64, b2a_base64

from sai3ssh import compact
from sai3ssh.histogram import CELLS, Histogram


def histogram(rng, most=1000):
    return Histogram({rng.randrange(CELLS): rng.randrange(1, most) for _ in range(rng.choice([1, 3, 200]))})


class Histograms(unittest.TestCase):
    def record(self, rng, most=1000):
        """Fields of a hist record with all that it may have."""

        def region(cells, *names):
            return {
                "cells": cells.to_pairs(),
                "sum_ns": rng.randrange(9),
                **{name: rng.choice([0, rng.randrange(1 << 40)]) for name in names},
            }

        hist = {op: {bucket: histogram(rng, most) for bucket in buckets} for op, buckets in (("get", "135"), ("list", "0"))}
        first = Histogram()
        for bucket in hist["get"].values():
            first.merge(bucket)
        first.cells[7] = first.cells.get(7, 0) + 3
        first.cells.pop(next(iter(first.cells)))
        figures = ("max_ns", "bytes", "tail_ops", "tail_bytes")
        return {
            "stage": 1,
            "warmup": rng.choice([True, False]),
            "hist": {op: {name: region(cells, *figures) for name, cells in parts.items()} for op, parts in hist.items()},
            "splits": {
                "get": {"queue": region(histogram(rng)), "first_byte": region(first)},
                "list": {"first_byte": region(hist["list"]["0"])},
                "put": {"first_byte": region(histogram(rng))},
            },
            "endpoints": {"get": {"0": region(histogram(rng), "bytes", "max_ns", "errors", "retries")}},
        }

    def test_every_count_comes_back(self):
        rng = random.Random(4)
        for most in (2, 1000, 1 << 20, 1 << 50) * 5:
            fields = self.record(rng, most)
            packed = json.loads(json.dumps(compact.pack(fields)))
            self.assertEqual(compact.unpack({"kind": "hist", **packed}), {"kind": "hist", **fields})
        for empty in (
            {"stage": 0, "warmup": False, "hist": {}},
            {"stage": 0, "warmup": False, "hist": {"get": {"1": {"cells": [], "sum_ns": 0}}}},
        ):
            found = compact.unpack(compact.pack(empty))
            self.assertEqual(found["hist"].get("get", {"1": {"cells": []}})["1"]["cells"], [])

    def test_first_bytes_that_are_the_latencies_cost_nothing(self):
        fields = self.record(random.Random(1))
        del fields["endpoints"], fields["splits"]
        first = {"list": {"first_byte": {"cells": fields["hist"]["list"]["0"]["cells"], "sum_ns": 0}}}
        alone, both = (len(compact.pack(told)["cells"]) for told in (fields, {**fields, "splits": first}))
        self.assertLessEqual(both, alone + 12)

    def test_what_is_none_of_ours_is_a_value_error(self):
        packed = compact.pack(self.record(random.Random(2)))
        raw = zlib.decompress(a2b_base64(packed["cells"]), -15)

        def text(data):
            packer = zlib.compressobj(wbits=-15)
            return b2a_base64(packer.compress(data) + packer.flush()).decode()

        altered = [packed["cells"][:-8], "", "?", text(b""), text(raw[:-1]), text(raw + b"\0"), text(b"\3" + raw[1:]), text(bytes(1 << 25))]
        altered.append(text(raw[:4] + b"\xff\xff" + raw[6:]))  # a first cell beyond the last
        altered.append(text(raw[:2] + b"\1\0" + raw[4:8] + bytes(2 * int.from_bytes(raw[6:8], "little"))))  # one histogram
        for cells in altered:
            with self.assertRaises(ValueError):
                compact.unpack({**packed, "cells": cells})
        self.assertEqual(compact.unpack({**packed, "cells": text(raw)}), compact.unpack(packed))


class Seconds(unittest.TestCase):
    def test_all_comes_back(self):
        quiet = {
            "kind": "sec", "warmup": False, "done": 0, "ops": {"get": [3, 4, 5, 1, 1, 1, 1]}, "requests": {"get": 3}, "retries": {},
            "retried": {}, "errors": {}, "host": {},
        }  # fmt: skip
        eventful = {
            **quiet, "warmup": True, "done": 7, "requests": {"get": 4, "put": 2}, "retries": {"get": 3},
            "retried": {"get": {"reset": 1, "timeout": 2}}, "errors": {"put": {"http_503": 2}},
        }  # fmt: skip
        for record in (quiet, eventful, {**quiet, "kind": "lost"}, {**eventful, "kind": "gap"}, {**quiet, "requests": {"get": 0}}):
            told = compact.without(record)
            self.assertNotIn("retries", told)
            self.assertEqual(compact.within(json.loads(json.dumps(told))), record)
        self.assertEqual(sorted(compact.without(quiet)), ["host", "kind", "ops"])
        self.assertEqual(compact.within(compact.without({**quiet, "requests": {}}))["requests"], {"get": 0})


if __name__ == "__main__":
    unittest.main()
