"""Whether the feature network's own classifier distinguishes samples of a row from noise, from what a run stores."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavita.files import require_inside
from lavita.metrics.table import is_metric
from lavita.results.records import Record
from lavita.results.rows import shown
from lavita.results.run_folder import Attempt, RunFolder

NOISE_HEADING = "Distinguished from noise"
NOISE_TEXT = """\
Whether the feature network's own classifier distinguishes the samples of a row from noise: from the clips that the same
network makes before training, of the same seeds. Yes where their inception score lies nearer to that of the real clips
than to that of the noise; where the data has no classes, where more than half of the clips have features nearer to the
mean of the real clips than to that of the noise. How well the metric reacts to corruptions ("Metric sensitivity") says
nothing of this.
"""
LARGEST_FILE = 2**30  # bytes of an .npz that is read for a line of text
FILES = {"samples.npz": "samples", "untrained.npz": "noise"}


@dataclass(frozen=True)
class AgainstNoise:
    """cell: the run; distinguished: None where it is not known; said: by how much, or why it is not known."""

    cell: str
    distinguished: bool | None
    said: str

    @property
    def line(self) -> str:
        """A line of the notes."""
        verdict = {True: "yes", False: "no", None: "not known"}[self.distinguished]
        return f"* {self.cell}: {verdict}, {self.said}"


def against_noise(run: RunFolder) -> list[AgainstNoise]:
    """A line for each run that completed, in the order of the rows."""
    return [of_attempt(run, attempt) for attempt in run.attempts if attempt.record.status == "ok"]


def of_attempt(run: RunFolder, attempt: Attempt) -> AgainstNoise:
    """By the classes where the data has some, else by the features."""
    record = attempt.record
    shared = run.shared.get(record.shared)
    real = None if shared is None else shared.artifacts.sanity.inception
    samples, noise = inception_of(record, "train"), inception_of(record, "untrained")
    if real is not None and samples is not None and noise is not None:
        return by_classes(record.cell, samples, noise, real[0])
    return by_features(run, attempt)


def inception_of(record: Record, stage: str) -> float | None:
    """The inception score of a stage's clips, None where it has none."""
    return next((score.value for score in record.scores_of(stage) if is_metric(score.metric, "is")), None)


def by_classes(cell: str, samples: float, noise: float, real: float) -> AgainstNoise:
    """From inception scores: the logarithm is the information that the classifier has of a clip."""
    scores = f"inception score {shown(samples)}, of the noise {shown(noise)}, of the real clips {shown(real)}"
    if not real > noise:
        return AgainstNoise(cell, None, f"the classifier does not distinguish real clips from noise either: {scores}")
    share = (samples - noise) / (real - noise)
    return AgainstNoise(cell, share > 0.5, f"{100 * share:.0f} % of the way from noise to real clips: {scores}")


def by_features(run: RunFolder, attempt: Attempt) -> AgainstNoise:
    """From the stored features: how many clips lie nearer to the real clips than to the noise, on average of these."""
    cell, folder, shared = attempt.record.cell, run.folder_of(attempt), attempt.record.shared
    if shared not in run.shared:
        return AgainstNoise(cell, None, "its real clips are not in this folder")
    paths = {name: folder / file for file, name in FILES.items()} | {"real clips": run.shared[shared].artifacts.real}
    try:
        found = {name: stored_features(path) for name, path in paths.items()}
    except ValueError as error:
        return AgainstNoise(cell, None, str(error))
    if len({rows.shape[1] for rows in found.values()}) > 1:
        return AgainstNoise(cell, None, "samples, noise and real clips have features of different lengths")
    centres = [found[name].mean(axis=0) for name in ("real clips", "noise")]
    counts = {}
    for name, rows in found.items():
        to_real, to_noise = (np.square(rows - centre).sum(axis=1) for centre in centres)
        counts[name] = int((to_real < to_noise).sum()), len(rows)
    (near, of), (near_noise, of_noise), (near_real, of_real) = counts.values()
    said = (
        f"the features of {near} of {of} clips are nearer to the real clips than to the noise (of the noise itself "
        f"{near_noise} of {of_noise}, of the real clips {near_real} of {of_real})"
    )
    return AgainstNoise(cell, 2 * near > of, said)


def stored_features(path: Path) -> np.ndarray:
    """The features of a file, float64 (n, d). Raises ValueError, a few words, where they are not there."""
    require_inside(path.parent, path.name, path.name)
    if not path.is_file():
        raise ValueError(f"{path.name} was not kept")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} has more than {LARGEST_FILE >> 30} GiB")
    try:
        with np.load(path, allow_pickle=False) as file:
            rows = np.asarray(file["features"], np.float64)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        raise ValueError(f"{path.name} holds no features that can be read") from None
    if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
        raise ValueError(f"{path.name} holds no finite features of clips")
    return rows


def noise_notes(found: Sequence[AgainstNoise]) -> str:
    """The section of table.md."""
    return NOISE_TEXT + "\n" + "\n".join(one.line for one in found)
