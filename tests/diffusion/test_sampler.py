"""Samplers with closed-form denoisers, and classifier-free guidance."""

from __future__ import annotations

import pytest
import torch

from lavita.diffusion.sampler import guided, guided_noise, sample_loop
from lavita.diffusion.schedule import Schedule

SCHEDULE = Schedule.linear()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal float32 values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(x0: torch.Tensor):
    """A denoiser that knows x0: it returns the noise that explains x_t, and a variance in the middle."""

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps = SCHEDULE.predict_eps(x, t, x0)
        return torch.cat([eps, torch.zeros_like(eps)], dim=-3)

    return denoise


@pytest.mark.parametrize("spacing", ["10", "ddim50", "20,5"])
@pytest.mark.parametrize(("method", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0)])
def test_a_perfect_denoiser_recovers_the_clip(method, eta, spacing):
    x0, x_T = normal(2, 3, 4, 4, 4), normal(2, 3, 4, 4, 4, seed=1)
    noise = normal(100, 2, 3, 4, 4, 4, seed=2)
    short = SCHEDULE.respace(spacing)
    out = sample_loop(oracle(x0), short, x_T, lambda step: noise[step], method, eta)
    # The last step adds no noise and returns the predicted x0. There sqrt(1 - alpha_bar) = 0.01 multiplies a
    # noise that was divided by it: a few float32 roundings of values below 5.
    assert torch.allclose(out, x0, atol=1e-5, rtol=0)


def test_ddim_with_eta_zero_draws_no_noise():
    def refuse(step: int) -> torch.Tensor:
        raise AssertionError("noise was drawn")

    x0, x_T = normal(1, 4, 4, 4), normal(1, 4, 4, 4, seed=1)
    sample_loop(oracle(x0), SCHEDULE.respace("5"), x_T, refuse, "ddim", 0.0)
    with pytest.raises(AssertionError, match="noise was drawn"):
        sample_loop(oracle(x0), SCHEDULE.respace("5"), x_T, refuse, "ddim", 0.5)


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_noise_only_data_stays_noise(method):
    # If clips are N(0, 1), the best denoiser returns sqrt(1 - alpha_bar) x, and every x_t is N(0, 1): the
    # noise that DDPM's steps add (variance beta) makes up exactly for what they take away.
    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        eps = SCHEDULE.at("sqrt_noise_variance", t, x) * x
        return torch.cat([eps, torch.ones_like(eps)], dim=-3)

    x_T, n = normal(1, 1, 50, 50), 2_500
    generator = torch.Generator().manual_seed(5)
    short = SCHEDULE.respace("200")
    out = sample_loop(denoise, short, x_T, lambda step: torch.randn(x_T.shape, generator=generator), method)
    # Five standard errors of a standard deviation of 1.
    assert float(out.std()) == pytest.approx(1, abs=5 / (2 * n) ** 0.5)


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_clipping_keeps_the_result_in_range(method):
    x0, x_T = 3 * normal(1, 4, 4, 4), normal(1, 4, 4, 4, seed=1)
    out = sample_loop(oracle(x0), SCHEDULE.respace("10"), x_T, lambda step: torch.zeros_like(x_T), method, clip=True)
    # The last step returns the clipped x0, up to float32 rounding of two products.
    assert torch.allclose(out, x0.clamp(-1, 1), atol=1e-6, rtol=0)


def test_the_denoiser_is_told_original_steps_noisiest_first():
    times, states = [], []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t.tolist())
        return torch.zeros(2, 8, 4, 4)

    x_T = normal(2, 4, 4, 4)
    sample_loop(denoise, SCHEDULE.respace("3"), x_T, lambda i: x_T, watch=lambda i, x: states.append(i))
    assert times == [[999, 999], [500, 500], [0, 0]] and states == [0, 1, 2]


def test_a_clip_does_not_depend_on_its_batch():
    x_T, noise = normal(3, 2, 4, 4, 4), normal(10, 3, 2, 4, 4, 4, seed=1)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.tanh(0.7 * x), torch.tanh(0.3 * x)], dim=-3)

    short = SCHEDULE.respace("10")
    together = sample_loop(denoise, short, x_T, lambda i: noise[i])
    alone = sample_loop(denoise, short, x_T[1:2], lambda i: noise[i, 1:2])
    # Entry by entry arithmetic; vectorised tanh may differ in its last bit at an array's end, and the small
    # gains of ten steps keep that below 1e-5.
    assert torch.allclose(together[1:2], alone, rtol=1e-5, atol=1e-5)


def test_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="'euler', allowed ddpm, ddim, dpm-solver"):
        sample_loop(oracle(torch.zeros(1)), SCHEDULE, torch.zeros(1, 4, 4, 4), lambda i: None, "euler")


def labelled(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A network whose output depends on x, t and y, noise and variance alike; (B, F, C, H, W) -> 2C."""
    shift = (1 + y + t / 1000).view(-1, 1, 1, 1, 1)
    return torch.cat([x * shift, x - shift], dim=2)


@pytest.mark.parametrize("channels", [None, 3])
def test_guidance_by_its_formula(channels):
    x, t, y = normal(2, 3, 4, 4, 4), torch.tensor([10, 20]), torch.tensor([0, 1])
    conditional, unconditional = labelled(x, t, y), labelled(x, t, torch.tensor([7, 7]))
    assert torch.equal(guided(labelled, y, 7, 1.0, channels)(x, t), conditional)
    out = guided(labelled, y, 7, 2.5, channels)(x, t)
    count = channels or 4
    expected = -1.5 * unconditional[:, :, :count] + 2.5 * conditional[:, :, :count]
    # Values below 100 in float32, three products.
    assert torch.allclose(out[:, :, :count], expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(out[:, :, count:], conditional[:, :, count:])
    none = guided(labelled, y, 7, 0.0, channels)(x, t)
    assert torch.equal(none[:, :, :count], unconditional[:, :, :count])


def test_guided_noise_extends_the_difference_between_class_and_no_class():
    calls = []

    def network(x, t, y):
        calls.append(None if y is None else y.tolist())
        return x * 0 + (5.0 if y is None else torch.where(y == 3, 1.0, 2.0))  # 3 is "no class"

    x, t, classes = torch.zeros(2), torch.zeros(2), torch.tensor([0, 2])
    found = {scale: guided_noise(network, classes, 3, scale)(x, t).tolist() for scale in (1.0, 0.0, 7.0)}
    assert found == {1.0: [2.0, 2.0], 0.0: [1.0, 1.0], 7.0: [8.0, 8.0]}
    assert calls == [[0, 2], [0, 2], [3, 3], [0, 2], [3, 3]]  # without guidance the network is called once
    assert guided_noise(network, None, None, 1.0)(x, t).tolist() == [5.0, 5.0] and calls[-1] is None
    with pytest.raises(ValueError, match="sampling.guidance: got 2.0, an unconditional suite allows 1 only"):
        guided_noise(network, None, None, 2.0)
    with pytest.raises(ValueError, match="one class per clip"):
        guided_noise(network, None, 3, 1.0)
