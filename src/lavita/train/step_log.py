"""steps.csv: one line an optimiser step, from which anybody can add up what a run spent."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import lightning

from lavita.train.budget import Clock
from lavita.train.scalars import LOSS_EVERY, loss_of
from lavita.whole import named, write_whole

COLUMNS = "stage,step,clips_seen,seconds,loss"
FLUSH_SECONDS = 5.0


class StepLog(lightning.Callback):
    """Appends to a file, for each optimiser step: stage, step (from 1), clips seen by this stage, its seconds so far,
    and every LOSS_EVERY steps the loss (else empty). Comes after the clock, which counts the clips.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock, self.flushed = path, clock, 0.0
        self.lines: list[str] = []

    def begin(self, stage: str) -> None:
        """Drop what an earlier try at the stage, and at those after it, has written; earlier stages' lines stay."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = list(takewhile(lambda line: not line.startswith(f"{stage},") and line.endswith("\n"), lines))
        write_whole(self.path, "".join(kept or [f"{COLUMNS}\n"]))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        step = self.clock.steps
        loss = repr(loss_of(outputs)) if step % LOSS_EVERY == 0 else ""
        self.lines.append(f"{module.stage_name},{step},{module.num_clips_seen},{self.clock.seconds:.3f},{loss}")
        if self.clock.seconds - self.flushed > FLUSH_SECONDS:
            self.flush()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        self.flushed = self.clock.seconds
        with named(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines = []
