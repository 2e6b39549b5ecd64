"""Do the stored features give the recorded scores? Made again from them, intervals too, without any network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lavita.audit.clips import read_arrays
from lavita.config.protocol import Protocol
from lavita.files import require_inside
from lavita.metrics.distances import frechet_distance
from lavita.metrics.evaluate import scores_of
from lavita.results.audit_line import FAIL, PASS, AuditLine
from lavita.results.run_folder import Attempt, RunFolder

CHECK = "scores from stored features"
# Equal to the last digits: another number of BLAS threads sums in another order.
TOLERANCE = 1e-6
STORED = {"train": "samples.npz", "untrained": "untrained.npz"}
FROM_PIXELS = ("psnr", "ssim", "lpips")
VALUES = ("value", "ci_low", "ci_high", "extrapolated", "extrapolated_low", "extrapolated_high", "copies", "n_real")


def score_lines(run: RunFolder) -> Iterator[AuditLine]:
    """A line per run that completed."""
    for one in run.cells:
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
    """What differs of a cell's scores, and how many were made again."""
    record, shared = one.record, run.shared[one.record.shared].artifacts
    folder, parts = run.cell_folder(one), run.shared_folder(record.shared)
    protocol, real = shared.protocol_used, read_arrays(parts / "real.npz")
    splits = {split: read_arrays(parts / f"{split}.npz") for split in ("train", "heldout")}
    recorded = {(score["stage"], score["metric"]): score for score in record.scores}
    wrong, left = [], set(recorded)
    for stage, file in STORED.items():
        kept = {key: score for key, score in recorded.items() if key[0] == stage}
        if not kept:
            continue
        names = {key[1].split("_")[0]: key[1] for key in kept}
        wanted = {split: rows for split, rows in splits.items() if f"fvd-{split}" in names}
        for score in made_again(protocol, real, read_arrays(folder / file), names, wanted):
            left.discard((stage, score["metric"]))
            wrong += [f"{stage} {text}" for text in differences(kept[stage, score["metric"]], score)]
    for key in sorted(left):
        kind = key[1].split("_")[0]
        if kind == "rfvd":
            wrong += reconstruction(protocol, real, folder if key[0] == "autoencoder" else parts, recorded[key])
        elif kind not in FROM_PIXELS:
            wrong.append(f"{key[0]} {key[1]} is recorded, but the stored features give no such score")
    return wrong, len(recorded) - sum(key[1].split("_")[0] in FROM_PIXELS for key in recorded)


def made_again(
    protocol: Protocol,
    real: Mapping[str, np.ndarray],
    generated: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    splits: Mapping[str, Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    """The scores that stored features give, of the generated clips, by the names that the record has."""
    if not generated:
        raise ValueError("the features of the generated clips are not there")
    known = {name: names.get(name, name) for name in ("fvd", "kvd", "is", "fvd-train", "fvd-heldout", "memorisation")}
    made = scores_of(protocol, real, generated, known, splits)
    return [score for score in made if score["stage"] == "generated" and score["metric"] in names.values()]


def differences(recorded: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[str]:
    """Where a recorded score is not the one made again."""
    for key in VALUES:
        if key not in recorded and key not in made:
            continue
        one, other = recorded.get(key), made.get(key, recorded.get(key) if key == "n_real" else None)
        if one is None or other is None or not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{recorded['metric']}: {key} {one} is recorded, but the stored features give {other}"


def reconstruction(
    protocol: Protocol, real: Mapping[str, np.ndarray], folder: Any, recorded: Mapping[str, Any]
) -> list[str]:
    """rfvd again, from the features of the real clips after the first stage."""
    after = read_arrays(require_inside(folder, f"{recorded['stage']}.npz", "features of a first stage"))
    if not after:
        return [f"{recorded['metric']} is recorded, but {recorded['stage']}.npz is not there"]
    value = frechet_distance(real["features"].astype(float), after["features"].astype(float), protocol.ddof)
    return list(differences({"metric": recorded["metric"], "value": recorded["value"]}, {"value": value}))
