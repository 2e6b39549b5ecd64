"""Training of the in-domain extractor: it learns to tell real clips from corrupted ones, and videos from each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lavita.metrics.corruptions import add_noise, blocks, blur, shuffled, slowed
from lavita.metrics.features.base import exact_arithmetic
from lavita.metrics.features.content_training import fit_content, rearranged
from lavita.metrics.features.discriminants import weighted_axes, whitening
from lavita.metrics.features.in_domain import KINDS, InDomainExtractor, InDomainNet, video_from_clips
from lavita.shapes import check

# How often each kind is drawn: real ones most (all others are distinguished from them), shuffled next (the hardest).
SHARES = {
    "real": 0.30, "shuffled": 0.16, "static": 0.08, "slow": 0.10, "fast": 0.10, "blurred": 0.10, "noisy": 0.08,
    "blocky": 0.08,
}  # fmt: skip


def draw_clip(
    stretch: np.ndarray, kind: str, frames: int, interval: int, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Return a clip of the kind, uint8 (F, H, W, 3), from a stretch of consecutive video frames, and its
    kind.

    fast: 1.5 to 2 times the interval; where the stretch is too short for that, a slow clip instead. slow: at
    most half the interval, or frames shown twice where the interval is 1. The strengths of blur (0.8 to 3
    pixels at a width of 64), noise (3 to 48 grey levels) and blocks (2 to 4 pixels at 32) are drawn.
    """
    steps, unit = len(stretch) - 1, max(1, stretch.shape[2] // 32)

    def window(step: int) -> np.ndarray:
        start = int(rng.integers(0, steps - step * (frames - 1) + 1))
        return stretch[start + step * np.arange(frames)]

    if kind == "fast":
        low, high = int(np.ceil(1.5 * interval)), min(2 * interval, steps // (frames - 1))
        if high >= low:
            return window(int(rng.integers(low, high + 1))), kind
        kind = "slow"
    if kind == "slow":
        return (window(int(rng.integers(1, interval // 2 + 1))) if interval > 1 else slowed(window(1), rng)), kind
    clip = window(interval)
    if kind == "shuffled":
        clip = shuffled(clip, rng)
    elif kind == "static":
        clip = np.repeat(clip[rng.integers(frames)][None], frames, axis=0)
    elif kind == "blurred":
        clip = blur(clip, rng.uniform(0.8, 3.0) * clip.shape[2] / 64)
    elif kind == "noisy":
        clip = add_noise(clip, float(np.exp(rng.uniform(np.log(3), np.log(48)))), rng)
    elif kind == "blocky":
        clip = blocks(clip, int(rng.integers(2, 5)) * unit)
    return clip, kind


def jittered(clip: np.ndarray, flip: bool, rng: np.random.Generator) -> np.ndarray:
    """The clip moved by up to a sixteenth of its width, edges mirrored, and, with flip, mirrored half of the
    time.
    """
    height, width = clip.shape[1:3]
    room = max(1, width // 16)
    padded = np.pad(clip, ((0, 0), (room, room), (room, room), (0, 0)), mode="symmetric")
    top, left = rng.integers(0, 2 * room + 1, 2)
    clip = padded[:, top : top + height, left : left + width]
    return clip[:, :, ::-1] if flip and rng.random() < 0.5 else clip


def draw_batch(
    stretches: Sequence[np.ndarray],
    kinds: Sequence[str],
    frames: int,
    interval: int,
    flip: bool,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return video float32 (B, F, 3, H, W), -1..1, its kinds (B,) and the stretch of each clip (B,)."""
    chosen = rng.integers(len(stretches), size=len(kinds))
    drawn = [draw_clip(stretches[i], kind, frames, interval, rng) for i, kind in zip(chosen, kinds, strict=True)]
    clips = np.stack([jittered(clip, flip, rng) for clip, _ in drawn])
    numbers = torch.tensor([KINDS.index(kind) for _, kind in drawn])
    return video_from_clips(torch.from_numpy(clips)), numbers, torch.from_numpy(chosen)


def recoloured(video: Tensor, rng: np.random.Generator) -> Tensor:
    """Each clip's contrast times 0.45 to 1.35 and its brightness moved by up to 6 grey levels.

    Motion in a few videos comes in few strengths; scaled contrast scales it, so that the network learns how
    frames follow each other and not how strong a change it has seen.
    """
    shape = (len(video), 1, 1, 1, 1)
    gain = torch.from_numpy(np.exp(rng.uniform(-0.8, 0.3, shape))).float().to(video.device)
    lift = torch.from_numpy(rng.uniform(-0.05, 0.05, shape)).float().to(video.device)
    mean = video.mean(dim=(1, 2, 3, 4), keepdim=True)
    return ((video - mean) * gain + mean + lift).clamp(-1, 1)


def unfamiliar(video: Tensor, rng: np.random.Generator) -> Tensor:
    """Each clip of video (B, F, 3, H, W) with colours permuted or inverted, mirrored and turned at random.

    What it shows is new then and how it moves is not: from few videos the kinds are learned for others too. Frames that
    are not square are not turned.
    """
    made = []
    for clip in video:
        clip = clip[:, torch.from_numpy(rng.permutation(3)).to(clip.device)]
        clip = clip * float(rng.choice((-1, 1)))
        flips = [axis for axis in (-2, -1) if rng.random() < 0.5]
        clip = clip.flip(flips) if flips else clip
        made.append(clip.transpose(-1, -2) if rng.random() < 0.5 and clip.shape[-1] == clip.shape[-2] else clip)
    return torch.stack(made)


LEARNING_RATE, WEIGHT_DECAY, WARMUP_STEPS, BATCH = 3e-3, 0.05, 20, 32
# A little doubt in every target keeps the logits of few clips from growing without bound.
LABEL_SMOOTHING, CLASS_WEIGHT = 0.05, 0.5
WHITENING_CLIPS = 100  # of each kind, twice as many real ones
SHRINKAGE, MOTION_POWER = 0.1, 0.5  # chosen on the real clips at hand: see whiten


def losses(
    net: InDomainNet, video: Tensor, kinds: Tensor, labels: Tensor | None, familiar: int
) -> tuple[Tensor, float]:
    """Cross-entropy of the kind, and of the class where there are labels, of the first `familiar` clips those that
    move; share of kinds right.
    """
    kind_logits, class_logits = net.heads(net(video))
    loss = functional.cross_entropy(kind_logits, kinds, label_smoothing=LABEL_SMOOTHING)
    right = (kind_logits.argmax(dim=1) == kinds).float().mean().item()
    moving = (kinds != KINDS.index("static")) & (torch.arange(len(kinds), device=kinds.device) < familiar)
    if labels is not None and class_logits is not None and moving.any():
        by_class = functional.cross_entropy(class_logits[moving], labels[moving], label_smoothing=LABEL_SMOOTHING)
        loss = loss + CLASS_WEIGHT * by_class
    return loss, right


@torch.no_grad()
def whiten(net: InDomainNet, draw: Callable[[Sequence[str]], Tensor], rng: np.random.Generator) -> None:
    """Set the network's last linear map, from fresh draws of training clips of every kind.

    Real clips become white, so that a feature counts by how rarely real clips vary in it. Of the other directions those
    count most in which several kinds move away: each kind's mean counts the same however far it lies, since some
    (static, noise) lie so far that nothing else would be left. Held-out videos differ less in such shared directions.
    """
    groups = []
    for kind in KINDS:
        batches = range(0, WHITENING_CLIPS * (2 if kind == "real" else 1), BATCH)
        groups.append(torch.cat([net(recoloured(draw([kind] * BATCH), rng)) for _ in batches]).double())
    centre, white = whitening(groups[0], SHRINKAGE)
    offsets = functional.normalize(torch.stack([group.mean(dim=0) - centre for group in groups[1:]]) @ white, dim=1)
    axes = weighted_axes(offsets.T @ offsets / len(offsets), MOTION_POWER)[:, -len(offsets) :]  # (width, 7)
    net.centre.copy_(centre)
    net.projection.copy_(white @ axes)


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


def fit_in_domain(
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
    device: str = "cpu",
) -> InDomainExtractor:
    """Return the in-domain extractor trained on stretches of the training split.

    stretches: consecutive video frames, uint8 (L, H, W, 3), 0..255, each L >= (frames - 1) * interval + 1 and
    all of one size; twice that length allows clips of double speed. labels: one class index each, or None
    (then there are no class probabilities); num_classes: default the largest label + 1. report(step, steps,
    loss) is called after every step. device: what the network is trained on; the clips that are drawn are the same on
    all. Equal arguments give equal weights, with one thread on any number of cores. A single stretch works: then only
    its own windows with their tiles rearranged, and no other videos, say what content is not. Raises ValueError for
    stretches that are too short or differ in size, and for a loss that is not finite.
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
    forked = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with num_threads(threads), torch.random.fork_rng(devices=forked), exact_arithmetic():
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        net = InDomainNet(classes).to(device)
        share = train_in_domain(net, stretches, labels, frames, interval, flip, steps, rng, report)
        net.eval()
        whiten(net, lambda kinds: draw_batch(stretches, kinds, frames, interval, flip, rng)[0].to(device), rng)

        def windows(videos: np.ndarray, altered: bool) -> Tensor:
            clips = [draw_clip(stretches[video], "real", frames, interval, rng)[0] for video in videos]
            clips = [jittered(rearranged(clip, rng) if altered else clip, flip, rng) for clip in clips]
            return recoloured(video_from_clips(torch.from_numpy(np.stack(clips))).to(device), rng)

        fit_content(net.content, windows, len(stretches), steps, rng)
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
    return InDomainExtractor(net, facts, device)


def train_in_domain(
    net: InDomainNet,
    stretches: Sequence[np.ndarray],
    labels: Sequence[int] | None,
    frames: int,
    interval: int,
    flip: bool,
    steps: int,
    rng: np.random.Generator,
    report: Callable[[int, int, float], None] | None,
) -> float:
    """Run all steps; return the share of kinds classified right over the last tenth of them."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    of_class = None if labels is None else torch.tensor(labels)
    shares = []
    for step in range(steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        kinds = rng.choice(KINDS, size=BATCH, p=[SHARES[kind] for kind in KINDS])
        video, numbers, chosen = draw_batch(stretches, kinds, frames, interval, flip, rng)
        targets = None if of_class is None else of_class[chosen].to(net.centre.device)
        video, numbers = video.to(net.centre.device), numbers.to(net.centre.device)
        familiar, other = recoloured(video, rng).split(BATCH // 2)
        shown = torch.cat([familiar, unfamiliar(other, rng)])
        loss, right = losses(net, shown, numbers, targets, len(familiar))
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
