"""Time left, against runs that are played: every stage takes the same seconds a clip, so the truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lavita.console.events import Plan, Progress
from lavita.console.forecast import Forecast, time_text

STAGES = {"sample untrained": 64, "score of sample untrained": 64, "train": 1536, "sample": 64, "score of sample": 64}
# Seconds a clip; sampling and scoring cost the same before and after training.
COSTS = {"sample untrained": 0.25, "score of sample untrained": 0.125, "train": 0.0625, "sample": 0.25}
COSTS |= {"score of sample": 0.125}


class Played:
    """Runs on `workers` workers, one after the other, played in steps of one clip-batch of 16."""

    def __init__(self, runs: int, workers: int, slower: float = 1.0) -> None:
        self.now = 0.0
        self.forecast = Forecast(lambda: self.now)
        self.titles = [f"run {number}" for number in range(runs)]
        self.factor = {title: slower**number for number, title in enumerate(self.titles)}
        self.forecast.expect(self.titles, workers)
        self.left = {title: list(self.events(title)) for title in self.titles}
        self.queue, self.busy, self.workers = list(self.titles), {}, workers

    def events(self, title: str):
        """(seconds it takes, event) of a run, in order; the plan comes first."""
        yield 0.0, Plan(STAGES)
        for stage, clips in STAGES.items():
            for done in range(16, clips + 1, 16):
                yield 16 * COSTS[stage] * self.factor[title], Progress(stage, done, clips)

    def truth(self, title: str) -> float:
        """Seconds that a run which has begun still takes."""
        due, _ = self.busy[title]
        return due - self.now + sum(seconds for seconds, _ in self.left[title])

    def moments(self):
        """Play to the end; stops after each event, with the run that it is of, None for its end."""
        while self.queue or self.busy:
            while self.queue and len(self.busy) < self.workers:
                title = self.queue.pop(0)
                self.forecast.begin(title)
                seconds, event = self.left[title].pop(0)
                self.busy[title] = (self.now + seconds, event)
            title, (self.now, event) = min(self.busy.items(), key=lambda item: item[1][0])
            self.forecast.hear(title, event)
            if self.left[title]:
                seconds, event = self.left[title].pop(0)
                self.busy[title] = (self.now + seconds, event)
                yield title
            else:
                del self.busy[title]
                self.forecast.end(title)
                yield None


def test_time_left_of_a_run_is_known_when_every_rate_is_and_is_right():
    played, seen = Played(1, 1), {}
    for title in played.moments():
        if title:
            stage = played.forecast.tasks[title].latest and played.forecast.tasks[title].latest.stage
            left = played.forecast.left(title)
            seen.setdefault(stage, []).append(left is not None)
            assert left is None or left == pytest.approx(played.truth(title), abs=1e-6)
    assert not any(seen["sample untrained"]), "nobody knows yet how long training takes"
    assert all(seen["train"][1:]) and all(seen["sample"]) and all(seen["score of sample"])


def test_time_left_runs_down_between_two_events():
    played = Played(1, 1)
    for title in played.moments():
        if title and played.forecast.left(title) is not None:
            break
    before = played.forecast.left(title)
    played.now += 0.75
    assert played.forecast.left(title) == pytest.approx(before - 0.75)
    played.now += 1e6
    assert played.forecast.left(title) == 0


FLOPS = {name: 0.0 if name.startswith("score") else 8e9 * cost for name, cost in COSTS.items()}


def test_what_was_not_measured_is_guessed_by_its_flops():
    """Where a stage's seconds are its FLOPs, what is guessed before sampling is the truth but for the short scoring."""
    clock = SimpleNamespace(now=0.0)
    forecast = Forecast(lambda: clock.now)
    forecast.begin("a")
    forecast.hear("a", Plan(STAGES, FLOPS))
    clock.now = 1.0
    forecast.hear("a", Progress("train", 0, 1536))
    assert forecast.left("a") is None
    clock.now += 512 * COSTS["train"]
    forecast.hear("a", Progress("train", 512, 1536))
    assert forecast.left("a") == pytest.approx(1024 * COSTS["train"] + 64 * COSTS["sample"])
    for done in (32, 64):  # sampling takes three times as long as was guessed: what is measured counts
        clock.now += 32 * 3 * COSTS["sample"]
        forecast.hear("a", Progress("sample", done - 16, 64))
    assert forecast.left("a") == pytest.approx(16 * 3 * COSTS["sample"])


