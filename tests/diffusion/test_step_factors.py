"""What a sampling step multiplies by, for every number of steps and several eta, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.baselines.pvdm.diffusion import pvdm_schedule, sample_latents, sampling_times
from lavita.config.schema import ConfigError, SamplingConfig
from lavita.diffusion.sampler import dpm_solver_loop, dpm_solver_scheduler, sample_latent
from lavita.diffusion.schedule import Schedule

LINEAR, PVDM = Schedule.linear(), pvdm_schedule()
ETAS = (0.0, 0.3, 0.5, 1.0)
EPS64 = float(np.finfo(np.float64).eps)
LINEAR_BAR = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
PVDM_BAR = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
# alpha_bar is a product of up to 1000 factors, each rounded, and divided and multiplied back once per step.
ALPHA_BAR_ERROR = 4 * 1000 * EPS64


@pytest.fixture(scope="module")
def respaced() -> tuple[list[Schedule], np.ndarray, np.ndarray, np.ndarray]:
    """Every short schedule of IDDPM's and of PVDM's samplers; alpha_bar, the one before it and the relative error of
    1 - alpha_bar at all of their steps, one after the other.
    """
    shorts, bars, befores, errors = [], [], [], []
    # 1 - alpha_bar and beta are at least the first beta.
    for schedule, table, least in ((LINEAR, LINEAR_BAR, 1e-4), (PVDM, PVDM_BAR, 1.5e-3)):
        for count in range(1, 1001):
            at_times = torch.tensor(sampling_times(count)[-2::-1])
            short = schedule.respace(str(count)) if schedule is LINEAR else schedule.visiting(at_times)
            bar = table[short.timesteps.numpy()]
            shorts.append(short)
            bars.append(bar)
            befores.append(np.append(1, bar[:-1]))
            errors.append(np.full(count, 8 * ALPHA_BAR_ERROR / least))
    return shorts, *map(np.concatenate, (bars, befores, errors))


@pytest.mark.parametrize("eta", ETAS)
def test_factors_of_a_ddim_step_for_every_number_of_steps(respaced, eta):
    shorts, bar, before, error = respaced
    tables = zip(*(short.ddim_factors(eta) for short in shorts), strict=True)
    of_x0, of_eps, sigma = (torch.cat(table).numpy() for table in tables)
    sigma2 = eta**2 * (1 - before) / (1 - bar) * (1 - bar / before)
    assert (abs(of_x0 - np.sqrt(before)) <= ALPHA_BAR_ERROR).all()
    assert (abs(sigma**2 - sigma2) <= error * sigma2).all()
    assert (abs(of_eps**2 - (1 - before - sigma2)) <= error * (1 - before)).all()
    # x_{t-1} given x_0 has the variance 1 - alpha_bar_prev, whatever eta is.
    assert (abs(of_eps**2 + sigma**2 - (1 - before)) <= error * (1 - before)).all()
    last = before == 1  # the step that gives x_0
    assert (of_x0[last] == 1).all() and (of_eps[last] == 0).all() and (sigma[last] == 0).all()
    for table in (of_x0, of_eps, sigma):
        assert np.isfinite(table.astype(np.float32)).all() and (table >= 0).all()


def test_factors_of_a_ddpm_step_for_every_number_of_steps(respaced):
    shorts, bar, before, error = respaced
    beta = 1 - bar / before
    one, none, steps = torch.ones(1, 1), torch.zeros(1, 1), [torch.arange(short.num_steps) for short in shorts]
    found = torch.cat([short.posterior_variance for short in shorts]).numpy()
    assert (abs(torch.cat([short.betas for short in shorts]).numpy() - beta) <= error * beta).all()
    assert (abs(found - beta * (1 - before) / (1 - bar)) <= error * found).all()
    assert all(short.posterior_log_variance.isfinite().all() for short in shorts)
    # Rounded to float32 once; the products by one and by zero are exact.
    error = error + np.finfo(np.float32).eps
    pairs = list(zip(shorts, steps, strict=True))
    found = torch.cat([short.posterior_mean(one, none, t)[:, 0] for short, t in pairs]).numpy()
    assert (abs(found - beta * np.sqrt(before) / (1 - bar)) <= error * found).all()
    found = torch.cat([short.posterior_mean(none, one, t)[:, 0] for short, t in pairs]).numpy()
    assert (abs(found - (1 - before) * np.sqrt(1 - beta) / (1 - bar)) <= error * found).all()


def test_dpm_solver_has_finite_noise_levels():
    scheduler = dpm_solver_scheduler(LINEAR, 1)
    for count in (*range(1, 50), *range(50, 1000, 19), 999):
        scheduler.set_timesteps(count)
        sigmas, times = scheduler.sigmas.double().numpy(), scheduler.timesteps.numpy()
        assert np.isfinite(sigmas).all() and (np.diff(sigmas) < 0).all() and sigmas[-1] == 0
        wanted = np.sqrt(1 / LINEAR_BAR[times] - 1)
        # diffusers multiplies up to 1000 float32 factors; off by 3e-7 relative to alpha_bar, 1e-4 or more from 1.
        np.testing.assert_allclose(sigmas[:-1], wanted, rtol=3e-7 / 1e-4)


def tiny(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A network that is wrong everywhere but bounded, as an untrained one is; noise and variance."""
    return torch.cat([torch.tanh(x + t.view(-1, 1, 1, 1) / 1000), torch.tanh(0.3 * x)], dim=-3)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 25, 50, 1000])
def test_samples_are_finite(count):
    generator = torch.Generator().manual_seed(count)

    def draw(step: int = 0) -> torch.Tensor:
        return torch.randn(1, 2, 2, 2, generator=generator)

    steps, few = str(count), count <= 50
    clipping = (False, True) if few else (False,)
    samples = [sample_latent("ddpm", steps, tiny, LINEAR, draw(), draw, clip=clip) for clip in clipping]
    for eta in ETAS if few else (1.0,):
        samples += [sample_latent("ddim", steps, tiny, LINEAR, draw(), draw, eta, clip) for clip in clipping]
        samples.append(sample_latents(lambda z, t: tiny(z, t)[:, :2], PVDM, draw, count, eta))
        assert float(samples[-1].abs().max()) <= 1
    samples.append(dpm_solver_loop(tiny, LINEAR, min(count, 999), draw(), clip=True))
    assert all(torch.isfinite(sample).all() for sample in samples)


def test_tables_are_used_in_the_dtype_of_the_state():
    t = torch.tensor([3])
    for dtype, used in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        assert LINEAR.at("betas", t, torch.zeros(1, 2, dtype=dtype)).dtype == used
    exact = LINEAR.add_noise(torch.ones(1, 1, dtype=torch.float64), t, torch.zeros(1, 1, dtype=torch.float64))
    assert float(exact) == pytest.approx(np.sqrt(LINEAR_BAR[3]), rel=ALPHA_BAR_ERROR)


@pytest.mark.parametrize("eta", [-0.1, 1.01, float("nan")])
def test_an_eta_that_leaves_no_variance_is_refused(eta):
    with pytest.raises(ValueError, match=r"sampling.eta: got .*, allowed 0 to 1"):
        LINEAR.ddim_factors(eta)
    with pytest.raises(ConfigError, match=r"sampling.eta: got .*, allowed 0 "):
        SamplingConfig("ddim", "10", eta, 1.0, None, False, 1, "generation", 1, "32-true")
