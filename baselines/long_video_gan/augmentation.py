"""What the low-resolution discriminator sees of clips: colour, shift, cut-out, and another speed, differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavita.diffusion.rng import SampleRNG
from lavita.nn.augmentation import AugmentConfig

STRENGTH = 8.0
# Of what the super-resolution networks are given, small clips: slight distortions and noise, so that the generator
# bears with what the low-resolution stage makes. Source: Brooks et al. 2022, section 3.2.
INPUT = AugmentConfig(
    scale=1.0, rotate=1.0, aniso=1.0, xfrac=1.0, noise=1.0,
    scale_std=0.01 * STRENGTH, rotate_max=0.002 * STRENGTH, aniso_std=0.01 * STRENGTH, xfrac_std=0.002 * STRENGTH,
    noise_std=0.01 * STRENGTH,
)  # fmt: skip
INPUT_PROBABILITY = 0.5
SPEED = 1.0  # octaves by which a clip may be longer or shorter


@dataclass(frozen=True)
class Changes:
    """What happens to each of B clips, all (B,).

    brightness, saturation, contrast: in [0, 1), the middle of which changes nothing. rows, columns: whole pixels of a
    shift. cut_rows, cut_columns: whole pixels, the middle of what is cut. octaves: of the factor by which a clip is
    made longer. first: the frame of the longer or shorter clip that comes first; below 0, so many black ones do.
    """

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    rows: Tensor
    columns: Tensor
    cut_rows: Tensor
    cut_columns: Tensor
    octaves: Tensor
    first: Tensor


def draw_changes(rng: SampleRNG, frames: int, height: int, width: int) -> Changes:
    """Changes of each of the generator's clips.

    Sources: Zhao et al. 2020 (DiffAugment, arXiv:2006.10738), section 3.1; Brooks et al. 2022, appendix B (speed).
    """
    most = shift_range(height, width)
    colours = rng.uniform(), rng.uniform(), rng.uniform()
    shifts = rng.integers(2 * most + 1) - most, rng.integers(2 * most + 1) - most
    # An even square may lie so far out that it cuts nothing, an odd one not.
    cuts = rng.integers(height + 1 - cut_size(height) % 2), rng.integers(width + 1 - cut_size(width) % 2)
    octaves = (2 * rng.uniform() - 1) * SPEED
    longer = scaled_length(frames, octaves) - frames  # below 0: shorter
    part = (rng.uniform() * (longer.abs() + 1)).floor().clamp(max=longer.abs())
    return Changes(*colours, *shifts, *cuts, octaves, part * longer.sign())


def shift_range(height: int, width: int) -> int:
    """Pixels by which a clip is shifted at most, along both axes."""
    return round(max(height, width) / 4)


def cut_size(size: int) -> int:
    """Pixels of an axis that are cut out."""
    return int(size / 2 + 0.5)


def scaled_length(frames: int, octaves: Tensor) -> Tensor:
    """Frames of each clip at another speed, whole numbers as float32, (B,)."""
    return (frames * torch.exp2(octaves)).floor()


def augmented(video: Tensor, changes: Changes) -> Tensor:
    """Clips (B, F, 3, H, W), values about [-1, 1], after their changes: same shape."""
    return at_speed(cut_out(shifted(coloured(video, changes), changes), changes), changes)


def of_clip(value: Tensor) -> Tensor:
    """A number of each clip, (B,), to go with clips."""
    return value.view(-1, 1, 1, 1, 1)


def coloured(video: Tensor, changes: Changes) -> Tensor:
    """Brightness, then saturation about each pixel's mean, then contrast about each clip's."""
    x = video + of_clip(changes.brightness - 0.5)
    mean = x.mean(2, keepdim=True)  # of the colours, (B, F, 1, H, W)
    x = (x - mean) * of_clip(2 * changes.saturation) + mean
    mean = x.mean((1, 2, 3, 4), keepdim=True)  # (B, 1, 1, 1, 1)
    return (x - mean) * of_clip(changes.contrast + 0.5) + mean


def shifted(video: Tensor, changes: Changes) -> Tensor:
    """out[y, x] = in[y + rows, x + columns], 0 outside."""
    for axis, shift in ((3, changes.rows), (4, changes.columns)):
        places = torch.arange(video.shape[axis], device=video.device) + shift[:, None]  # (B, size)
        video = taken(video, axis, places)
    return video


def taken(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """Entries of one axis of clips by their whole numbers (B, n) in each clip, 0 where there is none."""
    size = x.shape[axis]
    shape = [len(x), 1, 1, 1, 1]
    shape[axis] = places.shape[1]
    inside = ((places >= 0) & (places < size)).view(shape)
    index = places.clamp(0, size - 1).long().view(shape)
    return x.gather(axis, index.expand(*x.shape[:axis], places.shape[1], *x.shape[axis + 1 :])) * inside


def cut_out(video: Tensor, changes: Changes) -> Tensor:
    """Half of the height and of the width is 0, as far as it lies in the picture; at least a row and a column."""

    def is_cut(middle: Tensor, size: int) -> Tensor:
        first = (middle - cut_size(size) // 2)[:, None]
        last = first + cut_size(size) - 1
        places = torch.arange(size, device=video.device)
        return (places >= first.clamp(0, size - 1)) & (places <= last.clamp(0, size - 1))  # (B, size)

    rows, columns = is_cut(changes.cut_rows, video.shape[3]), is_cut(changes.cut_columns, video.shape[4])
    return video * ~(rows[:, None, None, :, None] & columns[:, None, None, None, :])


def at_speed(video: Tensor, changes: Changes) -> Tensor:
    """Each clip longer or shorter by its factor, frames between frames linearly; as many frames of it as before."""
    frames = video.shape[1]
    number = torch.arange(frames, device=video.device) + changes.first[:, None]  # in the changed clip, (B, F)
    exists = (number >= 0) & (number < scaled_length(frames, changes.octaves)[:, None])
    place = (number + 0.5) * torch.exp2(-changes.octaves)[:, None] - 0.5  # in the given clip
    place = place.clamp(0, frames - 1)
    before = place.floor()
    part = (place - before)[:, :, None, None, None]
    earlier, later = taken(video, 1, before), taken(video, 1, (before + 1).clamp(max=frames - 1))
    return (earlier * (1 - part) + later * part) * exists[:, :, None, None, None]
