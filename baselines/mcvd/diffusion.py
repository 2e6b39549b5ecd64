"""MCVD's diffusion: labels from the noisiest on, masks of the given frames, the summed loss, sampling of one block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lavita.diffusion.rng import drawn_ahead
from lavita.diffusion.schedule import Schedule

NoisePredictor = Callable[[Tensor, Tensor], Tensor]

NUM_LABELS = 1000


def mcvd_schedule() -> Schedule:
    """Betas from 1e-4 to 0.02 in 1,000 even steps. Label l of the network is step 999 - l of the schedule."""
    return Schedule.linear(NUM_LABELS)


def steps_of(labels: Tensor) -> Tensor:
    """Steps of the schedule of labels (B,), or the other way round: 0, the noisiest, is 999."""
    return NUM_LABELS - 1 - labels


def stacked(frames: Tensor) -> Tensor:
    """Frames (B, f, 3, H, W) along the channels, (B, 3 f, H, W), the channels of a frame together."""
    return frames.flatten(1, 2)


def masked(frames: Tensor, draw: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Frames (B, f, 3, H, W), all of a clip 0 (mid-grey) where its draw (B,) in [0, 1) is no higher than probability;
    and which clips keep theirs, bool (B,).
    """
    kept = draw > probability
    return frames * kept.view(-1, 1, 1, 1, 1), kept


def summed_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Half the sum of squares over each block, (B, ...) -> (B,). Source: Voleti et al. 2022, equation 4."""
    return 0.5 * ((noise - predicted) ** 2).flatten(1).sum(dim=1)


def sampling_labels(num_samples: int) -> list[int]:
    """Labels visited, noisiest first, at a constant stride of 1000 // num_samples: 0, 10, ..., 990 for 100.

    Where num_samples does not divide 1,000 the released code goes on to the end of the range and takes more steps than
    were asked for; here it ends after num_samples.
    """
    if not 1 <= num_samples <= NUM_LABELS:
        raise ValueError(f"sampling.steps: got {num_samples}, allowed 1 to {NUM_LABELS} for mcvd")
    return list(range(0, NUM_LABELS, NUM_LABELS // num_samples))[:num_samples]


def first_place(labels: Sequence[int], label: int) -> int:
    """The place in labels of the first that is no noisier than `label`; the last where all are."""
    return next((place for place, one in enumerate(labels) if one >= label), len(labels) - 1)


def sample_block(
    network: NoisePredictor,
    draw: Callable[[], Tensor],
    num_samples: int = 100,
    sampler: str = "ddpm",
    eta: float = 0.0,
    clip: bool = True,
    denoise: bool = True,
    watch: Callable[[int, Tensor], None] | None = None,
    start: tuple[int, Tensor] | None = None,
) -> Tensor:
    """A block (B, 3 f, H, W) from noise by DDPM, or by DDIM with the noise scale eta, 0 to 1.

    network(x, label) predicts the noise of x at labels (B,). draw() gives the next noise, one generator per clip; a
    thread calls it one step ahead: once to start and, where the sampler adds noise, once per step but the last. clip
    holds every predicted block in [-1, 1]; DDIM uses the predicted noise as it is even then. denoise calls the network
    once more at the end, as released: at the label num_samples - 1, the place of the last step, though the noise that
    is taken off is that of the last step's own label; at 1,000 steps the two are one. watch(i, x) sees the state after
    every step. start: a label, and a block that is noised to the first label visited from there on, where sampling then
    begins; None for noise alone.
    Source: Ho et al. 2020, algorithm 2; Song et al. 2021, equation 12; github.com/voletiv/mcvd-pytorch at 451da2e,
    models/__init__.py.
    """
    if sampler not in ("ddpm", "ddim"):
        raise ValueError(f"sampling.sampler: got {sampler!r}, allowed ddpm, ddim for mcvd")
    labels = sampling_labels(num_samples)
    short = mcvd_schedule().visiting(steps_of(torch.tensor(labels[::-1])))
    noisy = sampler == "ddpm" or eta > 0
    first = 0 if start is None else first_place(labels, start[0])
    noises = drawn_ahead(lambda _: draw(), short.num_steps - first if noisy else 1)
    x = next(noises)
    if start is not None:
        place = torch.full((len(x),), short.num_steps - 1 - first, device=x.device)
        x = short.add_noise(start[1], place, x)  # (B, 3 f, H, W)
    for i, label in list(enumerate(labels))[first:]:
        t = torch.full((len(x),), short.num_steps - 1 - i, device=x.device)
        eps = network(x, torch.full_like(t, label))  # (B, 3 f, H, W)
        x0 = short.predict_x0(x, t, eps)  # (B, 3 f, H, W)
        if clip:
            x0 = x0.clamp(-1, 1)
        if sampler == "ddpm":
            x, sigma = short.posterior_mean(x0, x, t), short.at("posterior_variance", t, x).sqrt()
        else:
            of_x0, of_eps, sigma = short.ddim_at(eta, t, x)
            x = of_x0 * x0 + of_eps * eps
        if noisy and i + 1 < short.num_steps:
            x = x + sigma * next(noises)
        if watch is not None:
            watch(i, x)
    if denoise:
        last = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        place = torch.full_like(last, short.num_steps - 1)
        x = x - short.at("sqrt_noise_variance", last, x) * network(x, place)  # (B, 3 f, H, W)
    return x


def following_past(past: Tensor, block: Tensor) -> Tensor:
    """The past (B, p, 3, H, W) of the next block, after a block (B, f, 3, H, W): the last p frames of the two."""
    return torch.cat([past, block], dim=1)[:, -past.shape[1] :]
