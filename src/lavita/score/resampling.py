"""Scores of random halves and quarters of the clips: what an interval is made of, and what it says of a score's errors.

Write a score of n clips as theta + sum L_i / n + sum Q_ij / n^2, with L_i of mean 0 and Q_ij of mean 0 for i != j; the
mean of Q_ii, b, makes the score biased by b / n. Cut the clips at random into halves A and B and form
    D = score(all) - (score(A) + score(B)) / 2      G = (score(A) - score(B)) / 2.
L cancels in D and, up to sign, each clip's effect in G is what it is in score(all). Over the random halvings
    mean of D = -b / n     variance of D = v, that of the part of score(all) that is due to Q_ij, i != j
    mean of G^2 = l + 2 v in expectation over the clips, with l the variance due to L,
because halves are drawn without replacement: the factor (1/m - 1/n) of a sample of m = n/2 out of n is exactly 1/n. So
    score(all) + mean D         is free of the bias: the line in 1/n through n and n/2 at 1/n = 0
    mean G^2 - variance of D    estimates its variance l + v, without the upward bias that a bootstrap has, whose
resampled sets have fewer distinct clips and thus lie further from everything.
Sources: Chong & Forsyth 2020 (arXiv:1911.07023) for the line in 1/n; Efron & Stein 1981 for why l + 2 v overstates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LEAST_CLIPS = 8  # quarters of two


class ScoreOfSubsets(Protocol):
    """See `lavita.score.subsets`."""

    num_real: int
    num_generated: int
    key: str

    def whole(self) -> float: ...

    def parts(
        self, real: Sequence[np.ndarray], generated: Sequence[np.ndarray], turns: int
    ) -> Sequence[Sequence[float]]: ...


@dataclass(frozen=True)
class Resampled:
    """A score and those of its halves (H, 2) and quarters (Q, 4), float64; equal seeds cut equal numbers of clips
    alike, whatever is scored, so two of them can be compared part by part.
    """

    value: float
    halves: np.ndarray
    quarters: np.ndarray
    num_real: int
    num_generated: int
    seed: int
    key: str

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; `from_plain` undoes it."""
        return vars(self) | {"halves": self.halves.tolist(), "quarters": self.quarters.tolist()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Resampled:
        """Undo `plain`, to the last bit."""
        return cls(**values | {name: np.array(values[name]) for name in ("halves", "quarters")})

    def gaps(self) -> np.ndarray:
        """D of each halving, (H,)."""
        return self.value - self.halves.mean(axis=1)

    def sways(self) -> np.ndarray:
        """G of each halving, (H,)."""
        return (self.halves[:, 0] - self.halves[:, 1]) / 2


def resample(score: ScoreOfSubsets, resamples: int = 400, seed: int = 0) -> Resampled:
    """Score random halves of the clips, and some quarters to see whether the score is linear in 1/n.

    resamples counts scores of parts: nine tenths of them are of halves. Raises ValueError for fewer than 8 clips
    (says how many are missing) or fewer than 40 resamples.
    """
    if resamples < 40:
        raise ValueError(f"resamples: got {resamples}, wanted at least 40 for a spread to be known to a third")
    for name, n in (("real", score.num_real), ("generated", score.num_generated)):
        if n < LEAST_CLIPS and (n or name == "generated"):
            raise ValueError(f"interval: got {n} {name} clips, wanted {LEAST_CLIPS}; {LEAST_CLIPS - n} are missing")
    # Where there are real clips, each cut is used twice: real A with generated A, B with B; then A with B, B with A.
    turns = 2 if score.num_real else 1
    num_quarters = resamples // 40
    num_halves = (resamples - 4 * num_quarters) // (2 * turns)
    draws = [(np.random.default_rng((seed, k)), n) for k, n in enumerate((score.num_real, score.num_generated))]

    def scores(pieces: int, cuts: int, turns: int) -> np.ndarray:
        rows = []
        for _ in range(cuts):
            rows += score.parts(*(np.array_split(rng.permutation(n), pieces) for rng, n in draws), turns)
        return np.array(rows)

    halves, quarters = scores(2, num_halves, turns), scores(4, num_quarters, 1)
    return Resampled(score.whole(), halves, quarters, score.num_real, score.num_generated, seed, score.key)
