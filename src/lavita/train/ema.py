"""Exponential moving average of the trained weights, kept beside them and put in their place at the end."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from lavita.config import TrainConfig


def decay_per_step(train: TrainConfig, stage_clips: int) -> float:
    """The decay of one step: as published, or from a half-life that is a share of the stage's clips."""
    if train.ema_decay is not None:
        return train.ema_decay
    halflife_steps = train.ema_halflife_share * stage_clips / train.batch_clips
    return 0.5 ** (1 / halflife_steps)


class Ema(lightning.Callback):
    """shadow <- d * shadow + (1 - d) * weights after each step, with d warmed up as min(decay, (1 + n) / (10 + n)).

    The warm-up keeps the initial weights from dominating a short run. At the end of training the averaged weights
    replace the last ones: "last EMA at budget end" is the only checkpoint rule of the suite.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay: got {decay}, allowed 0 to below 1")
        self.decay = decay
        self.num_updates = 0
        self.shadow: list[torch.Tensor] = []

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        if not self.shadow:
            self.shadow = [parameter.detach().clone() for parameter in module.trained_parameters()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step == self.num_updates:
            return  # this batch was only accumulated: the weights have not moved
        self.num_updates = trainer.global_step
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        weights = [parameter.detach() for parameter in module.trained_parameters()]
        torch._foreach_lerp_(self.shadow, weights, 1 - decay)

    @torch.no_grad()
    def on_train_end(self, trainer: Any, module: Any) -> None:
        for parameter, average in zip(module.trained_parameters(), self.shadow, strict=True):
            parameter.copy_(average)