def test_own_flops_count_for_more_than_another_task_and_that_more_than_nothing():
    clock = SimpleNamespace(now=0.0)
    forecast = Forecast(lambda: clock.now)
    for title in ("a", "b", "c"):
        forecast.begin(title)
    forecast.hear("b", Plan({"train": 100.0, "sample": 10.0}, {"train": 1.0, "sample": 4.0}))
    forecast.hear("c", Plan({"sample": 10.0}))
    for clock.now, done in ((0.0, 0), (10.0, 1)):
        forecast.hear("a", Progress("sample", 10 * done, 10))
        forecast.hear("b", Progress("train", 100 * done, 100))
        forecast.hear("c", Progress("sample", 0, 10))
    assert forecast.left("b") == pytest.approx(10 * 0.4), "four times the 0.1 seconds a clip of its training"
    assert forecast.left("c") == pytest.approx(10 * 1.0), "the 1 second a clip of another task"


def test_a_second_run_knows_the_rates_of_the_first():
    played = Played(2, 1)
    unknown = [played.forecast.left(title) is None for title in played.moments() if title == "run 1"]
    assert unknown[0] and not any(unknown[1:])  # before its first clip nothing is known of it


@pytest.mark.parametrize(("runs", "workers"), [(1, 1), (4, 1), (4, 2), (8, 2), (3, 8)])
def test_time_left_of_all_runs_is_that_of_equal_runs_on_the_workers(runs, workers):
    played, told = Played(runs, workers), []
    for _ in played.moments():
        told.append((played.now, played.forecast.left_in_all()))
    end = played.now
    known = [(now, left) for now, left in told if left is not None]
    assert len(known) > 0.8 * len(told)
    assert all(left == pytest.approx(end - now, abs=4.5) for now, left in known), "a step of sampling is 4 seconds"


def test_the_slowest_run_is_waited_for():
    played = Played(2, 2, slower=3.0)
    for _ in played.moments():
        left = played.forecast.left_in_all()
        if left is not None and played.busy:
            lefts = [one for title in played.busy if (one := played.forecast.left(title)) is not None]
            assert left >= max(lefts)


def test_a_resumed_stage_is_not_measured_by_what_was_done_before():
    clock = SimpleNamespace(now=0.0)
    forecast = Forecast(lambda: clock.now)
    forecast.expect(["a"], 1)
    forecast.begin("a")
    forecast.hear("a", Plan({"train": 1000.0}))
    for clock.now, done in ((2.0, 800), (4.0, 810)):
        forecast.hear("a", Progress("train", done, 1000))
    assert forecast.left("a") == pytest.approx(190 * 2 / 10)


def test_a_stage_that_ends_by_its_seconds_is_known_once_it_runs():
    clock = SimpleNamespace(now=0.0)
    forecast = Forecast(lambda: clock.now)
    forecast.begin("a")
    forecast.hear("a", Plan({"autoencoder": 100.0, "train": None}))
    for clock.now, done in ((1.0, 10), (2.0, 20)):
        forecast.hear("a", Progress("autoencoder", done, 100))
    assert forecast.left("a") is None
    for clock.now, done in ((10.0, 100), (14.0, 200)):
        forecast.hear("a", Progress("train", done, 600))
    assert forecast.left("a") == pytest.approx(16)


def test_a_task_that_waits_again_begins_anew():
    forecast = Forecast(lambda: 0.0)
    forecast.expect(["a", "b"], 2)
    forecast.begin("a")
    forecast.wait_again("a")
    assert forecast.waiting == ["a", "b"] and forecast.running == []


def test_times_as_people_read_them():
    texts = {
        0.4: "0:00",
        5: "0:05",
        59.6: "1:00",
        750: "12:30",
        3600 * 3 + 300: "3:05:00",
        86400 * 2 + 3600 * 3: "2 d 03:00",
    }
    assert {seconds: time_text(seconds) for seconds in texts} == texts
