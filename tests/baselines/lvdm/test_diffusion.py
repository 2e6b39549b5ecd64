"""LVDM's schedule and samplers against closed forms; its loss; given frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.baselines.lvdm import given_frames
from lavita.baselines.lvdm.diffusion import (
    ancestral_step,
    ddim_step,
    lvdm_schedule,
    noise_loss,
    sample_latents,
    sampling_times,
)
from lavita.methods.latent_scale import scaled, unscaled

SCHEDULE = lvdm_schedule()
ALPHAS = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2)


def test_schedule_is_that_of_the_paper():
    np.testing.assert_allclose(SCHEDULE.alphas_cumprod.numpy(), ALPHAS, rtol=1e-12)


def test_times_are_every_nth_from_one_on():
    assert sampling_times(50) == list(range(981, 0, -20))
    assert len(sampling_times(30)) == 31 and sampling_times(30)[0] == 991
    # Strides of 999's divisors would end at time 1000, behind the table.
    assert sampling_times(3) == [667, 334, 1] and sampling_times(333)[0] == 997
    assert sampling_times(500) == list(range(999, 0, -2)) and sampling_times(1) == [1]
    for wrong in (0, 501, 1000):
        with pytest.raises(ValueError, match=f"sampling.steps: got {wrong}, allowed 1 to 500"):
            sampling_times(wrong)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_with_the_right_noise_keeps_the_latent(eta):
    """With the true noise at every step, the state is the latent at that time's level: its mean is followed exactly."""
    z, eps = torch.randn(2, 1, 3, 4, 4, 4, dtype=torch.float64).unbind(0)
    time, before = 501, 481
    x = ALPHAS[time] ** 0.5 * z + (1 - ALPHAS[time]) ** 0.5 * eps
    found, x0 = ddim_step(SCHEDULE, x, time, before, eps, torch.zeros_like(x), eta)
    torch.testing.assert_close(x0, z, rtol=0, atol=1e-12)
    sigma2 = eta**2 * (1 - ALPHAS[before]) / (1 - ALPHAS[time]) * (1 - ALPHAS[time] / ALPHAS[before])
    wanted = ALPHAS[before] ** 0.5 * z + (1 - ALPHAS[before] - sigma2) ** 0.5 * eps
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    noisy, _ = ddim_step(SCHEDULE, x, time, before, eps, torch.ones_like(x), eta)
    torch.testing.assert_close(noisy - found, torch.full_like(x, sigma2**0.5), rtol=0, atol=1e-12)


def test_a_held_latent_brings_its_own_noise():
    x, eps, bound = torch.full((1, 2), 3.0), torch.zeros(1, 2), torch.tensor(0.5)
    found, x0 = ddim_step(SCHEDULE, x, 501, 481, eps, torch.zeros_like(x), 0.0, bound)
    assert x0.tolist() == [[0.5, 0.5]]
    own = (3.0 - ALPHAS[501] ** 0.5 * 0.5) / (1 - ALPHAS[501]) ** 0.5
    wanted = ALPHAS[481] ** 0.5 * 0.5 + (1 - ALPHAS[481]) ** 0.5 * own
    assert float(found[0, 0]) == pytest.approx(wanted, rel=1e-5)


def test_the_ancestral_step_has_the_posteriors_mean_and_variance():
    z, eps = torch.randn(2, 1, 8, dtype=torch.float64).unbind(0)
    step, a, before = 500, ALPHAS[500], ALPHAS[499]
    beta = 1 - a / before
    x = a**0.5 * z + (1 - a) ** 0.5 * eps
    mean = before**0.5 * beta / (1 - a) * z + (1 - beta) ** 0.5 * (1 - before) / (1 - a) * x
    noise = torch.ones_like(x)
    found = ancestral_step(SCHEDULE, x, step, eps, noise)
    torch.testing.assert_close(found, mean + ((1 - before) / (1 - a) * beta) ** 0.5, rtol=0, atol=1e-5)
    z0 = ancestral_step(SCHEDULE, ALPHAS[0] ** 0.5 * z + (1 - ALPHAS[0]) ** 0.5 * eps, 0, eps, noise)
    torch.testing.assert_close(z0, z, rtol=0, atol=1e-5)  # no noise at the last step


