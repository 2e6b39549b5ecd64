"""What the embedded extractor is trained on: clips drawn from stretches of real video, most spoilt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lavita.score.changes import add_noise, blocks, blur, shuffled, slowed
from lavita.score.embedded import KINDS, video_from_clips

# How often each kind is drawn: real ones most (all others are told from them), shuffled next (the hardest).
SHARES = {
    "real": 0.30, "shuffled": 0.16, "still": 0.08, "slow": 0.10, "fast": 0.10, "blurred": 0.10, "noisy": 0.08,
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
    elif kind == "still":
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
    gain = torch.from_numpy(np.exp(rng.uniform(-0.8, 0.3, shape))).float()
    lift = torch.from_numpy(rng.uniform(-0.05, 0.05, shape)).float()
    mean = video.mean(dim=(1, 2, 3, 4), keepdim=True)
    return ((video - mean) * gain + mean + lift).clamp(-1, 1)
