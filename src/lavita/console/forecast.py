"""How long tasks will still take, from what they have said so far: seconds a clip of every stage, theirs or others'.

A stage's rate is measured where it runs. Of one that is still to come it is that of the stage that does the same with
the untrained network, or follows from the FLOPs of both and the rate of another stage of the task, or is that of the
same stage in other tasks. Nothing is said until every rate is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lavita.console.events import Plan, Progress

UNTRAINED = " untrained"  # ends the name of a stage that costs as much as the one without it


@dataclass
class Stage:
    """What was heard of a stage. entered: when the task said the last thing before it; first, latest: its events, with
    when they came.
    """

    entered: float
    first: tuple[float, Progress]
    latest: tuple[float, Progress]

    def rate(self) -> float | None:
        """Seconds a clip; None before anything of it is done."""
        (began, first), (now, latest) = self.first, self.latest
        if latest.done > first.done:
            return (now - began) / (latest.done - first.done)
        return (now - self.entered) / latest.done if latest.done > 0 and latest.done >= latest.total else None


@dataclass
class Task:
    """A task that has begun. plan, costs: as the task said; over: stages that are finished; ended: when it was."""

    began: float
    heard: float
    plan: Mapping[str, float | None] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    latest: Progress | None = None
    ended: float | None = None


class Forecast:
    """Of tasks that run together. clock: gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.titles: list[str] = []
        self.at_once = 1
        self.tasks: dict[str, Task] = {}

    def expect(self, titles: Sequence[str], at_once: int) -> None:
        """From now on these tasks run, so many at once; what was known of others is forgotten."""
        self.titles, self.at_once, self.tasks = list(titles), max(1, at_once), {}

    def begin(self, title: str) -> None:
        """A task starts, for the first time or again."""
        if title not in self.titles:
            self.titles.append(title)
        self.tasks[title] = Task(self.clock(), self.clock())

    def hear(self, title: str, event: Progress | Plan) -> None:
        """Take note of what a task says."""
        task, now = self.tasks[title], self.clock()
        if isinstance(event, Plan):
            task.plan, task.costs = event.stages, event.costs
            return
        if event.stage in task.stages:
            task.stages[event.stage].latest = (now, event)
        else:
            task.stages[event.stage] = Stage(task.heard, (now, event), (now, event))
        names = list(task.plan)
        if event.stage in names:
            task.over |= set(names[: names.index(event.stage)])
        if event.done >= event.total:
            task.over.add(event.stage)
        task.latest, task.heard = event, now

    def end(self, title: str) -> None:
        """A task is over."""
        self.tasks[title].ended = self.clock()

    def wait_again(self, title: str) -> None:
        """A task was ended from outside, and will begin again."""
        self.tasks.pop(title, None)

    @property
    def running(self) -> list[str]:
        """The tasks that have begun and not ended."""
        return [title for title, task in self.tasks.items() if task.ended is None]

    @property
    def waiting(self) -> list[str]:
        """The tasks that have not begun."""
        return [title for title in self.titles if title not in self.tasks]

    def rate(self, task: Task, stage: str) -> float | None:
        """Seconds a clip of a stage of a task, None where nobody knows."""
        others = [other for other in self.tasks.values() if other is not task]
        cost = task.costs.get(stage)
        for found in (measured([task], stage), by_flops(task, cost), measured(others, stage)):
            if found is not None:
                return found
        return 0.0 if cost == 0 else None

    def left(self, title: str) -> float | None:
        """Seconds that a task still takes, all its stages; without a plan, its present stage. None: not known."""
        task = self.tasks.get(title)
        if task is None or task.latest is None:
            return None
        now = task.latest
        amounts: dict[str, float | None] = {now.stage: max(0.0, now.total - now.done)}
        amounts |= {name: amount for name, amount in task.plan.items() if name not in (*task.over, now.stage)}
        seconds = 0.0
        for name, amount in amounts.items():
            rate = self.rate(task, name) if amount else 0.0
            if rate is None or amount is None:
                return None
            seconds += rate * amount
        return max(0.0, seconds - (self.clock() - task.heard))

    def left_in_all(self) -> float | None:
        """Seconds until all tasks are over, those that wait included; None: not known."""
        now = self.clock()
        known = {
            title: left for title in self.running if self.tasks[title].plan and (left := self.left(title)) is not None
        }
        whole = [now - self.tasks[title].began + left for title, left in known.items()]
        whole += [task.ended - task.began for task in self.tasks.values() if task.ended is not None]
        if not whole:
            return None
        usual = sum(whole) / len(whole)
        lefts = [known.get(title, max(0.0, usual - (now - self.tasks[title].began))) for title in self.running]
        work = sum(lefts) + usual * len(self.waiting)
        return max([work / min(self.at_once, max(1, len(lefts) + len(self.waiting))), *lefts])


def measured(tasks: Sequence[Task], stage: str) -> float | None:
    """The mean rate of a stage in some tasks, or of the stage that does the same with the untrained network."""
    for name in (stage, stage + UNTRAINED):
        found = [one.stages[name].rate() for one in tasks if name in one.stages]
        known = [rate for rate in found if rate is not None]
        if known:
            return sum(known) / len(known)
    return None


def by_flops(task: Task, cost: float | None) -> float | None:
    """The rate of a stage of so many FLOPs a clip, from the stage of a task that was measured last."""
    for name, stage in reversed(task.stages.items()):
        rate = stage.rate()
        if cost and rate is not None and task.costs.get(name):
            return rate * cost / task.costs[name]
    return None


def time_text(seconds: float) -> str:
    """0:05, 12:30, 3:05:00, 2 d 03:05."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
