"""What a task says of itself while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a stage is: done of total (clips, videos, MiB), its loss where it has one, and of training its step, of
    how many.
    """

    stage: str
    done: float
    total: float
    loss: float | None = None
    step: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Note:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Plan:
    """What a task will do: its stages in order, and how much each is (clips), None where only its seconds are known.

    costs: FLOPs of a clip by stage, as far as they are known: a guess of its time while nothing is measured. 0: of a
    stage that is too short to be guessed.
    """

    stages: Mapping[str, float | None]
    costs: Mapping[str, float] = field(default_factory=dict)
