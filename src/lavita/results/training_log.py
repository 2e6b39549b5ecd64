"""The losses of a run along its budget: what each stage's step log and the record say."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lavita.results.records import Record
from lavita.results.run_folder import Attempt, RunFolder

STEPS = "steps.csv"
CODEC = "codec"  # the stage, and the folder of shared artifacts, that hold the log of the suite's own autoencoder


@dataclass(frozen=True)
class Step:
    """A line: clips and seconds are those of the stage up to this step; loss None where it was not read."""

    line: int
    stage: str
    step: int
    clips_seen: float
    seconds: float
    loss: float | None


def read_steps(path: Path, cut_short: bool = False) -> Iterator[Step]:
    """The steps of a log in their order.

    cut_short: a line that a kill left unfinished is passed over. Else it raises ValueError naming the line.
    """
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                loss = float(line["loss"]) if line["loss"] else None
                step = Step(
                    number, line["stage"], int(line["step"]), float(line["clips_seen"]), float(line["seconds"]), loss
                )
            except (KeyError, TypeError, ValueError):
                if cut_short:
                    continue
                raise ValueError(f"{path.name}, line {number}: not a step") from None
            yield step


MOST_POINTS = 100  # of a stage; more are averaged in groups, so that a page stays small

Series = list[tuple[float, float]]  # (clips seen by the stage, loss)


@dataclass(frozen=True)
class StageLosses:
    """start: clips of the budget before the stage; clips: that it saw; steps: how many losses stand in train (averages
    of each group of them); heldout: with the weights being trained, at fixed noise.
    """

    name: str
    start: float
    clips: float
    steps: int
    train: Series
    heldout: Series


@dataclass(frozen=True)
class RunLosses:
    """The stages of a run in their order; remark: what a reader must know of the curve.

    budget: in clips; where it is in another unit, the clips that were seen.
    """

    cell: str
    budget: float
    stages: list[StageLosses]
    remark: str


def losses_of(run: RunFolder, attempt: Attempt) -> RunLosses | None:
    """The losses of an attempt, None where nothing was logged. A run that did not complete has those up to there."""
    record = attempt.record
    logs = logged(run.folder_of(attempt) / STEPS)
    last = list(logs)[-1:]  # the record has the held-out losses of the last stage only
    heldout = [(float(clips), float(loss)) for clips, loss in record.heldout_losses]
    stages, start, remark = [], 0.0, ""
    for name, clips in stage_lengths(record, logs):
        if name == CODEC and CODEC not in logs:
            logs |= logged(run.shared_folder(record.shared) / CODEC / STEPS)
        values = logs.get(name, [])
        known = [(clip, loss) for clip, loss in values if math.isfinite(loss)]
        if len(known) < len(values):
            remark = "some losses are not finite and not drawn"
        stages.append(StageLosses(name, start, clips, len(known), averaged(known), heldout if [name] == last else []))
        start += clips
    stages = [stage for stage in stages if stage.clips]
    if not any(stage.train or stage.heldout for stage in stages):
        return None
    if record.status != "ok":
        remark = f"{record.status}: the log ends there, and the autoencoder's share before it is not drawn"
    return RunLosses(record.cell, float(record.config["budget"]["clips"] or start), stages, remark)


def stage_lengths(record: Record, logs: dict[str, Series]) -> list[tuple[str, float]]:
    """(name, clips) of the stages: as recorded, or for a run that did not complete as far as its log goes."""
    if record.stages:
        return [(stage.name, float(stage.clips)) for stage in record.stages]
    return [(name, values[-1][0]) for name, values in logs.items() if values]


def logged(path: Path) -> dict[str, Series]:
    """The logged losses by stage; {} where there is no log."""
    found: dict[str, Series] = {}
    for step in read_steps(path, cut_short=True) if path.is_file() else ():
        values = found.setdefault(step.stage, [])
        if step.loss is not None:
            values.append((step.clips_seen, step.loss))
    return found


def averaged(values: Series, most: int = MOST_POINTS) -> Series:
    """The mean loss of groups of neighbouring steps, each at its last clip; as it is where there are few."""
    size = math.ceil(len(values) / most) or 1
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
