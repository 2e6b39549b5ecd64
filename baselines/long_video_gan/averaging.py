"""The running average of the generator: its half-life grows over the first part of training."""

from __future__ import annotations

import math

import torch
from torch import nn

DECAY = 0.99985
RAMP_STEPS = 25000


def average_decay(step: int, decay: float = DECAY, ramp_steps: int = RAMP_STEPS) -> float:
    """How much of the average stays in step number `step`, from 0: the half-life is that of `decay` at the end of the
    ramp. Source: recorded figures of the official training loop.
    """
    half_life = math.log(0.5) / math.log(decay) * (step + 1) / (ramp_steps + 1)
    return min(0.5 ** (1 / half_life), decay)


@torch.no_grad()
def move_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move a copy of a network, parameters and buffers, towards the network."""
    for ours, theirs in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        ours.copy_(theirs.lerp(ours, decay))
