"""Corruptions of a clip that a good video metric must notice: in time, in space, and two kept out of training.

Every corruption takes uint8 (F, H, W, 3), 0..255, and a numpy generator, and returns the same shape and dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLUR_SIGMA_AT_64 = 1.5  # pixels of a 64-pixel frame; scaled with the width
Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def swapped_order(frames: int) -> np.ndarray:
    """Return the frame order 1 0 3 2 5 4 ...; an odd last frame stays, shape (F,), int64."""
    order = np.arange(frames)
    pairs = frames // 2 * 2
    order[:pairs] = order[:pairs].reshape(-1, 2)[:, ::-1].reshape(-1)
    return order


def shuffled(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Frames in a random order: never the true one, its reverse, or the neighbour swap (kept unseen)."""
    frames = len(clip)
    if frames < 3:
        raise ValueError(f"clip: got {frames} frames, shuffling in time needs at least 3")
    forward = np.arange(frames)
    refused = (forward, forward[::-1], swapped_order(frames))
    while True:
        order = generator.permutation(frames)
        if not any(np.array_equal(order, other) for other in refused):
            return clip[order]


def static(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The first frame held for the whole clip."""
    return np.repeat(clip[:1], len(clip), axis=0)


def slowed(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Half the speed: each frame of the first half shown twice."""
    return clip[np.arange(len(clip)) // 2]


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Return a normalised Gaussian window cut at 4 sigma, shape (2r + 1,), float32; sigma in pixels."""
    radius = max(1, int(np.ceil(4 * sigma)))
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (window / window.sum()).astype(np.float32)


def blur(clip: np.ndarray, sigma: float) -> np.ndarray:
    """Every frame convolved with a Gaussian of sigma pixels, edges mirrored."""
    kernel = gaussian_kernel(sigma)
    radius = len(kernel) // 2
    image = clip.astype(np.float32)
    for axis in (1, 2):
        size = image.shape[axis]
        padding = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(image, padding, mode="symmetric")
        image = sum(w * padded.take(range(k, k + size), axis=axis) for k, w in enumerate(kernel))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def blurred(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Gaussian blur of 1.5 pixels at 64, scaled with the width."""
    return blur(clip, BLUR_SIGMA_AT_64 * clip.shape[2] / 64)


def add_noise(clip: np.ndarray, std: float, generator: np.random.Generator) -> np.ndarray:
    """White noise of `std` grey levels, independent per pixel, frame and channel."""
    noise = generator.standard_normal(clip.shape, dtype=np.float32)
    return np.clip(np.rint(clip + std * noise), 0, 255).astype(np.uint8)


def noisy(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """White noise of 16 grey levels."""
    return add_noise(clip, 16.0, generator)


def blocks(clip: np.ndarray, size: int) -> np.ndarray:
    """Every size x size block replaced by its mean; blocks at the edges may be smaller."""
    rows, columns = (np.arange(0, n, size) for n in clip.shape[1:3])
    total = np.add.reduceat(np.add.reduceat(clip.astype(np.float32), rows, axis=1), columns, axis=2)
    heights, widths = (np.diff(np.append(e, n)) for e, n in ((rows, clip.shape[1]), (columns, clip.shape[2])))
    mean = total / (heights[:, None, None] * widths[None, :, None])
    return np.rint(mean).astype(np.uint8).repeat(heights, axis=1).repeat(widths, axis=2)


def blocky(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blocks of an eighth of a 32-pixel frame (4 pixels), scaled with the width, at least 2."""
    return blocks(clip, max(2, clip.shape[2] // 8))


def swapped(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Neighbouring frames swapped: 1 0 3 2 5 4 ... The in-domain extractor never sees it in training."""
    return clip[swapped_order(len(clip))]


def half_frozen(clip: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The second half held at its first frame. The in-domain extractor never sees it in training."""
    return clip[np.minimum(np.arange(len(clip)), len(clip) // 2)]


CORRUPTIONS: dict[str, Corruption] = {
    "shuffled": shuffled,
    "static": static,
    "slowed": slowed,
    "blurred": blurred,
    "noisy": noisy,
    "blocky": blocky,
    "swapped": swapped,
    "half_frozen": half_frozen,
}


def corrupt_clips(name: str, clips: np.ndarray, seed: int) -> np.ndarray:
    """Return uint8 (N, F, H, W, 3): each clip changed by the named change, with a generator of (seed, clip).

    Raises ValueError for an unknown name.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"change: got {name!r}, allowed {', '.join(CORRUPTIONS)}")
    made = [CORRUPTIONS[name](clip, np.random.default_rng((seed, i))) for i, clip in enumerate(clips)]
    return np.stack(made)
