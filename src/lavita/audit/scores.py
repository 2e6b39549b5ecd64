"""Do the stored features give the recorded scores? Recomputed from them, intervals too, without any network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lavita.audit.clips import read_arrays
from lavita.config.protocol import Protocol
from lavita.config.schema import FRAMES
from lavita.data.catalogue import SPLITS
from lavita.files import require_inside
from lavita.metrics.evaluate import networks_of, scores_of
from lavita.metrics.table import parse_key
from lavita.results.audit_line import FAIL, PASS, AuditLine
from lavita.results.run_folder import Attempt, RunFolder
from lavita.results.scores import Score

CHECK = "scores from stored features"
# Equal to the last digits: another number of BLAS threads sums in another order.
TOLERANCE = 1e-6
STORED = {"train": "samples.npz", "untrained": "untrained.npz", FRAMES: f"{FRAMES}.npz"}
VALUES = ("value", "ci_low", "ci_high", "extrapolated", "extrapolated_low", "extrapolated_high", "copies", "n_real")


def score_lines(run: RunFolder) -> Iterator[AuditLine]:
    """A line per run that completed."""
    for one in run.attempts:
        record = one.record
        if record.status != "ok":
            continue
        try:
            wrong, made = compared(run, one)
        except (OSError, KeyError, ValueError) as error:
            yield AuditLine(CHECK, record.cell, FAIL, f"can't be made: {error}")
            continue
        yield AuditLine(CHECK, record.cell, FAIL if wrong else PASS, "; ".join(wrong) or f"{made} scores")


def compared(run: RunFolder, one: Attempt) -> tuple[list[str], int]:
    """What differs of a run's scores, and how many were computed again."""
    record, shared = one.record, run.shared[one.record.shared].artifacts
    folder, parts = run.folder_of(one), run.shared_folder(record.shared)
    protocol, real = shared.protocol_used, read_arrays(parts / "real.npz")
    splits = {split: read_arrays(parts / f"{split}.npz") for split in SPLITS}
    stored = [score for score in record.scores if not is_of_pixels(score)]
    wrong = []
    for stage in dict.fromkeys(score.stage for score in stored):
        mine = {score.metric: score for score in stored if score.stage == stage}
        if stage in STORED:
            made = of_clips(protocol, real, read_arrays(folder / STORED[stage]), splits, mine)
        else:
            made = of_reconstruction(protocol, real, folder if stage == "autoencoder" else parts, stage)
        for metric, score in sorted(mine.items()):
            if metric in made:
                wrong += [f"{stage} {text}" for text in differences(score, made[metric])]
            else:
                wrong.append(f"{stage} {metric} is recorded, but the stored features give no such score")
    return wrong, len(stored)


def is_of_pixels(score: Score) -> bool:
    """Whether only clips give a score: no stored array does."""
    key = parse_key(score.metric)
    return key is not None and key.row.compute is None


def of_clips(
    protocol: Protocol,
    real: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    splits: Mapping[str, Mapping[str, np.ndarray]],
    recorded: Iterable[str],
) -> dict[str, Score]:
    """The scores that stored arrays of generated clips give, by name; a split counts where a recorded score uses it."""
    if not generated:
        raise ValueError("the features of the generated clips are not there")
    used = {side for key in map(parse_key, recorded) if key is not None for side in key.row.sides}
    sides = {"real": real, "generated": generated, **{split: rows for split, rows in splits.items() if split in used}}
    return {score.metric: score for score in scores_of(protocol, sides, networks_of(protocol))}


def of_reconstruction(protocol: Protocol, real: Mapping[str, np.ndarray], folder: Path, stage: str) -> dict[str, Score]:
    """The scores that the stored features of the real clips after an autoencoder give, by name."""
    after = read_arrays(require_inside(folder, f"{stage}.npz", "features of an autoencoder"))
    sides = {"real": real, "reconstruction": after}
    return {score.metric: score for score in scores_of(protocol, sides, networks_of(protocol))}


def differences(recorded: Score, made: Score) -> Iterator[str]:
    """Where a recorded score is not the one computed again."""
    for key in VALUES:
        one, other = getattr(recorded, key), getattr(made, key)
        if key == "n_real" and other is None:  # the protocol's number, which a score need not repeat
            continue
        if one is None and other is None:
            continue
        if one is None or other is None or not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{recorded.metric}: {key} {one} is recorded, but the stored features give {other}"