def draws(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(2, 4, generator=generator)


def test_the_samplers_find_a_distribution_that_is_known():
    """For latents N(m, s^2) the best noise prediction is known in closed form; samples have that mean and deviation."""
    mean, deviation = 0.7, 0.5

    def best(x, t):
        a = torch.tensor(ALPHAS, dtype=torch.float32)[t][:, None]
        variance = a * deviation**2 + 1 - a
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / variance

    generator = torch.Generator().manual_seed(3)
    for sampler, steps, limit in (("ddim", "100", 0.05), ("ddpm", "1000", 0.03)):
        x = sample_latents(best, SCHEDULE, lambda: torch.randn(4096, 1, generator=generator), sampler, steps)
        # Standard errors: 0.5 / 64 = 0.008 of the mean, 0.5 / 90 = 0.006 of the deviation; the rest is the steps'.
        assert float(x.mean()) == pytest.approx(mean, abs=limit)
        assert float(x.std()) == pytest.approx(deviation, abs=limit)


def test_fewer_ancestral_steps_are_those_of_the_respaced_schedule():
    seen = []
    sample_latents(lambda x, t: seen.append(int(t[0])) or 0 * x, SCHEDULE, draws(), "ddpm", "4")
    assert seen == [999, 666, 333, 0]


def test_wrong_samplers_and_steps():
    with pytest.raises(ValueError, match="allowed ddpm, ddim"):
        sample_latents(lambda x, t: x, SCHEDULE, draws(), "dpm-solver++", "20")
    with pytest.raises(ValueError, match="one whole number"):
        sample_latents(lambda x, t: x, SCHEDULE, draws(), "ddim", "10,10")


def test_the_loss_is_the_mean_absolute_error():
    noise = torch.zeros(2, 3)
    assert noise_loss(torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.5, 0.5]]), noise).tolist() == [1.0, 0.5]


def test_the_shift_comes_first_and_back():
    z, shift, scale = torch.tensor([1.0, 2.0]), torch.tensor(-1.5), torch.tensor(4.0)
    assert scaled(z, shift, scale).tolist() == [-2.0, 2.0]
    assert unscaled(scaled(z, shift, scale), shift, scale).tolist() == [1.0, 2.0]


def test_given_frames_hold_their_own_level_and_are_predicted_too():
    z = torch.ones(1, 1, 2, 1, 1)
    mask = given_frames.mask_of(torch.tensor([True]), (0,), 2)
    seen = []

    def network(x, t, level):
        seen.append((x, t, level))
        return torch.zeros_like(z)

    t, s = torch.tensor([600]), torch.tensor([10])
    noise_t, noise_s = torch.full_like(z, 3.0), torch.full_like(z, -2.0)
    loss = given_frames.masked_loss(network, SCHEDULE, z, mask, t, s, noise_t, noise_s)
    ((x, told_t, told_s),) = seen
    wanted = [ALPHAS[10] ** 0.5 - 2 * (1 - ALPHAS[10]) ** 0.5, ALPHAS[600] ** 0.5 + 3 * (1 - ALPHAS[600]) ** 0.5]
    assert x[0, 0].flatten().tolist() == pytest.approx(wanted, rel=1e-5)
    assert x[0, 1].flatten().tolist() == [1.0, 0.0]  # the mask is the last channel
    assert (told_t, told_s) == (t, s) and float(loss) == (2 + 3) / 2


def test_a_mask_is_one_where_frames_are_given():
    mask = given_frames.mask_of(torch.tensor([True, False]), (0, -1), 4)
    assert mask.shape == (2, 1, 4, 1, 1)
    assert mask.flatten(1).tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]


def test_guidance_leads_away_from_the_network_that_is_given_nothing():
    given, mask = torch.ones(1, 1, 2, 1, 1), given_frames.mask_of(torch.tensor([True]), (0,), 2)
    noise = torch.zeros_like(given)
    put, predict = given_frames.conditioned(
        lambda x, t, level: x[:, :1] * 0 + (1.0 if level is None else 3.0), SCHEDULE, given, mask, noise, guidance=0.1
    )
    state = put(torch.full_like(given, 9.0))
    assert state.flatten().tolist() == pytest.approx([ALPHAS[100] ** 0.5, 9.0], rel=1e-6)
    assert predict(state, torch.tensor([5])).flatten().tolist() == pytest.approx([3.2, 3.2], rel=1e-6)
