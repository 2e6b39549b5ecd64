"""Logs the held-out loss at fixed diffusion times and noise, a few times over a stage."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import lightning
from torch import Tensor

from lavita.train.budget import Clock


class HeldoutLoss(lightning.Callback):
    """Evaluates `module.heldout_loss` on a fixed batch before the first step and `times` times evenly to the end.

    clock comes before it among the callbacks. values holds (clips seen, loss), measured with the weights being
    trained, not with their average.
    """

    def __init__(self, batch: dict[str, Tensor], clock: Clock, times: int = 4) -> None:
        self.batch, self.clock = batch, clock
        self.marks = [Fraction(i + 1, times) for i in range(times)]
        self.values: list[tuple[int, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"values": [list(value) for value in self.values], "marks": [str(mark) for mark in self.marks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = [(clips, loss) for clips, loss in state["values"]]
        self.marks = [Fraction(mark) for mark in state["marks"]]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.batch = {key: value.to(module.device) for key, value in self.batch.items()}
        if not self.values:
            self.measure(trainer, module)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # the weights have not moved yet
        if self.marks and self.clock.reached(self.marks[0]):
            self.marks = [mark for mark in self.marks if not self.clock.reached(mark)]
            self.measure(trainer, module)

    def measure(self, trainer: Any, module: Any) -> None:
        value = module.heldout_loss(self.batch)
        self.values.append((module.num_clips_seen, value))
        for logger in trainer.loggers:
            logger.log_metrics({f"{module.stage_name}/heldout_loss": value}, step=module.num_clips_seen)
