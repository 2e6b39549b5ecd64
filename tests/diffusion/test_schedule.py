"""The schedule against the definition of the forward process, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.sampler import ddim_step, ddpm_step
from lavita.diffusion.schedule import TABLES, Schedule, spaced_steps

SCHEDULE = Schedule.linear()
BETAS = np.linspace(1e-4, 2e-2, 1000)
EPS = float(np.finfo(np.float32).eps)


def test_coefficients_of_q_sample_follow_from_single_steps():
    # x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n_t, mean and variance carried along step by step.
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(BETAS):
        mean, variance = mean * np.sqrt(1 - beta), variance * (1 - beta) + beta
        if t in (0, 1, 500, 999):
            step, one, zero = torch.tensor([t]), torch.ones(1, 1), torch.zeros(1, 1)
            # Tables are float64 and rounded to float32 once; the product by one is exact.
            assert float(SCHEDULE.add_noise(one, step, zero)) == pytest.approx(mean, rel=2 * EPS)
            assert float(SCHEDULE.add_noise(zero, step, one)) == pytest.approx(np.sqrt(variance), rel=2 * EPS)


def test_moments_of_q_sample():
    generator = torch.Generator().manual_seed(0)
    n, t = 200_000, 300
    noise = torch.randn(1, n, generator=generator)
    x_t = SCHEDULE.add_noise(torch.full((1, n), 0.7), torch.tensor([t]), noise)
    alpha_bar = np.prod(1 - BETAS[: t + 1])
    deviation = np.sqrt(1 - alpha_bar)
    # Five standard errors of a mean and of a standard deviation.
    assert float(x_t.mean()) == pytest.approx(0.7 * np.sqrt(alpha_bar), abs=5 * deviation / np.sqrt(n))
    assert float(x_t.std()) == pytest.approx(deviation, abs=5 * deviation / np.sqrt(2 * n))


@pytest.mark.parametrize("t", [1, 2, 400, 999])
def test_posterior_by_bayes_rule(t):
    # Product of the Gaussians q(x_t | x_{t-1}) and q(x_{t-1} | x_0): precisions add and weight the means.
    alpha, before = 1 - BETAS[t], np.prod(1 - BETAS[:t])
    precision = alpha / BETAS[t] + 1 / (1 - before)
    x0, x_t = 0.3, -1.1
    mean = (np.sqrt(alpha) * x_t / BETAS[t] + np.sqrt(before) * x0 / (1 - before)) / precision
    ours = SCHEDULE.posterior_mean(torch.tensor([[x0]]), torch.tensor([[x_t]]), torch.tensor([t]))
    # Two float32 products of values near one, and the inputs' own rounding.
    assert float(ours) == pytest.approx(mean, abs=8 * EPS)
    assert float(SCHEDULE.posterior_variance[t]) == pytest.approx(1 / precision, rel=1e-9)
    assert float(SCHEDULE.posterior_log_variance[t]) == pytest.approx(-np.log(precision), rel=1e-9)


def test_first_posterior_variance_is_replaced_by_the_second():
    assert float(SCHEDULE.posterior_variance[0]) == 0.0
    assert SCHEDULE.posterior_log_variance[0] == SCHEDULE.posterior_log_variance[1]


def test_x0_and_noise_are_recovered():
    generator = torch.Generator().manual_seed(1)
    t = torch.tensor([0, 10, 500, 999])
    x0, noise = torch.randn(2, 4, 50, generator=generator)
    x_t = SCHEDULE.add_noise(x0, t, noise)
    # Rounding of x_t (values below 5) is divided by sqrt(alpha_bar), 0.0064 at t = 999, or by sigma.
    alpha_bar = np.cumprod(1 - BETAS)[t.numpy()][:, None]
    error = (SCHEDULE.predict_x0(x_t, t, noise) - x0).abs().numpy()
    assert (error <= 20 * EPS / np.sqrt(alpha_bar)).all()
    error = (SCHEDULE.predict_eps(x_t, t, x0) - noise).abs().numpy()
    assert (error <= 20 * EPS / np.sqrt(1 - alpha_bar)).all()


def test_learned_variance_moves_between_its_bounds():
    t = torch.tensor([0, 7, 999])
    ends = [SCHEDULE.model_log_variance(torch.full((3, 1), v), t)[:, 0].numpy() for v in (-1.0, 1.0, 0.0)]
    low, high = SCHEDULE.posterior_log_variance[t].numpy(), np.log(BETAS[t.numpy()])
    # Logarithms down to -12 in float32.
    assert np.allclose(ends[0], low, atol=12 * EPS, rtol=0) and np.allclose(ends[1], high, atol=12 * EPS, rtol=0)
    assert np.allclose(ends[2], (low + high) / 2, atol=24 * EPS, rtol=0)


@pytest.mark.parametrize("spacing", ["50", "ddim50", "10,5,3", "1000", "1"])
def test_respaced_schedule_keeps_the_noise_levels(spacing):
    short = SCHEDULE.respace(spacing)
    kept = np.cumprod(1 - BETAS)[short.timesteps.numpy()]
    # alpha_bar is divided and multiplied back once per step, in float64.
    assert np.allclose(short.alphas_cumprod.numpy(), kept, rtol=1e-12, atol=0)
    assert short.num_steps == len(kept)


def test_steps_of_respacing_strings():
    assert spaced_steps(1000, "ddim50").tolist() == list(range(0, 1000, 20))
    assert spaced_steps(1000, "5").tolist() == [0, 250, 500, 749, 999]  # 499.5 and 749.25 to even and nearest
    assert spaced_steps(10, "3,1").tolist() == [0, 2, 4, 5]
    # Sections of 300 in 100 with 10, 15, 20 steps: the documented example of IDDPM's respacing.
    sections = spaced_steps(300, "10,15,20").tolist()
    assert [sum(100 * k <= step < 100 * (k + 1) for step in sections) for k in range(3)] == [10, 15, 20]


@pytest.mark.parametrize("spacing", ["0", "1001", "ddim7000", "600,10"])
def test_impossible_respacings_are_refused(spacing):
    with pytest.raises(ValueError, match="sampling steps"):
        spaced_steps(1000, spacing)


def test_betas_are_checked():
    with pytest.raises(ValueError, match="float64"):
        Schedule.from_betas(torch.rand(5))
    with pytest.raises(ValueError, match="0, 1"):
        Schedule.from_betas(torch.tensor([0.5, 1.5], dtype=torch.float64))
    # The last beta would be 1: nothing of x_0 is left, and x_0 = (x_t - eps) / 0.
    with pytest.raises(ValueError, match="got 0.005 to 1, .* take more steps"):
        Schedule.linear(20)


class Copies(TorchDispatchMode):
    """Names of the operations that copy a tensor, to another type or place."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function)
        if "_to_copy" in name or "_local_scalar_dense" in name:
            self.found.append(name)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("dtype, wide", [(torch.float32, torch.float32), (torch.float64, torch.float64)])
