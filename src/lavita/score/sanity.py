"""What can this extractor see at this size? Real clips against real clips, whole and spoilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavita.score.changes import change_clips
from lavita.score.distance import frechet_distance
from lavita.score.extractors import Extractor

FLOOR = "halves"
SANITY_CHANGES = ("shuffled", "still", "blurred")
WANTED_RATIO = 3.0


@dataclass(frozen=True)
class SanityReport:
    """rows: mean Frechet distance over the splits, for "halves" (the floor) and each change; low, high: the
    least and greatest over the splits; n: clips on each side; informative: every change lies at least
    WANTED_RATIO times above the floor; verdict: the same in a sentence.
    """

    rows: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    n: int
    informative: bool
    verdict: str

    def ratios(self) -> dict[str, float]:
        """Each change's distance in units of the floor."""
        return {name: value / self.rows[FLOOR] for name, value in self.rows.items() if name != FLOOR}


def sanity_rows(
    extractor: Extractor,
    clips: np.ndarray,
    seed: int = 0,
    changes: Sequence[str] = SANITY_CHANGES,
    splits: int = 20,
    ddof: int = 0,
) -> SanityReport:
    """Return distances of half A of real clips to half B (the floor) and to each change of half B, over
    random splits.

    clips: uint8 (N, F, H, W, 3), 0..255, N >= 4; an odd last one of each split is left out, so every distance
    is between the same number of clips. Raises ValueError for fewer clips or an unknown change.
    """
    half = len(clips) // 2
    if half < 2:
        raise ValueError(f"sanity rows: got {len(clips)} real clips, wanted at least 4")
    real = extractor.features(clips).numpy()
    spoilt = {name: extractor.features(change_clips(name, clips, seed)).numpy() for name in changes}
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {FLOOR: [], **{name: [] for name in changes}}
    for _ in range(splits):
        order = rng.permutation(len(clips))
        a, b = order[:half], order[half : 2 * half]
        found[FLOOR].append(frechet_distance(real[a], real[b], ddof))
        for name in changes:
            found[name].append(frechet_distance(real[a], spoilt[name][b], ddof))
    rows = {name: float(np.mean(values)) for name, values in found.items()}
    informative, sentence = verdict(rows, half)
    low, high = ({name: float(end(values)) for name, values in found.items()} for end in (min, max))
    return SanityReport(rows, low, high, half, informative, sentence)


def verdict(rows: dict[str, float], n: int) -> tuple[bool, str]:
    """Whether every change lies WANTED_RATIO above the floor, and a sentence that says so or names those that
    do not.
    """
    seen = {name: value > 0 and value >= WANTED_RATIO * rows[FLOOR] for name, value in rows.items() if name != FLOOR}
    blind = [name for name in seen if not seen[name]]
    if not blind:
        return (
            True,
            f"informative: every change is at least {WANTED_RATIO:g} times as far as two real halves of {n}",
        )
    listed = ", ".join(f"{name} {rows[name] / rows[FLOOR]:.1f}" if rows[FLOOR] else name for name in blind)
    return False, (
        f"not informative at this size ({n} clips a side): {listed} times the distance of two real halves, "
        f"wanted at least {WANTED_RATIO:g}"
    )
