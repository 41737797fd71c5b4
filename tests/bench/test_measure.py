"""Turns, spread and costs."""

from __future__ import annotations

import time

from bench import measure


def test_sides_take_turns_in_alternating_order():
    order = []
    found = measure.turns({"a": lambda: order.append("a") or len(order), "b": lambda: order.append("b") or len(order)}, 3)
    assert "".join(order) == "abbaabba"
    assert found == {"a": [4, 5, 8], "b": [3, 6, 7]}  # the first round does not count


def test_a_cost_is_cpu_time_and_wall_time():
    (waiting,) = measure.alternate({"sleep": lambda: time.sleep(0.05)}, rounds=1)["sleep"]
    assert waiting.wall >= 0.05 > waiting.cpu


def test_a_spread_has_quartiles():
    assert measure.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "min": 1.0, "low": 2.0, "high": 4.0, "count": 5}
    assert measure.spread([2.5]) == {"median": 2.5, "min": 2.5, "low": 2.5, "high": 2.5, "count": 1}


def test_memory_grows_with_what_is_held():
    before = measure.peak_mib()
    held = bytearray(b"x") * (200 * 2**20)
    assert measure.peak_mib() >= before
    assert measure.peak_mib() > len(held) / 2**20


def test_the_machine_says_versions_and_what_is_missing():
    found = measure.machine("numpy", "no-such-package")
    assert found["numpy"] and found["torch"] and found["no-such-package"] is None and found["cpus"] >= 1