@pytest.mark.parametrize("name", TABLES)
def test_entries_are_those_of_the_table_rounded_once(name, dtype, wide):
    t, like = torch.tensor([0, 7, 999]), torch.zeros(3, 2, 2, dtype=dtype)
    assert torch.equal(SCHEDULE.at(name, t, like), getattr(SCHEDULE, name)[t].to(wide).view(3, 1, 1))


def test_no_step_copies_a_table():
    """The loss, and a step of each sampler, after the first: every table is where it is needed, in its type."""
    schedule, x, t = Schedule.linear(), torch.randn(2, 4, 4), torch.tensor([3, 900])

    def every_step() -> None:
        hybrid_loss(schedule, x, t, x, x, x)
        ddpm_step(schedule, x, t, x, x, x, clip=True)
        ddim_step(schedule, x, t, x, x, eta=0.7, clip=True)
        schedule.times(t)

    every_step()
    with Copies() as copies:
        every_step()
    assert copies.found == []
    with Copies() as copies:  # a table in another type is copied, which the watch notices
        schedule.at("betas", t, x.double())
    assert copies.found


def test_a_simulation_leaves_no_tables_behind():
    schedule, t = Schedule.linear(), torch.tensor([3])
    with FakeTensorMode(allow_non_fake_inputs=True):
        schedule.at("betas", t, torch.zeros(1, dtype=torch.float64))
    found = schedule.at("betas", t, torch.zeros(1, dtype=torch.float64))
    assert type(found) is torch.Tensor and float(found) == float(schedule.betas[3])
