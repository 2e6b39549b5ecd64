"""Training of the embedded extractor: it learns to tell real clips from spoilt ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lavita.score.embedded import KINDS, EmbeddedExtractor, EmbeddedNet, colours
from lavita.score.embedded_clips import SHARES, draw_batch, recoloured
from lavita.shape import check

LEARNING_RATE, WEIGHT_DECAY, WARMUP_STEPS, BATCH = 3e-3, 0.05, 20, 32
# A little doubt in every target keeps the logits of few clips from growing without bound.
LABEL_SMOOTHING, CLASS_WEIGHT = 0.05, 0.5
WHITENING_CLIPS = 100  # of each kind, twice as many real ones
# Chosen on the real clips at hand: see whiten.
SHRINKAGE, WEIGHT_FLOOR = 0.1, 0.1


def losses(net: EmbeddedNet, video: Tensor, kinds: Tensor, labels: Tensor | None) -> tuple[Tensor, float]:
    """Cross-entropy of the kind, and of the class where there are labels and the clip moves; share of kinds
    right.
    """
    kind_logits, class_logits = net.heads(net(video))
    loss = functional.cross_entropy(kind_logits, kinds, label_smoothing=LABEL_SMOOTHING)
    right = (kind_logits.argmax(dim=1) == kinds).float().mean().item()
    moving = kinds != KINDS.index("still")
    if labels is not None and class_logits is not None and moving.any():
        by_class = functional.cross_entropy(class_logits[moving], labels[moving], label_smoothing=LABEL_SMOOTHING)
        loss = loss + CLASS_WEIGHT * by_class
    return loss, right


@torch.no_grad()
def whiten(net: EmbeddedNet, draw: Callable[[Sequence[str]], Tensor], rng: np.random.Generator) -> None:
    """Set the network's last linear map, from fresh draws of training clips of every kind.

    Real clips become white (their covariance, shrunk, becomes the identity), so that a feature counts by how
    rarely real clips vary in it. Then the directions that tell the kinds apart keep their size l = between /
    within variance as sqrt(l / (1 + l)), and the others shrink to a tenth: with few clips the distance of two
    real halves grows with every direction that says nothing. Source: Fisher 1936 (linear discriminants);
    Ledoit & Wolf 2004 (shrinkage).
    """
    groups, shades = [], []
    for kind in KINDS:
        rows = []
        for _ in range(0, WHITENING_CLIPS * (2 if kind == "real" else 1), BATCH):
            video = draw([kind] * BATCH)
            rows.append(net(recoloured(video, rng)))
            shades += [colours(video)] if kind == "real" else []
        groups.append(torch.cat(rows).double())
    centre, within = groups[0].mean(dim=0), torch.cov(groups[0].T)
    width = len(centre)
    within += SHRINKAGE * within.trace() / width * torch.eye(width, dtype=within.dtype)
    offsets = torch.stack([group.mean(dim=0) - centre for group in groups])
    inverse_root = torch.linalg.inv(torch.linalg.cholesky(within))  # (width, width)
    between = inverse_root @ (offsets.T @ offsets / len(groups)) @ inverse_root.T
    ratios, axes = torch.linalg.eigh(between)
    weights = (ratios.clamp(min=0) / (1 + ratios.clamp(min=0))).sqrt().clamp(min=WEIGHT_FLOOR)
    net.centre.copy_(centre)
    net.projection.copy_(inverse_root.T @ axes * weights)
    deviation, mean = torch.std_mean(torch.cat(shades), dim=0)
    net.colour_mean.copy_(mean)
    net.colour_std.copy_(deviation + 0.01)


@contextmanager
def num_threads(threads: int):
    """Compute with this many threads, then as before; the number of threads is part of what makes a fit
    repeatable.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_embedded(
    stretches: Sequence[np.ndarray],
    frames: int,
    interval: int,
    labels: Sequence[int] | None = None,
    num_classes: int | None = None,
    flip: bool = True,
    seed: int = 0,
    steps: int = 300,
    threads: int = 1,
    report: Callable[[int, int, float], None] | None = None,
) -> EmbeddedExtractor:
    """Return the embedded extractor trained on stretches of the training split.

    stretches: consecutive video frames, uint8 (L, H, W, 3), 0..255, each L >= (frames - 1) * interval + 1 and
    all of one size; twice that length allows clips of double speed. labels: one class index each, or None
    (then there are no class probabilities); num_classes: default the largest label + 1. report(step, steps,
    loss) is called after every step. Equal arguments give equal weights, with one thread on any number of
    cores. Raises ValueError for stretches that are too short or differ in size,
    and for a loss that is not finite.
    """
    if not len(stretches):
        raise ValueError("stretches: got none, wanted at least one training video")
    need = (frames - 1) * interval + 1
    sizes: dict[str, int] = {}
    for number, stretch in enumerate(stretches):
        found = check(stretch, "L H W 3", f"stretch {number}", dtype=np.uint8, **sizes)
        sizes = {"H": found["H"], "W": found["W"]}
        if found["L"] < need:
            raise ValueError(f"stretch {number}: got {found['L']} frames, {frames} at interval {interval} need {need}")
    if labels is not None and len(labels) != len(stretches):
        raise ValueError(f"labels: got {len(labels)} for {len(stretches)} stretches")
    classes = None if labels is None else num_classes or max(labels) + 1
    started = time.monotonic()
    with num_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        net = EmbeddedNet(classes)
        share = train(net, stretches, labels, frames, interval, flip, steps, rng, report)
        net.eval()
        whiten(net, lambda kinds: draw_batch(stretches, kinds, frames, interval, flip, rng)[0], rng)
    facts = {
        "frames": frames,
        "interval": interval,
        "resolution": sizes["H"],
        "flip": flip,
        "seed": seed,
        "steps": steps,
        "num_stretches": len(stretches),
        "kinds_right": round(share, 3),
        "wall_seconds": round(time.monotonic() - started, 1),
    }
    return EmbeddedExtractor(net, facts)


def train(
    net: EmbeddedNet,
    stretches: Sequence[np.ndarray],
    labels: Sequence[int] | None,
    frames: int,
    interval: int,
    flip: bool,
    steps: int,
    rng: np.random.Generator,
    report: Callable[[int, int, float], None] | None,
) -> float:
    """Run all steps; return the share of kinds told right over the last tenth of them."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    of_class = None if labels is None else torch.tensor(labels)
    shares = []
    for step in range(steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        kinds = rng.choice(KINDS, size=BATCH, p=[SHARES[kind] for kind in KINDS])
        video, numbers, chosen = draw_batch(stretches, kinds, frames, interval, flip, rng)
        targets = None if of_class is None else of_class[chosen]
        loss, right = losses(net, recoloured(video, rng), numbers, targets)
        if not torch.isfinite(loss):
            raise ValueError(f"embedded extractor: the loss is not finite at step {step}; look at the training videos")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        shares.append(right)
        if report is not None:
            report(step + 1, steps, loss.item())
    return float(np.mean(shares[-max(1, steps // 10) :]))
