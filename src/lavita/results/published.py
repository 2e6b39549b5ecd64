"""Published numbers as a run's plan holds them, so that its tables follow from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SEEN = "second-hand"  # how well a number was verified: its deviation was seen in print too


@dataclass(frozen=True)
class Reported:
    """One published number; results/README.md says what each column means.

    std None: none is printed. lower_is_better None: a size or a count, no score. own: whether the method's authors
    print it. protocol: the preset that it was scored by, with its changes as `Protocol.derive` writes them, or "".
    """

    method: str
    variant: str
    dataset: str
    resolution: str
    frames: int
    metric: str
    value: float
    std: float | None
    bound: str
    lower_is_better: bool | None
    conditioning: str
    protocol: str
    protocol_notes: str
    own: bool
    as_reported_by: str
    source: str
    table: str
    evidence: str
    reprinted_by: str

    @property
    def seen_std(self) -> float | None:
        """The deviation, where it was seen in print."""
        return self.std if self.evidence == SEEN else None


@dataclass(frozen=True)
class Known:
    """What the configuration says of methods, data sets and protocols, by their names.

    published_as: of a method, as in MethodSpec. titles, sizes: of a data set, its name in results/reported.csv and how
    many videos whole copies have. presets: the plain content of configs/protocols.
    """

    published_as: dict[str, tuple[str, ...]]
    titles: dict[str, str]
    sizes: dict[str, tuple[int, ...]]
    presets: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class PublishedFacts:
    """numbers: what the authors of a run's methods print on its data set; known: what they are compared by."""

    numbers: tuple[Reported, ...]
    known: Known
