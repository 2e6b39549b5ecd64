"""Exponential moving average of the trained weights, kept beside them and put in their place at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning
import torch

from lavita.config import TrainConfig
from lavita.train.shards import cut_like, whole


def decay_per_step(train: TrainConfig, stage_clips: float | None) -> Callable[[int], float]:
    """The decay of step n (from 1): as published, or from a half-life that is a share of the stage's clips; where these
    are not known beforehand (None), of the clips up to this step.
    """
    if train.ema_decay is not None:
        return lambda step: train.ema_decay
    share = train.ema_halflife_share
    if stage_clips is None:
        return lambda step: 0.5 ** (1 / (share * step))
    decay = 0.5 ** (1 / (share * stage_clips / train.batch_clips))
    return lambda step: decay


class Ema(lightning.Callback):
    """shadow <- d * shadow + (1 - d) * weights after each step, with d warmed up as min(decay, (1 + n) / (10 + n)).

    The warm-up keeps the initial weights from dominating a short run. At the end of training the averaged weights
    replace the last ones: "last EMA at budget end" is the only checkpoint rule of the suite.
    """

    def __init__(self, decay: Callable[[int], float]) -> None:
        if not 0 <= decay(1) < 1:
            raise ValueError(f"EMA decay: got {decay(1)}, allowed 0 to below 1")
        self.decay = decay
        self.num_updates = 0
        self.shadow: list[torch.Tensor] = []
        self.restored: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """The whole average; to be called by all processes."""
        return {"shadow": [whole(value).cpu().clone() for value in self.shadow], "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.restored, self.num_updates = list(state["shadow"]), int(state["num_updates"])

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.shadow = [parameter.detach().clone() for parameter in module.trained_parameters()]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Late, since only now weights lie as they will in training: on their device, cut where they are cut."""
        if self.restored:
            parameters = [parameter.detach() for parameter in module.trained_parameters()]
            self.shadow = [cut_like(value, like).clone() for value, like in zip(self.restored, parameters, strict=True)]
            self.restored = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step == self.num_updates:
            return  # this batch was only accumulated: the weights have not moved
        self.num_updates = trainer.global_step
        decay = min(self.decay(self.num_updates), (1 + self.num_updates) / (10 + self.num_updates))
        weights = [parameter.detach() for parameter in module.trained_parameters()]
        torch._foreach_lerp_(self.shadow, weights, 1 - decay)

    @torch.no_grad()
    def on_train_end(self, trainer: Any, module: Any) -> None:
        for parameter, average in zip(module.trained_parameters(), self.shadow, strict=True):
            parameter.copy_(average)
