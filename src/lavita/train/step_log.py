"""steps.csv: one line an optimiser step, from which anybody can add up what a run spent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning
import torch

COLUMNS = "stage,step,clips_seen,seconds,loss"
FLUSH_SECONDS = 5.0
LOSS_EVERY = 10  # steps: reading a loss makes an accelerator wait


class StepLog(lightning.Callback):
    """Appends to a file, for each optimiser step: stage, step (from 1), clips seen by this stage, its seconds so far,
    and every LOSS_EVERY steps the loss (else empty). Comes after the clock, which counts the clips.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = [] if path.exists() else [COLUMNS]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.started = self.flushed = time.monotonic()
        self.steps = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        self.steps += 1
        now = time.monotonic()
        loss = ""
        if self.steps % LOSS_EVERY == 0:
            value = outputs["loss"] if isinstance(outputs, dict) else outputs
            loss = repr(float(value)) if isinstance(value, torch.Tensor) else ""
        clips = module.num_clips_seen
        self.lines.append(f"{module.stage_name},{self.steps},{clips},{now - self.started:.3f},{loss}")
        if now - self.flushed > FLUSH_SECONDS:
            self.flush()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        self.flushed = time.monotonic()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines = []
