"""The hybrid loss against torch.distributions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lavita.diffusion.loss import approximate_normal_cdf, discretised_log_likelihood, gaussian_kl, hybrid_loss
from lavita.diffusion.schedule import Schedule

SCHEDULE = Schedule.linear()


def draws(seed: int, count: int) -> torch.Tensor:
    """`count` float64 tensors (3, 20) of normal values."""
    return torch.randn(count, 3, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_of_two_gaussians():
    mean1, mean2, log1, log2 = draws(0, 4)
    ours = gaussian_kl(mean1, log1, mean2, log2)
    theirs = kl_divergence(Normal(mean1, (log1 / 2).exp()), Normal(mean2, (log2 / 2).exp()))
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    assert (ours >= 0).all()


def test_approximate_distribution_function():
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    # 2e-3 bounds the error of the tanh form of the normal distribution function.
    assert (approximate_normal_cdf(x) - Normal(0.0, 1.0).cdf(x)).abs().max() < 2e-3


@pytest.mark.parametrize(("mean", "scale"), [(0.1, 0.05), (-0.9, 0.2), (0.99, 0.02)])
def test_discretised_likelihood_is_a_distribution(mean, scale):
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_scale = torch.full_like(levels, math.log(scale))
    probabilities = discretised_log_likelihood(levels, torch.full_like(levels, mean), log_scale).exp()
    # The bins' ends meet, so the sum telescopes; each of 256 bins is floored at 1e-12.
    assert float(probabilities.sum()) == pytest.approx(1, abs=256 * 2e-12)
    # The two outer levels stand for everything beyond them as well.
    assert int(probabilities[1:-1].argmax()) == int((levels[1:-1] - mean).abs().argmin())


def test_perfect_noise_leaves_the_variance_term_alone():
    generator = torch.Generator().manual_seed(2)
    x0, noise = torch.randn(2, 4, 2, 3, 4, 4, generator=generator)
    t = torch.tensor([1, 20, 500, 999])
    beta, tilde = SCHEDULE.betas[t], SCHEDULE.posterior_variance[t]
    for v, variance in ((-1.0, tilde), (1.0, beta)):
        parts = hybrid_loss(SCHEDULE, x0, t, noise, noise, torch.full_like(x0, v))
        assert torch.equal(parts["mse"], torch.zeros(4))
        ratio = tilde / variance
        bits = 0.5 * (ratio - 1 - ratio.log()) / math.log(2)
        # Differences of float32 logarithms near -10 (rounding 1e-6) and of the means, whose rounding error is
        # squared and divided by the posterior variance, 5e-5 at t = 1: (3e-7)^2 / 5e-5 stays below 1e-8.
        assert np.allclose(parts["vlb"].numpy(), bits.numpy(), atol=3e-6, rtol=3e-6)
        assert torch.equal(parts["loss"], parts["mse"] + parts["vlb"])


def test_bound_at_t_zero_is_a_log_likelihood():
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(1, 6, 50, generator=generator) * 1.8 - 0.9
    noise = torch.randn(1, 6, 50, generator=generator)
    t = torch.tensor([0])
    parts = hybrid_loss(SCHEDULE, x0, t, noise, noise, torch.ones_like(x0))
    # With perfect noise the mean is x0 itself: one bin of width 2/255 around the centre of a Gaussian of
    # variance beta_0. The approximate distribution function is off by less than 2e-3 on each side of the bin.
    half = 1 / 255 / math.sqrt(1e-4)
    inside = math.erf(half / math.sqrt(2))
    assert float(parts["vlb"][0]) == pytest.approx(-math.log2(inside), abs=4e-3 / inside / math.log(2))


def test_the_bound_trains_the_variance_only():
    generator = torch.Generator().manual_seed(4)
    x0, noise, eps, v = torch.randn(4, 2, 3, 4, 4, generator=generator)
    eps.requires_grad_(), v.requires_grad_()
    t = torch.tensor([0, 400])
    hybrid_loss(SCHEDULE, x0, t, noise, eps, v)["loss"].sum().backward()
    # The gradient of a mean square: 2 (eps - noise) / entries, and nothing of the bound.
    expected = 2 * (eps.detach() - noise) / x0[0].numel()
    assert torch.allclose(eps.grad, expected, rtol=1e-6, atol=0)
    assert (v.grad.abs() > 0).any()


def test_loss_of_a_clip_does_not_depend_on_its_batch():
    generator = torch.Generator().manual_seed(5)
    x0, noise, eps, v = torch.randn(4, 3, 2, 4, 4, generator=generator)
    t = torch.tensor([0, 3, 900])
    together = hybrid_loss(SCHEDULE, x0, t, noise, eps, v)["loss"]
    for k in range(3):
        alone = hybrid_loss(SCHEDULE, *(a[k : k + 1] for a in (x0, t, noise, eps, v)))["loss"]
        # Means of 32 float32 values may be summed in another order.
        assert torch.allclose(alone, together[k], rtol=1e-6, atol=0)
