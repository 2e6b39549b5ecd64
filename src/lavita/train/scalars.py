"""The curves of a stage: parts of its loss against clips seen, as TensorBoard draws them."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from lavita.train import ranks
from lavita.train.budget import Clock

LOSS_EVERY = 10  # steps: reading a loss makes an accelerator wait


def loss_of(outputs: Any) -> float:
    """The loss of a step, as a number."""
    value = outputs["loss"] if isinstance(outputs, dict) else outputs
    return float(value.detach()) if isinstance(value, torch.Tensor) else float("nan")


class Scalars(lightning.Callback):
    """Logs every part of the loss, its mean over the processes, every LOSS_EVERY steps under <stage>/<part>. Comes
    after the clock.

    At the end of a step, not after it as Lightning's own log does: what is logged is then in the log when the step is
    kept, and neither lost nor written twice by a stage that is gone on with.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches or self.clock.steps % LOSS_EVERY:
            return
        means = ranks.mean(torch.stack([value.detach() for value in outputs.values()])).tolist()
        values = {f"{module.stage_name}/{key}": value for key, value in zip(outputs, means, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=module.num_clips_seen)
