"""steps.csv: one line an optimiser step, from which anybody can add up what a run spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch

from lavita.train.budget import Clock

COLUMNS = "stage,step,clips_seen,seconds,loss"
FLUSH_SECONDS = 5.0
LOSS_EVERY = 10  # steps: reading a loss makes an accelerator wait


class StepLog(lightning.Callback):
    """Appends to a file, for each optimiser step: stage, step (from 1), clips seen by this stage, its seconds so far,
    and every LOSS_EVERY steps the loss (else empty). Comes after the clock, which counts the clips.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock, self.flushed = path, clock, 0.0
        self.lines: list[str] = [] if path.exists() else [COLUMNS]

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        loss, step = "", self.clock.steps
        if step % LOSS_EVERY == 0:
            value = outputs["loss"] if isinstance(outputs, dict) else outputs
            loss = repr(float(value)) if isinstance(value, torch.Tensor) else ""
        self.lines.append(f"{module.stage_name},{step},{module.num_clips_seen},{self.clock.seconds:.3f},{loss}")
        if self.clock.seconds - self.flushed > FLUSH_SECONDS:
            self.flush()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        self.flushed = self.clock.seconds
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines = []
