"""Diffusion with given latent frames: what LVDM's prediction and interpolation networks are trained on and sampled by.

A mask float (B, 1, T, 1, 1) is 1 on the frames that are given. There the state holds the given latent at a small noise
level s of its own, which the network is told ("conditional latent perturbation"); the mask is its last channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lavita.diffusion.schedule import Schedule

from .diffusion import NoisePredictor, noise_loss

MOST_TRAINED_LEVEL = 250  # noise levels of given frames are below it in training
SAMPLED_LEVEL = 100
LEVEL_ROWS = MOST_TRAINED_LEVEL + 1  # of the table of levels

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def mask_of(given: Tensor, places: Sequence[int], frames: int) -> Tensor:
    """The mask (B, 1, T, 1, 1) of T frames: 1 at `places` (below 0 from the end) where given, bool (B,), says so."""
    kept = {place % frames for place in places}
    columns = [given if frame in kept else torch.zeros_like(given) for frame in range(frames)]
    return torch.stack(columns, dim=1).float()[:, None, :, None, None]


def with_mask(x: Tensor, mask: Tensor) -> Tensor:
    """The network's input: the state (B, C, T, h, w) with the mask behind its channels, (B, C + 1, T, h, w)."""
    return torch.cat([x, mask.expand(-1, 1, -1, *x.shape[3:])], dim=1)


def merged(mask: Tensor, given: Tensor, others: Tensor) -> Tensor:
    """given where the mask is 1, others where it is 0, (B, C, T, h, w)."""
    return mask * given + (1 - mask) * others


def noised(
    schedule: Schedule, z: Tensor, mask: Tensor, t: Tensor, s: Tensor, noise_t: Tensor, noise_s: Tensor
) -> Tensor:
    """The state of training, (B, C, T, h, w): z at level s (B,) where the mask is 1, at t (B,) elsewhere."""
    return merged(mask, schedule.add_noise(z, s, noise_s), schedule.add_noise(z, t, noise_t))


def masked_loss(
    network: Network,
    schedule: Schedule,
    z: Tensor,
    mask: Tensor,
    t: Tensor,
    s: Tensor,
    noise_t: Tensor,
    noise_s: Tensor,
) -> Tensor:
    """Mean absolute error on the noise of every frame, given ones included, (B,).

    Source: LVDM, section 3.3; github.com/YingqingHe/LVDM at d251dcc, lvdm/models/ddpm3d.py.
    """
    x = noised(schedule, z, mask, t, s, noise_t, noise_s)
    return noise_loss(network(with_mask(x, mask), t, s), merged(mask, noise_s, noise_t))


def conditioned(
    network: Network, schedule: Schedule, given: Tensor, mask: Tensor, noise: Tensor, guidance: float
) -> tuple[Callable[[Tensor], Tensor], NoisePredictor]:
    """(what puts the given frames into a state, the guided noise prediction of such a state).

    given (B, C, T, h, w) holds latents where the mask is 1; they stay at level SAMPLED_LEVEL with this noise, of the
    same shape, all through sampling. Guidance: e_c + w (e_c - e_u), where e_u sees no mask and is told no level.
    """
    level = torch.full((len(given),), SAMPLED_LEVEL, device=given.device)
    held = schedule.add_noise(given, level, noise)

    def put(x: Tensor) -> Tensor:
        return merged(mask, held, x)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        conditional = network(with_mask(x, mask), t, level)  # (B, C, T, h, w)
        if guidance == 0:
            return conditional
        unconditional = network(with_mask(x, torch.zeros_like(mask)), t, None)
        return conditional + guidance * (conditional - unconditional)

    return put, predict
