"""What diffusers' DDPM and DDIM schedulers share with ours, and why they cannot stand in for it."""

from __future__ import annotations

import pytest
import torch

from lavita.diffusion.sampler import sample_loop
from lavita.diffusion.schedule import Schedule

SCHEDULE = Schedule.linear()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal float32 values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A network that keeps x_t about as large as it is, with a variance that is neither bound."""
    factor = SCHEDULE.at("sqrt_noise_variance", t, x)
    return torch.cat([0.9 * factor * x, torch.tanh(0.3 * x - 0.2)], dim=-3)


def theirs(scheduler, times: torch.Tensor, x: torch.Tensor, learned_variance: bool) -> torch.Tensor:
    """diffusers' loop over the given times, noisiest first; it wants channels on axis 1, so x is (B, C, H, W)."""
    for t in times.tolist():
        out = denoise(x, torch.full((len(x),), t))
        x = scheduler.step(out if learned_variance else out.chunk(2, dim=1)[0], t, x).prev_sample
    return x


@pytest.mark.parametrize(("spacing", "same"), [("ddim50", True), ("50", False)])
def test_ddim_scheduler_knows_constant_strides_only(spacing, same):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(trained_betas=SCHEDULE.betas.tolist(), clip_sample=False)
    short, x_T = SCHEDULE.respace(spacing), normal(2, 4, 4, 4)
    scheduler.set_timesteps(short.num_steps)
    other = theirs(scheduler, short.timesteps.flip(0), x_T, learned_variance=False)
    ours = sample_loop(denoise, short, x_T, lambda i: x_T, "ddim")
    error = float((ours - other).norm() / ours.norm())
    # Their tables are float32 products of up to 1000 factors, off by 3e-7, and are read in 50 steps: 1.5e-5. A wrong
    # stride is off by a percent.
    assert error < 1.5e-5 if same else error > 1e-3


def test_ddpm_scheduler_does_our_arithmetic_but_draws_its_own_noise(monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    short, x_T, noise = SCHEDULE.respace("50"), normal(2, 4, 4, 4), normal(50, 2, 4, 4, 4, seed=1)
    ours = sample_loop(denoise, short, x_T, lambda i: noise[i], "ddpm")

    def run() -> float:
        scheduler = DDPMScheduler(
            trained_betas=SCHEDULE.betas.tolist(), variance_type="learned_range", clip_sample=False
        )
        scheduler.set_timesteps(timesteps=short.timesteps.flip(0).tolist())
        other = theirs(scheduler, scheduler.timesteps, x_T, learned_variance=True)
        return float((ours - other).norm() / ours.norm())

    torch.manual_seed(0)
    assert run() > 0.1
    left = iter(noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(left))
    # As above: float32 tables, 50 steps.
    assert run() < 1.5e-5
