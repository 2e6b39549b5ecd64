"""PVDM's schedule, loss and sampling loop against numpy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.baselines.pvdm.diffusion import noise_loss, pvdm_schedule, sample_latents, sampling_times
from lavita.diffusion.rng import SampleRNG

SHAPE = (2, 6)


@pytest.fixture(scope="module")
def schedule():
    return pvdm_schedule()


@pytest.fixture(scope="module")
def alphas_bar() -> np.ndarray:
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def test_schedule_is_linear_in_the_square_root(schedule, alphas_bar):
    np.testing.assert_allclose(schedule.alphas_cumprod.numpy(), alphas_bar, rtol=1e-12)
    assert schedule.betas[0] == pytest.approx(0.0015) and schedule.betas[-1] == pytest.approx(0.0195)


@pytest.mark.parametrize("count", [1, 7, 25, 50, 100, 400, 1000])
def test_times_are_an_even_grid_cut_towards_zero(count):
    times = sampling_times(count)
    assert len(times) == count + 1 and times[0] == 999 and times[-1] == -1
    exact = np.linspace(-1, 999, count + 1)[::-1]
    # float32 holds 999 to 6e-5, so a grid point that near to an integer may fall on either side of it.
    for time, e in zip(times, exact, strict=True):
        assert time in (int(e - 1e-4), int(e + 1e-4))
    assert all(a > b for a, b in zip(times, times[1:], strict=False))


def test_times_of_the_published_setting():
    assert sampling_times(400)[:5] == [999, 996, 994, 991, 989]
    assert sampling_times(400)[-4:] == [6, 4, 1, -1]


def test_times_round_as_the_released_grid():
    # torch.linspace in float32, as losses/ddpm.py has it; 26 steps is one of those where rounding decides.
    for count in (1, 2, 26, 60, 100, 360, 484, 485, 900, 1000):
        grid = [np.float32(0)] * (count + 1)
        stride = np.float32(1000) / np.float32(count)
        for i in range(count + 1):
            below = np.float32(-1) + stride * np.float32(i)
            above = np.float32(999) - stride * np.float32(count - i)
            grid[i] = below if i < (count + 1) // 2 else above
        assert sampling_times(count) == [int(value) for value in grid][::-1]
    assert sampling_times(26) != [1000 * i // 26 - 1 for i in range(27)][::-1]


@pytest.mark.parametrize("count", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(count):
    with pytest.raises(ValueError, match="allowed 1 to 1000"):
        sampling_times(count)


def test_loss_is_the_squared_error_of_the_noise(schedule, alphas_bar):
    rng = SampleRNG([1, 2])
    z, noise = rng.normal(SHAPE), rng.normal(SHAPE)
    t = torch.tensor([3, 700])
    seen = {}

    def network(z_t, times):
        seen["z_t"] = z_t.numpy()
        return 0.5 * z_t

    got = noise_loss(network, schedule, z, t, noise)
    a = alphas_bar[t.numpy()][:, None, None]
    z_t = np.sqrt(a) * z.numpy() + np.sqrt(1 - a) * noise.numpy()
    np.testing.assert_allclose(seen["z_t"], z_t, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got, ((0.5 * z_t - noise.numpy()) ** 2).mean((1, 2)), rtol=1e-5)


def point_oracle(point: torch.Tensor, alphas_bar: np.ndarray):
    """The exact noise where the data is one point."""

    def predict(z, t):
        a = torch.from_numpy(alphas_bar[t.numpy()])[:, None, None]
        return ((z.double() - a.sqrt() * point.double()) / (1 - a).sqrt()).float()

    return predict


@pytest.mark.parametrize("count, eta", [(1, 1.0), (25, 1.0), (400, 1.0), (25, 0.0)])
def test_perfect_noise_prediction_recovers_the_point(schedule, alphas_bar, count, eta):
    point = torch.linspace(-0.9, 0.9, 12).reshape(SHAPE)
    rng = SampleRNG([0, 1])
    z = sample_latents(point_oracle(point, alphas_bar), schedule, lambda: rng.normal(SHAPE), count, eta)
    # The last step reads x0 = (z - sqrt(1 - a) eps) / sqrt(a); with one step a = 1.4e-4, which
    # magnifies float32 rounding (6e-8 of values around 3) by 1 / sqrt(a) = 84.
    torch.testing.assert_close(z, point.expand(2, -1, -1), rtol=0, atol=5e-5)


def gaussian_oracle(variance: float, alphas_bar: np.ndarray):
    """The best noise prediction where the data is N(0, variance): linear in z."""

    def predict(z, t):
        a = float(alphas_bar[int(t[0])])
        return z * np.sqrt(1 - a) / (a * variance + 1 - a)

    return predict


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_gaussian_follows_the_sampling_equations(schedule, alphas_bar, eta):
    """Every step is linear in z and the drawn noise, so numpy follows the whole chain in float64."""
    variance, count = 0.04, 10
    drawn = []

    def draw():
        drawn.append(torch.randn(3, *SHAPE, generator=generator))
        return drawn[-1]

    generator = torch.Generator().manual_seed(0)
    got = sample_latents(gaussian_oracle(variance, alphas_bar), schedule, draw, count, eta, bound=None)
    times = sampling_times(count)
    z = drawn[0].double().numpy()
    for i, (now, following) in enumerate(zip(times[:-1], times[1:], strict=True)):
        a, b = alphas_bar[now], 1.0 if following < 0 else alphas_bar[following]
        eps = z * np.sqrt(1 - a) / (a * variance + 1 - a)
        x0 = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
        # Equation 16 of DDIM, with its two factors in one root.
        sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        fresh = drawn[i + 1].double().numpy() if following >= 0 else 0.0
        z = np.sqrt(b) * x0 + np.sqrt(1 - b - sigma2) * eps + np.sqrt(sigma2) * fresh
    assert len(drawn) == count  # one to start, one per step but the last
    # Ten float32 steps, the first magnifying rounding by up to 84 (see above) before x0 is shrunk again.
    np.testing.assert_allclose(got.numpy(), z, rtol=1e-4, atol=1e-5)


def final_variance(variance: float, alphas_bar: np.ndarray, count: int) -> float:
    """Variance that eta 1 leaves: each step scales the state and adds independent noise."""
    left, times = 1.0, sampling_times(count)
    for now, following in zip(times[:-1], times[1:], strict=True):
        a, b = alphas_bar[now], 1.0 if following < 0 else alphas_bar[following]
        slope = np.sqrt(1 - a) / (a * variance + 1 - a)
        sigma2 = (1 - b) / (1 - a) * (1 - a / b)
        scale = np.sqrt(b / a) * (1 - np.sqrt(1 - a) * slope) + np.sqrt(1 - b - sigma2) * slope
        left = scale**2 * left + sigma2
    return left


def test_a_gaussian_comes_back_with_its_spread(schedule, alphas_bar):
    variance, count = 0.04, 400
    rng = SampleRNG(range(64))
    oracle = gaussian_oracle(variance, alphas_bar)
    z = sample_latents(oracle, schedule, lambda: rng.normal((2, 64)), count)
    wanted = final_variance(variance, alphas_bar, count)
    # 8192 values: the relative standard error of a variance is sqrt(2 / 8192) = 1.6 %; five of these.
    assert float(z.var()) == pytest.approx(wanted, rel=0.08)
    # Finite steps leave too little spread, and the more steps the less so.
    spreads = [final_variance(variance, alphas_bar, n) for n in (100, 400, 1000)]
    assert spreads == sorted(spreads) and 0.85 < spreads[-1] / variance < 1


def test_the_latent_is_clipped_but_the_noise_is_not(schedule, alphas_bar):
    point = torch.full(SHAPE, 3.0)
    rng = SampleRNG([0])
    states = []
    z = sample_latents(
        point_oracle(point, alphas_bar),
        schedule,
        lambda: rng.normal(SHAPE),
        20,
        eta=0.0,
        watch=lambda i, state: states.append(state.clone()),
    )
    assert torch.equal(z, torch.ones_like(z))
    replay = SampleRNG([0]).normal(SHAPE)
    a, b = (alphas_bar[i] for i in sampling_times(20)[:2])
    eps = (replay.numpy() - np.sqrt(a) * 3.0) / np.sqrt(1 - a)
    np.testing.assert_allclose(states[0], np.sqrt(b) * 1.0 + np.sqrt(1 - b) * eps, rtol=1e-5, atol=1e-5)


def test_a_clip_does_not_depend_on_its_batch(schedule):
    def network(z, t):
        return torch.tanh(z)

    def run(seeds):
        rng = SampleRNG(seeds)
        return sample_latents(network, schedule, lambda: rng.normal(SHAPE), 8)

    together = run([7, 8, 9])
    for k, seed in enumerate([7, 8, 9]):
        assert torch.equal(run([seed])[0], together[k])
