"""PVDM's diffusion on latents: its beta schedule, its loss on the noise, and its own sampling loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lavita.diffusion.loss import mean_of_clip
from lavita.diffusion.rng import drawn_ahead
from lavita.diffusion.schedule import Schedule

NoisePredictor = Callable[[Tensor, Tensor], Tensor]


def pvdm_schedule() -> Schedule:
    """Source: github.com/sihyun-yu/PVDM at 793172f, configs/latent-diffusion/base.yaml."""
    return Schedule.scaled_linear(0.0015, 0.0195)


def noise_loss(network: NoisePredictor, schedule: Schedule, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error on the noise of each latent, float32 (B,).

    z, noise (B, C, N); t (B,). Source: Ho et al. 2020, equation 14.
    """
    return mean_of_clip((network(schedule.add_noise(z, t, noise), t) - noise) ** 2)


def sampling_times(num_samples: int, num_steps: int = 1000) -> list[int]:
    """The times visited, noisiest first, ending with -1 (the clip itself): num_samples + 1 integers.

    An even float32 grid from -1 to the last step, cut towards zero: 999, 996, 994, 991, ... for 400 of 1000. It is
    torch.linspace's, written out so that every processor rounds it alike: points that are whole numbers but for
    rounding (84 of the 1000 numbers of steps have some) are cut to one or to the one below.
    Source: github.com/sihyun-yu/PVDM at 793172f, losses/ddpm.py.
    """
    if not 1 <= num_samples <= num_steps:
        raise ValueError(f"sampling.steps: got {num_samples}, allowed 1 to {num_steps} for pvdm")
    point = np.arange(num_samples + 1, dtype=np.float32)
    stride = np.float32(num_steps) / np.float32(num_samples)
    from_start, from_end = stride * point - 1, (num_steps - 1) - stride * (num_samples - point)
    grid = np.where(point < (num_samples + 1) // 2, from_start, from_end)
    return grid.astype(int).tolist()[::-1]


def sample_latents(
    network: NoisePredictor,
    schedule: Schedule,
    draw: Callable[[], Tensor],
    num_samples: int = 400,
    eta: float = 1.0,
    bound: float | Tensor | None = 1.0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Latents (B, C, N), by DDIM with the noise scale eta, 0 to 1.

    network(z, t) predicts the noise of z (B, C, N) at times t (B,). draw() gives the next noise (B, C, N),
    one generator per clip; a thread calls it one step ahead, once to start and once per step but the last. The
    predicted latent is clipped to [-bound, bound], the end result too, unless bound is None; the noise prediction is
    used as it is even so, as in the released sampler, whose bound is 1.
    watch(i, z) sees the state after every step.
    Source: Song et al. 2021, equations 12 and 16; github.com/sihyun-yu/PVDM at 793172f, losses/ddpm.py.
    """
    times = sampling_times(num_samples, schedule.num_steps)
    short = schedule.visiting(torch.tensor(times[-2::-1]))
    noises = drawn_ahead(lambda _: draw(), short.num_steps)
    z = next(noises)
    for i, step in enumerate(reversed(range(short.num_steps))):
        t = torch.full((len(z),), step, device=z.device)
        eps = network(z, short.times(t))  # (B, C, N)
        z0 = short.predict_x0(z, t, eps)  # (B, C, N)
        if bound is not None:
            z0 = z0.clamp(-bound, bound)
        if step == 0:
            z = z0
        else:
            of_z0, of_eps, sigma = short.ddim_at(eta, t, z)
            z = of_z0 * z0 + of_eps * eps + sigma * next(noises)  # (B, C, N)
        if watch is not None:
            watch(i, z)
    return z
