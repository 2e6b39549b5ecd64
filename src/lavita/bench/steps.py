"""Reads steps.csv, the log of a cell's optimiser steps; lavita.train.step_log writes it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STEPS = "steps.csv"
CODEC = "codec"  # the stage, and the folder of shared parts, that hold the log of the suite's own codec


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
