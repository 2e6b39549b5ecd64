"""What can this extractor see at this size? Real clips against real clips, whole and spoilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lavita.score.changes import change_clips
from lavita.score.distance import frechet_distance
from lavita.score.extractors import Extractor
from lavita.score.inception import inception_score

FLOOR = "halves"
# Swapped neighbours and a frozen second half are kept out of the embedded extractor's training.
SANITY_CHANGES = ("shuffled", "still", "blurred", "swapped", "half_frozen")
WANTED_RATIO = 3.0


@dataclass(frozen=True)
class SanityReport:
    """rows: mean Frechet distance over the splits, for "halves" (the floor), each change and each other set of clips;
    low, high: the least and greatest over the splits; n: clips on each side; informative: every change lies at least
    WANTED_RATIO times above the floor, the least of its splits above the greatest of the floor's; verdict: the same
    in a sentence; inception: mean and standard deviation over the splits of the inception score of all real clips,
    None without classes.
    """

    rows: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    n: int
    informative: bool
    verdict: str
    inception: tuple[float, float] | None = None

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
    others: Mapping[str, np.ndarray] | None = None,
    classes: Extractor | None = None,
    is_splits: int = 10,
    is_shuffle_seed: int | None = 42,
) -> SanityReport:
    """Return distances of half A of real clips to half B (the floor), to each change of half B, and to as many clips
    of each other set, over random splits.

    clips: uint8 (N, F, H, W, 3), 0..255, N >= 4; an odd last one of each split is left out, so every distance
    is between the same number of clips. others: name -> uint8 (M, F, H, W, 3), M >= N // 2, e.g. of another data set.
    classes: the network of the inception score of the real clips, if they have classes that it knows. Raises
    ValueError for fewer clips, an unknown change, or a set named like another row.
    """
    half, others = len(clips) // 2, dict(others or {})
    if half < 2:
        raise ValueError(f"sanity rows: got {len(clips)} real clips, wanted at least 4")
    for name, other in others.items():
        if name in (FLOOR, *changes):
            raise ValueError(f"sanity rows: {name!r} names a row already; give the other clips another name")
        if len(other) < half:
            raise ValueError(
                f"sanity rows: got {len(other)} clips of {name}, wanted {half}; {half - len(other)} are missing"
            )
    real = extractor.features(clips).numpy()
    spoilt = {name: extractor.features(change_clips(name, clips, seed)).numpy() for name in changes}
    foreign = {name: extractor.features(other).numpy() for name, other in others.items()}
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in (FLOOR, *changes, *others)}
    for _ in range(splits):
        order = rng.permutation(len(clips))
        a, b = order[:half], order[half : 2 * half]
        found[FLOOR].append(frechet_distance(real[a], real[b], ddof))
        for name in changes:
            found[name].append(frechet_distance(real[a], spoilt[name][b], ddof))
        for name in others:
            drawn = rng.permutation(len(foreign[name]))[:half]
            found[name].append(frechet_distance(real[a], foreign[name][drawn], ddof))
    rows = {name: float(np.mean(values)) for name, values in found.items()}
    low, high = ({name: float(end(values)) for name, values in found.items()} for end in (min, max))
    informative, sentence = verdict(rows, half, low, high)
    score = None
    if classes is not None and classes.num_classes is not None:
        probabilities = classes.probabilities(clips).numpy()
        score = inception_score(probabilities, min(is_splits, len(clips)), is_shuffle_seed)
    return SanityReport(rows, low, high, half, informative, sentence, score)


def verdict(
    rows: Mapping[str, float],
    n: int,
    low: Mapping[str, float] | None = None,
    high: Mapping[str, float] | None = None,
) -> tuple[bool, str]:
    """Whether every row lies WANTED_RATIO above the floor, clear of it where low and high are given, and a sentence
    that says so or names those that do not.
    """
    floor, names = rows[FLOOR], [name for name in rows if name != FLOOR]
    near = [name for name in names if not (rows[name] > 0 and rows[name] >= WANTED_RATIO * floor)]
    touching = [] if low is None else [name for name in names if name not in near and not low[name] > high[FLOOR]]
    if not near and not touching:
        return (
            True,
            f"informative: every change is at least {WANTED_RATIO:g} times as far as two real halves of {n}",
        )
    said = []
    if near:
        listed = ", ".join(f"{name} {rows[name] / floor:.1f}" if floor else name for name in near)
        said.append(f"{listed} times the distance of two real halves, wanted at least {WANTED_RATIO:g}")
    if touching:
        said.append(f"some split of {', '.join(touching)} lies no further than some two real halves")
    return False, f"not informative at this size ({n} clips a side): {'; '.join(said)}"
