"""Contrastive training of the content network: windows of one video attract, other videos and rearranged ones repel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lavita.metrics.features.content import ContentNet, content_statistics
from lavita.metrics.features.discriminants import weighted_axes, whitening

# Statistics of so many windows are computed once; every step draws from them.
POOL, REARRANGED_POOL, POOL_BATCH = 1024, 512, 32
LEARNING_RATE, WEIGHT_DECAY, VIDEOS_A_STEP, TEMPERATURE = 3e-3, 0.05, 32, 0.5
SHRINKAGE, CONTENT_POWER = 2.0, 1.0  # chosen on the small real sets: see docs/scoring.md


def rearranged(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The clip, uint8 (F, H, W, 3), cut into 2x2 or 4x4 tiles that change places, in all frames alike.

    Colours, textures and motion stay; what is shown doesn't. Never the true order. Source: Noroozi & Favaro 2016.
    """
    count, (height, width) = int(rng.choice((2, 4))), clip.shape[1:3]
    tall, wide = height // count, width // count
    order = rng.permutation(count * count)
    while np.array_equal(order, np.arange(count * count)):
        order = rng.permutation(count * count)
    made = clip.copy()
    for place, tile in enumerate(order):
        (to_row, to_column), (row, column) = divmod(place, count), divmod(int(tile), count)
        made[:, to_row * tall : (to_row + 1) * tall, to_column * wide : (to_column + 1) * wide] = clip[
            :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide
        ]
    return made


def contrastive_loss(first: Tensor, second: Tensor, negatives: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE over cosines, the mean of both directions: a scalar.

    first, second: (V, D), two windows of each of V videos; row i of one is the positive of row i of the other, other
    videos' rows and negatives (M, D) are what it is told from. With V = 1 and M = 0 nothing is: 0. Source: van den Oord
    et al. 2018; Tack et al. 2020 (altered clips as further negatives).
    """
    first, second, negatives = (functional.normalize(rows, dim=1) for rows in (first, second, negatives))
    targets = torch.arange(len(first), device=first.device)
    losses = [
        functional.cross_entropy(rows @ torch.cat([others, negatives]).T / temperature, targets)
        for rows, others in ((first, second), (second, first))
    ]
    return (losses[0] + losses[1]) / 2


def fit_content(
    net: ContentNet,
    draw: Callable[[np.ndarray, bool], Tensor],
    num_videos: int,
    steps: int,
    rng: np.random.Generator,
) -> None:
    """Train the network and set its last linear map.

    draw(videos, altered): windows of the videos of these numbers (n,), float32 (n, F, 3, H, W), -1..1, on the network's
    device, with altered rearranged. Of a single video there are no other videos: its rearranged windows alone repel.
    """
    drawn = rng.permutation(num_videos)[: POOL // 2]  # at least two windows of each video that is drawn
    videos, altered = np.resize(drawn, POOL), np.resize(drawn, REARRANGED_POOL)
    with torch.no_grad():

        def statistics(numbers: np.ndarray, flag: bool) -> Tensor:
            parts = np.split(numbers, range(POOL_BATCH, len(numbers), POOL_BATCH))
            return torch.cat([content_statistics(draw(part, flag)) for part in parts])

        real, other = statistics(videos, False), statistics(altered, True)
    windows = [np.flatnonzero(videos == video) for video in drawn]
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    net.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        chosen = rng.permutation(len(drawn))[:VIDEOS_A_STEP]
        pairs = np.stack([rng.permutation(windows[video])[:2] for video in chosen])  # (V, 2)
        repelling = rng.integers(0, len(other), VIDEOS_A_STEP)
        rows = net(torch.cat([real[pairs[:, 0]], real[pairs[:, 1]], other[repelling]]))
        loss = contrastive_loss(*rows.split([len(chosen), len(chosen), VIDEOS_A_STEP]))
        if not torch.isfinite(loss):
            raise ValueError(f"embedded extractor: the content's loss is not finite at step {step}; look at the videos")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        rows, others = net(real).double(), net(other).double()
        centre, white = whitening(rows, SHRINKAGE)
        moved = (others - centre) @ white
        net.centre.copy_(centre)
        net.projection.copy_(white @ weighted_axes(moved.T @ moved / len(moved), CONTENT_POWER))
