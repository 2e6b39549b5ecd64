"""The running average of the generator: its half-life grows over the first part of training."""

from __future__ import annotations

import math

DECAY = 0.99985
RAMP_STEPS = 25000


def average_decay(step: int, decay: float = DECAY, ramp_steps: int = RAMP_STEPS) -> float:
    """How much of the average stays in step number `step`, from 0: the half-life is that of `decay` at the end of the
    ramp. Source: recorded figures of the official training loop.
    """
    half_life = math.log(0.5) / math.log(decay) * (step + 1) / (ramp_steps + 1)
    return min(0.5 ** (1 / half_life), decay)
