"""Ends a run at the first loss that is not finite, naming the step."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from lavita.train import ranks


class Diverged(RuntimeError):
    """A loss became NaN or infinite."""


class FiniteGuard(lightning.Callback):
    """Raises Diverged with stage, step and clips seen when the loss of a step is NaN or infinite, on every process when
    it is on one.

    The first of the callbacks: the loss that those after it find is the mean over the processes.
    """

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(outputs, dict) and isinstance(loss, torch.Tensor):
            loss = outputs["loss"] = ranks.mean(loss)
        if isinstance(loss, torch.Tensor) and not torch.isfinite(loss).all():
            raise Diverged(
                f"loss is {float(loss)} at step {trainer.global_step} of stage {module.stage_name} "
                f"({module.num_clips_seen} clips seen)"
            )
