"""Sampling by DDPM and DDIM on a respaced schedule, with classifier-free guidance and one generator per clip.

These two are our own lines because diffusers 0.36 to 0.42 cannot repeat their recorded figures:
- DDIMScheduler goes from t to t - 1000 // steps whatever the next time is, while IDDPM's "50" visits 0, 20, 41, 61,
  ...; only with a constant stride ("ddim50") do the two agree.
- DDPMScheduler, given IDDPM's times, does the same arithmetic, its learned range included. But it draws the noise
  itself, inside `step`; the recorded figures come with their noise, which cannot be handed to it.
Both statements are tested in tests/diffusion/test_diffusers.py. DPM-Solver++ is diffusers': see dpm_solver.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from lavita.diffusion.rng import drawn_ahead
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
    scheduler.set_timesteps(num_steps)  # type: ignore[attr-defined]  # diffusers is not typed
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
        eps, _ = denoiser(x, schedule.times(t)).chunk(2, dim=-3)
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


Denoiser = Callable[[Tensor, Tensor], Tensor]


def ddpm_step(
    schedule: Schedule, x_t: Tensor, t: Tensor, eps: Tensor, v: Tensor, noise: Tensor, clip: bool, bound: float = 1.0
) -> Tensor:
    """One ancestral step x_t -> x_{t-1} with learned-range variance. Source: Ho et al. 2020, algorithm 2."""
    x0 = schedule.predict_x0(x_t, t, eps)
    mean = schedule.posterior_mean(x0.clamp(-bound, bound) if clip else x0, x_t, t)
    sigma = torch.exp(0.5 * schedule.model_log_variance(v, t))
    keep = (t > 0).view(-1, *[1] * (x_t.ndim - 1))
    return mean + keep * sigma * noise


def ddim_step(
    schedule: Schedule, x_t: Tensor, t: Tensor, eps: Tensor, noise: Tensor, eta: float, clip: bool, bound: float = 1.0
) -> Tensor:
    """One DDIM step x_t -> x_{t-1}; eta 0..1, 0 is deterministic. Source: Song et al. 2021, equations 12 and 16."""
    x0 = schedule.predict_x0(x_t, t, eps)
    if clip:
        x0 = x0.clamp(-bound, bound)
    eps = schedule.predict_eps(x_t, t, x0)
    of_x0, of_eps, sigma = schedule.ddim_at(eta, t, x_t)
    return of_x0 * x0 + of_eps * eps + sigma * noise  # at t = 0 these are 1, 0 and 0


def sample_latent(
    sampler: str,
    steps: str,
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Tensor,
    step_noise: Callable[[int], Tensor],
    eta: float = 0.0,
    clip: bool = False,
    bound: float = 1.0,
) -> Tensor:
    """x_0 (B, ..., C, H, W) from noise x_T of the same shape by any sampler: the one place that chooses.

    sampler and steps are sampling.sampler (ddpm, ddim, dpm-solver++) and sampling.steps (a respacing string, for
    dpm-solver++ one whole number); schedule is the one of training; the rest as in `sample_loop`, eta for ddim only.
    Raises ValueError for a sampler or steps not allowed.
    """
    if sampler == "dpm-solver++":
        return dpm_solver_loop(denoiser, schedule, whole_number(steps), x_T, clip, bound)
    return sample_loop(denoiser, schedule.respace(steps), x_T, step_noise, sampler, eta, clip, bound)


def sample_loop(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Tensor,
    step_noise: Callable[[int], Tensor],
    method: str = "ddpm",
    eta: float = 0.0,
    clip: bool = False,
    bound: float = 1.0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps of a schedule from noise x_T (B, ..., C, H, W) to x_0, same shape.

    denoiser(x, t) is told the original timestep t (B,) and returns noise and variance stacked on the channel axis,
    (B, ..., 2C, H, W). step_noise(i) gives the noise of the i-th sampling step, i = 0 the noisiest; a thread calls it,
    in this order, one step ahead; it is not called where the method needs none. clip holds every predicted x_0 in
    [-bound, bound]. watch(i, x) sees the state after every step.
    Source: Nichol & Dhariwal 2021, section 4; Song et al. 2021.
    """
    if method not in ("ddpm", "ddim"):
        raise ValueError(f"sampling.sampler: got {method!r}, allowed ddpm, ddim, dpm-solver++")
    x, noisy = x_T, method == "ddpm" or eta > 0
    noises = drawn_ahead(step_noise, schedule.num_steps) if noisy else repeat(torch.zeros_like(x))
    for i, (step, noise) in enumerate(zip(reversed(range(schedule.num_steps)), noises, strict=False)):
        t = torch.full((len(x),), step, device=x.device)
        eps, v = denoiser(x, schedule.times(t)).chunk(2, dim=-3)
        if method == "ddpm":
            x = ddpm_step(schedule, x, t, eps, v, noise, clip, bound)
        else:
            x = ddim_step(schedule, x, t, eps, noise, eta, clip, bound)
        if watch is not None:
            watch(i, x)
    return x


def check_guidance(scale: float, num_classes: int | None, classes: Tensor | None) -> None:
    """Raise ValueError for guidance without classes to guide by, and for a class suite without a class per clip."""
    if num_classes is None and scale != 1.0:
        raise ValueError(f"sampling.guidance: got {scale}, an unconditional suite allows 1 only")
    if num_classes is not None and classes is None:
        raise ValueError("a class-conditional method samples with one class per clip, got none")


def guided_noise(
    network: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    classes: Tensor | None,
    num_classes: int | None,
    scale: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Noise prediction (x, t) with classifier-free guidance: null + scale * (conditional - null).

    network(x, t, y) predicts the noise of x for classes y (B,), null being num_classes, or for None in an unconditional
    suite. Raises ValueError as `check_guidance`. Source: Ho & Salimans 2022, equation 6 with scale = 1 + w.
    """
    check_guidance(scale, num_classes, classes)
    if classes is None or num_classes is None:
        return lambda x, t: network(x, t, None)
    null = torch.full_like(classes, num_classes)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        conditional = network(x, t, classes)
        if scale == 1.0:
            return conditional
        unconditional = network(x, t, null)
        return unconditional + scale * (conditional - unconditional)

    return predict


def guided(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], y: Tensor, null: int, scale: float, guided_channels: int | None
) -> Denoiser:
    """Denoiser with classifier-free guidance: null + scale * (conditional - null) on the noise.

    network(x, t, y) returns noise and variance on the channel axis. guided_channels None guides all C latent
    channels; the official DiT guides the first three only. The variance stays the conditional one.
    Source: Ho & Salimans 2022, equation 6 with scale = 1 + w.
    """

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if scale == 1.0:
            return network(x, t, y)
        labels = torch.cat([y, torch.full_like(y, null)])
        both = network(torch.cat([x, x]), torch.cat([t, t]), labels)
        conditional, unconditional = both.chunk(2)
        count = x.shape[-3] if guided_channels is None else guided_channels
        eps, rest = conditional.split([count, conditional.shape[-3] - count], dim=-3)
        base = unconditional[..., :count, :, :]
        return torch.cat([base + scale * (eps - base), rest], dim=-3)

    return denoise
