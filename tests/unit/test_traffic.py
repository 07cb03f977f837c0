"""What a link counts, against a conversation whose content is known."""

from __future__ import annotations

from sai3ssh.controller.traffic import Traffic


def test_what_is_taken_is_counted_once() -> None:
    traffic = Traffic()
    traffic.round_trip(2_000_000)
    traffic.round_trip(3_000_000)
    traffic.received(700)
    traffic.journalled(0, 500, 4, 10.0)
    taken = traffic.take()
    assert (taken["rtt"]["sum_ns"], taken["rtt"]["max_ns"]) == (5_000_000, 3_000_000)
    assert sum(taken["rtt"]["cells"][1::2]) == 2
    assert {name: taken[name] for name in taken if name != "rtt"} == {
        "received_bytes": 700,
        "records": 4,
        "refetched_bytes": 0,
        "refetched_records": 0,
        "resume_s": [],
    }
    assert traffic.take() == {**taken, "rtt": None, "received_bytes": 0, "records": 0}


def test_what_was_journalled_while_the_link_was_down_is_told_apart() -> None:
    traffic = Traffic()
    traffic.journalled(0, 1000, 10, 1.0)
    traffic.reconnected(began_s=20.0, now_s=20.3, offset=1000, committed=1800)
    traffic.journalled(1000, 600, 6, 20.5)
    traffic.journalled(1600, 300, 3, 20.6)
    traffic.journalled(1900, 100, 1, 21.0)
    taken = traffic.take()
    assert (taken["refetched_bytes"], taken["refetched_records"]) == (800, 9)
    assert taken["records"] == 20
    assert taken["resume_s"] == [0.5]


def test_a_reconnection_that_missed_nothing_is_over_with_the_answer() -> None:
    traffic = Traffic()
    traffic.reconnected(began_s=20.0, now_s=20.3, offset=1000, committed=1000)
    traffic.journalled(1000, 600, 6, 25.0)
    taken = traffic.take()
    assert (taken["refetched_bytes"], taken["refetched_records"]) == (0, 0)
    assert taken["resume_s"] == [0.3]


def test_a_reconnection_that_breaks_again_has_no_time() -> None:
    traffic = Traffic()
    traffic.reconnected(began_s=20.0, now_s=20.3, offset=0, committed=50)
    traffic.reconnected(began_s=30.0, now_s=30.3, offset=0, committed=50)
    traffic.journalled(0, 50, 1, 30.4)
    assert traffic.take()["resume_s"] == [0.4]
