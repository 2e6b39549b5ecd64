"""Turns, medians and ratios on numbers that are known; nothing here depends on how fast a machine is."""

from __future__ import annotations

import numpy as np

from lavita.speed import timing


def test_contestants_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def contestant(name: str, seconds: float):
        def call() -> None:
            calls.append(name)
            clock[0] += 100 if calls.count(name) == 1 else seconds

        return call

    seconds = timing.take_turns({"a": contestant("a", 2.0), "b": contestant("b", 0.5)}, rounds=3)
    assert "".join(calls) == "abababab"
    assert seconds == {"a": [2.0] * 3, "b": [0.5] * 3}


def test_wait_is_inside_what_is_timed(monkeypatch):
    clock, pending = [0.0], [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def queue() -> None:
        pending[0] += 3.0

    def wait() -> None:
        clock[0], pending[0] = clock[0] + pending[0], 0.0

    assert timing.take_turns({"a": queue}, 2, wait) == {"a": [3.0, 3.0]}


def test_quartiles_are_numpys():
    values = np.random.default_rng(0).exponential(size=7)
    assert np.allclose(timing.quartiles(values.tolist()), np.percentile(values, [25, 50, 75]), rtol=1e-15, atol=0)
    assert timing.quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_ratio_pairs_the_rounds():
    # The machine is 10 times slower in the second round, for both alike.
    assert timing.ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 2.0)
