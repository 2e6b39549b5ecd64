"""Sampling by DPM-Solver++, second order, through diffusers: a good clip in 10 to 50 network evaluations.

Only the solver's step is diffusers': it is handed our x_0, so that learned variance (which it has no use for),
guidance and clipping stay as they are for the other samplers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lavita.diffusion.schedule import Schedule


def dpm_solver_scheduler(schedule: Schedule, num_steps: int) -> Any:
    """diffusers' DPMSolverMultistepScheduler on our betas, set to num_steps steps; its prediction is x_0.

    It visits num_steps times from the last one, evenly spaced and rounded, and ends with a first-order step to x_0.
    Raises ValueError outside 1 .. schedule.num_steps - 1, where no two times would be the same.
    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2 (2M).
    """
    if not 1 <= num_steps < schedule.num_steps:
        raise ValueError(
            f"sampling.steps: got {num_steps}, allowed 1 to {schedule.num_steps - 1} with sampling.sampler=dpm-solver++"
        )
    # Imported here: it takes seconds, and the other samplers do without.
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.num_steps,
        trained_betas=schedule.betas.tolist(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
    )
    scheduler.set_timesteps(num_steps)
    return scheduler


def dpm_solver_loop(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    num_steps: int,
    x_T: Tensor,
    clip: bool = False,
    bound: float = 1.0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run num_steps steps from noise x_T (B, ..., C, H, W) to x_0, same shape; no further noise is drawn.

    schedule is the one of training, not respaced. denoiser, clip, bound and watch as in `sampler.sample_loop`.
    Raises ValueError for a number of steps that is not allowed.
    """
    scheduler = dpm_solver_scheduler(schedule, num_steps)
    x = x_T
    for i, step in enumerate(scheduler.timesteps.tolist()):
        t = torch.full((len(x),), step, device=x.device)
        eps, _ = denoiser(x, schedule.timesteps.to(x.device)[t]).chunk(2, dim=-3)
        x0 = schedule.predict_x0(x, t, eps)
        x = scheduler.step(x0.clamp(-bound, bound) if clip else x0, step, x).prev_sample
        if watch is not None:
            watch(i, x)
    return x


def whole_number(steps: str) -> int:
    """sampling.steps as one number. Raises ValueError for a respacing string: the solver places its times itself."""
    if not steps.isdigit():
        raise ValueError(
            f"sampling.steps: got {steps!r}, allowed one whole number of steps with sampling.sampler=dpm-solver++"
        )
    return int(steps)
