"""The IDDPM hybrid loss: mean squared error on the noise plus L_{t-1} of the variational lower bound, in bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lavita.diffusion.schedule import Schedule


def mean_of_clip(x: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over all axes but the first, (B, ...) -> (B,); entries where counted is false are zeros of that mean."""
    return (x if counted is None else x * counted).flatten(1).mean(dim=1)


def hybrid_loss(
    schedule: Schedule,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    eps: Tensor,
    v: Tensor,
    counted: Tensor | None = None,
) -> dict[str, Tensor]:
    """Loss of each clip: {"loss", "mse", "vlb"}, float32 (B,), loss = mse + vlb.

    x0, noise, eps (predicted noise) and v (predicted variance, -1..1) share one shape (B, ...). vlb is the term of the
    variational lower bound at t, in bits per entry; the noise is detached in it, so that it trains the variance only.
    counted, bool of a shape that broadcasts to theirs, leaves out the entries where it is false; means stay over all
    entries.
    Source: Nichol & Dhariwal 2021, equation 16 with lambda = 1/1000 times the 1000 terms of a uniform t.
    """
    mse = mean_of_clip((noise - eps) ** 2, counted)
    x_t = schedule.add_noise(x0, t, noise)
    vlb = vlb_term(schedule, x0, x_t, t, eps.detach(), v, counted)
    return {"loss": mse + vlb, "mse": mse, "vlb": vlb}


def vlb_term(
    schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, v: Tensor, counted: Tensor | None = None
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at t > 0, -log p(x_0 | x_1) at t = 0; bits per entry, (B,).

    Source: Ho et al. 2020, equation 5.
    """
    log_variance = schedule.model_log_variance(v, t)
    mean = schedule.posterior_mean(schedule.predict_x0(x_t, t, eps), x_t, t)
    true_mean = schedule.posterior_mean(x0, x_t, t)
    true_log_variance = schedule.at("posterior_log_variance", t, x0)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    nll = -discretised_log_likelihood(x0, mean, 0.5 * log_variance)
    nats = torch.where(t == 0, mean_of_clip(nll, counted), mean_of_clip(kl, counted))
    return nats / math.log(2.0)


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL divergence of two diagonal Gaussians, entry by entry, nats."""
    ratio = torch.exp(log_variance1 - log_variance2)
    distance = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (ratio + distance - 1.0 + log_variance2 - log_variance1)


def approximate_normal_cdf(x: Tensor) -> Tensor:
    """tanh approximation of the standard normal distribution function, as IDDPM uses it (error below 2e-3)."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of 256-level data in [-1, 1] under a discretised Gaussian, entry by entry, nats.

    Source: Ho et al. 2020, equation 13.
    """
    centred = x - mean
    inverse = torch.exp(-log_scale)
    above = approximate_normal_cdf(inverse * (centred + 1 / 255))
    below = approximate_normal_cdf(inverse * (centred - 1 / 255))
    floor = 1e-12
    inside = torch.log((above - below).clamp(min=floor))
    first = torch.log(above.clamp(min=floor))
    last = torch.log((1 - below).clamp(min=floor))
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, inside))
