"""DPM-Solver++ against the closed-form solution for Gaussian data, and against one DDIM step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.diffusion.sampler import ddim_step, dpm_solver_loop, dpm_solver_scheduler, sample_latent
from lavita.diffusion.schedule import Schedule

SCHEDULE = Schedule.linear()
SPREAD = 0.5  # of the Gaussian data N(0, SPREAD^2)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal float32 values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def deviation(t: int) -> float:
    """Standard deviation of x_t for data N(0, SPREAD^2)."""
    alpha_bar = float(np.prod(1 - np.linspace(1e-4, 2e-2, 1000)[: t + 1]))
    return float(np.sqrt(alpha_bar * SPREAD**2 + 1 - alpha_bar))


def gaussian(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The exact noise predictor of data N(0, SPREAD^2): sqrt(1 - alpha_bar) x_t / Var[x_t]; any variance."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0)[t]
    factor = (1 - alpha_bar).sqrt() / (alpha_bar * SPREAD**2 + 1 - alpha_bar)
    eps = factor.float().view(-1, *[1] * (x.ndim - 1)) * x
    return torch.cat([eps, torch.zeros_like(eps)], dim=-3)


def error_at_half_time(num_steps: int) -> float:
    """Relative error at t = 500 against the probability-flow ODE, whose solution is x_t = x_T sd(t) / sd(999)."""
    x_T, states = normal(1, 1, 4, 4), []
    dpm_solver_loop(gaussian, SCHEDULE, num_steps, x_T, watch=lambda i, x: states.append(x))
    assert int(dpm_solver_scheduler(SCHEDULE, num_steps).timesteps[num_steps // 2]) == 500
    exact = x_T * deviation(500) / deviation(999)
    return float((states[num_steps // 2 - 1] - exact).norm() / exact.norm())


def test_error_falls_with_the_square_of_the_number_of_steps():
    errors = [error_at_half_time(n) for n in (10, 20, 40)]
    # Second order: a quarter at twice the steps; a first-order method halves. Between them on a logarithmic scale
    # lies a factor of 2.8.
    assert errors[1] < errors[0] / 2.8 and errors[2] < errors[1] / 2.8
    assert errors[2] < 1e-3


@pytest.mark.parametrize("clip", [False, True])
def test_first_step_is_a_ddim_step_without_noise(clip):
    x_T, states, num_steps = normal(2, 3, 4, 4, 4), [], 2

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.99 * x, x], dim=-3)  # x_0 is then about 1.6 x_T

    dpm_solver_loop(denoise, SCHEDULE, num_steps, x_T, clip, 0.4, lambda i, x: states.append(x))
    last, before = np.round(np.linspace(0, 999, num_steps + 1))[[-1, -2]].astype(int)
    alphas_bar = SCHEDULE.alphas_cumprod[[before, last]]
    betas = 1 - alphas_bar / torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:1]])
    short, t = Schedule(betas, torch.tensor([before, last])), torch.tensor([1, 1])
    ddim = ddim_step(short, x_T, t, 0.99 * x_T, torch.zeros_like(x_T), 0.0, clip, 0.4)
    # x_0 is a difference of values 157 times as large as x_T (below 4), each rounded to float32: 4 * 157 * 6e-8.
    assert torch.allclose(states[0], ddim, rtol=0, atol=1e-4)
    assert not torch.allclose(states[0], x_T, atol=1e-2)


def test_the_network_is_told_integer_times_of_training_noisiest_first():
    times = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t)
        return gaussian(x, t)

    dpm_solver_loop(denoise, SCHEDULE, 4, normal(2, 4, 4, 4))
    assert torch.equal(torch.stack(times)[:, 0], torch.tensor([999, 749, 500, 250]))
    assert all(t.dtype == torch.int64 and t.shape == (2,) for t in times)


def test_the_result_is_the_clipped_prediction_of_the_last_step():
    # The last step goes to sigma = 0, where only the predicted x_0 is left.
    x0 = 3 * normal(1, 4, 4, 4)

    def knows(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps = SCHEDULE.predict_eps(x, t, x0)
        return torch.cat([eps, torch.zeros_like(eps)], dim=-3)

    out = dpm_solver_loop(knows, SCHEDULE, 5, normal(1, 4, 4, 4, seed=1), clip=True)
    # float32 rounding of values of 1.
    assert torch.allclose(out, x0.clamp(-1, 1), rtol=0, atol=1e-5)


def test_no_noise_is_drawn_and_the_sampler_is_chosen_by_name():
    def refuse(step: int) -> torch.Tensor:
        raise AssertionError("noise was drawn")

    x_T = normal(2, 3, 4, 4, 4)
    out = sample_latent("dpm-solver++", "6", gaussian, SCHEDULE, x_T, refuse)
    assert torch.equal(out, dpm_solver_loop(gaussian, SCHEDULE, 6, x_T))
    # Entry by entry arithmetic: neighbours have no part.
    assert torch.equal(out[1:], sample_latent("dpm-solver++", "6", gaussian, SCHEDULE, x_T[1:], refuse))


@pytest.mark.parametrize("steps", ["ddim50", "10,10", "0", "1000"])
def test_other_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"sampling.steps: got .*dpm-solver\+\+"):
        sample_latent("dpm-solver++", steps, gaussian, SCHEDULE, normal(1, 4, 4, 4), lambda i: None)
