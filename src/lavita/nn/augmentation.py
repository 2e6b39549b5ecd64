"""Augmentations that a discriminator sees, differentiable: one draw a clip, the same for all its frames.

Source: Karras et al. 2020 (StyleGAN2-ADA, arXiv:2006.06676), appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from lavita.diffusion.rng import SampleRNG
from lavita.nn.resampling import downsample, normalised_taps, upsample

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
MARGIN = len(SYM6) // 4  # pixels of either side that the filter reads


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how strongly each transform happens. The first group multiplies the probability p; 0 leaves a
    transform out. The second group is strengths: standard deviations (scales and brightness and so on in octaves or
    as the transform says), or ranges (rotation as a part of pi, shifts and cut-out as a part of the size).
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0

    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5


BGC = AugmentConfig(**dict.fromkeys(
    ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac",
     "brightness", "contrast", "lumaflip", "hue", "saturation"), 1.0,
))  # fmt: skip
PIPES = {
    "bgc": BGC,
    "bgc_noro": replace(BGC, rotate90=0.0, rotate=0.0),
    "easy": AugmentConfig(
        xflip=1.0, xint=1.0, scale=1.0, rotate=0.5, rotate_max=0.1, xfrac=1.0, noise=0.1, cutout=1.0, cutout_size=0.25
    ),
}  # by the names that StyleGAN-V and MoStGAN-V give them


@dataclass(frozen=True)
class Transforms:
    """What happens to each of B clips, all (B,) float32 unless said.

    flip: 0 or 1. turns: quarter turns, 0 .. 3. shift: whole pixels as parts of the size, (B, 2), x first. scale and
    stretch: factors, 1 the identity; stretch s is (s, 1 / s). rotate_before and rotate_after the stretch: radians.
    fraction: shift as a part of the size, (B, 2). brightness: added. contrast, saturation: factors. lumaflip: 0 or 1.
    hue: radians. noise: standard deviation. cutout: centre (B, 2) as parts of the size, x first; cut: 0 or 1.
    """

    flip: Tensor
    turns: Tensor
    shift: Tensor
    scale: Tensor
    rotate_before: Tensor
    stretch: Tensor
    rotate_after: Tensor
    fraction: Tensor
    brightness: Tensor
    contrast: Tensor
    lumaflip: Tensor
    hue: Tensor
    saturation: Tensor
    noise: Tensor
    cutout: Tensor
    cut: Tensor


def two_uniform(rng: SampleRNG) -> Tensor:
    """Two uniform values in [0, 1) of each clip, (B, 2)."""
    return torch.stack([rng.uniform(), rng.uniform()], dim=1)


def draw_transforms(config: AugmentConfig, p: Tensor | float, rng: SampleRNG) -> Transforms:
    """Transforms of each of the generator's clips, at the overall probability p. Every number is drawn, whatever p and
    the multipliers are, so that what is drawn after does not depend on them.
    """
    c = config

    p = torch.as_tensor(p, dtype=torch.float32, device=rng.device)

    def met(multiplier: float, twice: bool = False) -> Tensor:
        """1.0 where a transform happens, else 0.0. twice: it has two chances, at least one of which is met with the
        probability.
        """
        probability = (multiplier * p).clamp(max=1)
        return (rng.uniform() < (1 - (1 - probability).sqrt() if twice else probability)).float()

    flip = met(c.xflip) * (rng.uniform() * 2).floor()
    turns = met(c.rotate90) * (rng.uniform() * 4).floor()
    shift = met(c.xint)[:, None] * (two_uniform(rng) * 2 - 1) * c.xint_max
    scale = torch.exp2(met(c.scale) * rng.normal(()) * c.scale_std)
    rotate_before = met(c.rotate, twice=True) * (rng.uniform() * 2 - 1) * math.pi * c.rotate_max
    stretch = torch.exp2(met(c.aniso) * rng.normal(()) * c.aniso_std)
    rotate_after = met(c.rotate, twice=True) * (rng.uniform() * 2 - 1) * math.pi * c.rotate_max
    fraction = met(c.xfrac)[:, None] * rng.normal((2,)) * c.xfrac_std
    brightness = met(c.brightness) * rng.normal(()) * c.brightness_std
    contrast = torch.exp2(met(c.contrast) * rng.normal(()) * c.contrast_std)
    lumaflip = met(c.lumaflip) * (rng.uniform() * 2).floor()
    hue = met(c.hue) * (rng.uniform() * 2 - 1) * math.pi * c.hue_max
    saturation = torch.exp2(met(c.saturation) * rng.normal(()) * c.saturation_std)
    noise = met(c.noise) * rng.normal(()).abs() * c.noise_std
    cut, cutout = met(c.cutout), two_uniform(rng)
    return Transforms(
        flip, turns, shift, scale, rotate_before, stretch, rotate_after, fraction,
        brightness, contrast, lumaflip, hue, saturation, noise, cutout, cut,
    )  # fmt: skip


def augment(x: Tensor, config: AugmentConfig, transforms: Transforms, noise: Tensor | None = None) -> Tensor:
    """Clips (B, F, 3, H, W), values about [-1, 1], after their transforms: same shape, differentiable in x.

    Geometry, colour, noise, cut-out, of which those happen whose multipliers in config are not 0. noise: standard
    normal values of x's shape, wanted where config.noise is not 0.
    """
    c = config
    if any((c.xflip, c.rotate90, c.xint, c.scale, c.rotate, c.aniso, c.xfrac)):
        x = warped(x, inverse_matrix(transforms, *x.shape[-2:]))
    if any((c.brightness, c.contrast, c.lumaflip, c.hue, c.saturation)):
        matrix = colour_matrix(transforms).to(x.dtype)  # (B, 4, 4)
        x = torch.einsum("bij,bfjhw->bfihw", matrix[:, :3, :3], x) + matrix[:, None, :3, 3, None, None]
    if c.noise:
        x = x + transforms.noise.to(x.dtype).view(-1, 1, 1, 1, 1) * noise
    if c.cutout:
        x = x * outside_of_cutout(transforms, c.cutout_size, *x.shape[-2:])
    return x  # (B, F, 3, H, W)


def outside_of_cutout(transforms: Transforms, size: float, height: int, width: int) -> Tensor:
    """1 where pixels stay, 0 in each clip's square, (B, 1, 1, H, W)."""
    device = transforms.cutout.device
    x = (torch.arange(width, device=device) + 0.5) / width
    y = (torch.arange(height, device=device) + 0.5) / height
    out_x = (x - transforms.cutout[:, :1]).abs() >= size / 2  # (B, W)
    out_y = (y - transforms.cutout[:, 1:]).abs() >= size / 2  # (B, H)
    uncut = (transforms.cut == 0)[:, None, None]
    return (out_x[:, None, :] | out_y[:, :, None] | uncut).float()[:, None, None]


def matrices(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """A matrix of each clip, (B, n, n), from entries that are (B,) or numbers."""
    full = [[e if isinstance(e, Tensor) else torch.full_like(like, e) for e in row] for row in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in full], dim=-2)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Moves points by (x, y), (B, 3, 3)."""
    return matrices([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], x)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Multiplies points by (x, y), (B, 3, 3)."""
    return matrices([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], x)


def rotation(angle: Tensor) -> Tensor:
    """Turns points by an angle in radians, from x towards y, (B, 3, 3)."""
    return matrices([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0], [0.0, 0.0, 1.0]], angle)


def inverse_matrix(t: Transforms, height: int, width: int) -> Tensor:
    """From a pixel of the result to where it comes from, (B, 3, 3); pixels, with the origin at the centre.

    Source: StyleGAN2-ADA, appendix B.1 (the order of transforms).
    """
    one = torch.ones_like(t.scale)
    matrix = scaling(1 - 2 * t.flip, one)
    matrix = matrix @ rotation(math.pi / 2 * t.turns)
    matrix = matrix @ translation(-(t.shift[:, 0] * width).round(), -(t.shift[:, 1] * height).round())
    matrix = matrix @ scaling(1 / t.scale, 1 / t.scale)
    matrix = matrix @ rotation(t.rotate_before)
    matrix = matrix @ scaling(1 / t.stretch, t.stretch)
    matrix = matrix @ rotation(t.rotate_after)
    return matrix @ translation(-t.fraction[:, 0] * width, -t.fraction[:, 1] * height)


def warped(x: Tensor, matrix: Tensor) -> Tensor:
    """Clips (B, F, 3, H, W) drawn anew at the places that matrix, (B, 3, 3), names, without aliasing.

    Reflection-padded by as much as the furthest clip needs, doubled with the sym6 low-pass wavelet, sampled bilinearly,
    halved with it. Source: StyleGAN2-ADA, appendix B.1.
    """
    batch, frames, channels, height, width = x.shape
    taps = normalised_taps(SYM6).to(x.device)
    images = x.reshape(batch, frames * channels, height, width)  # (B, 3 F, H, W)
    left, right, top, bottom = margins(matrix, height, width)
    images = functional.pad(images, (left, right, top, bottom), mode="reflect")
    one = torch.ones_like(matrix[:, 0, 0])
    matrix = translation(one * (left - right) / 2, one * (top - bottom) / 2) @ matrix
    images = upsample(images, taps)
    matrix = scaling(2 * one, 2 * one) @ matrix @ scaling(one / 2, one / 2)
    matrix = translation(-one / 2, -one / 2) @ matrix @ translation(one / 2, one / 2)
    target_height, target_width = 2 * (height + 2 * MARGIN), 2 * (width + 2 * MARGIN)
    matrix = scaling(one * 2 / images.shape[3], one * 2 / images.shape[2]) @ matrix
    matrix = matrix @ scaling(one * target_width / 2, one * target_height / 2)  # in normalised coordinates
    shape = [batch, frames * channels, target_height, target_width]
    grid = functional.affine_grid(matrix[:, :2].to(x.dtype), shape, align_corners=False)
    images = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    images = downsample(images, taps, extra=-2 * MARGIN, correlate=True)  # (B, 3 F, H, W)
    return images.reshape(x.shape)


def margins(matrix: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels that all clips together need on the left, right, top and bottom, each less than the size. Of shapes alone
    (the meta device), whose values nobody knows, the most.
    """
    if matrix.is_meta:
        return width - 1, width - 1, height - 1, height - 1
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = torch.tensor([[-x, x, x, -x], [-y, -y, y, y], [1.0] * 4], dtype=matrix.dtype, device=matrix.device)
    places = (matrix @ corners)[:, :2]  # (B, 2, 4)
    low, high = places.amin((0, 2)), places.amax((0, 2))  # (2,) each, x first
    centre = torch.tensor([x, y], dtype=matrix.dtype, device=matrix.device)
    most = torch.tensor([width - 1, height - 1], dtype=matrix.dtype, device=matrix.device)
    needed = torch.stack([-low, high]) + 2 * MARGIN - centre  # (2, 2): before and after, x and y
    needed = torch.minimum(needed.clamp(min=0), most).ceil().int().tolist()
    return needed[0][0], needed[1][0], needed[0][1], needed[1][1]


def colour_matrix(t: Transforms) -> Tensor:
    """What each clip's colours (r, g, b, 1) are multiplied with, (B, 4, 4). Source: StyleGAN2-ADA, appendix B.2."""
    like = t.brightness
    identity = torch.eye(4, device=like.device, dtype=like.dtype).repeat(len(like), 1, 1)  # (B, 4, 4)
    axis = torch.tensor([1.0, 1.0, 1.0, 0.0], device=like.device, dtype=like.dtype) / math.sqrt(3)
    along = torch.outer(axis, axis)  # (4, 4), projection onto grey
    b, c = t.brightness, t.contrast
    matrix = matrices([[1.0, 0.0, 0.0, b], [0.0, 1.0, 0.0, b], [0.0, 0.0, 1.0, b], [0.0, 0.0, 0.0, 1.0]], like)
    matrix = matrices([[c, 0.0, 0.0, 0.0], [0.0, c, 0.0, 0.0], [0.0, 0.0, c, 0.0], [0.0, 0.0, 0.0, 1.0]], like) @ matrix
    matrix = (identity - 2 * t.lumaflip[:, None, None] * along) @ matrix
    matrix = about_grey(t.hue) @ matrix
    return (along + t.saturation[:, None, None] * (identity - along)) @ matrix


def about_grey(angle: Tensor) -> Tensor:
    """Right-handed rotation of colours about (1, 1, 1), (B, 4, 4). Source: Rodrigues' formula."""
    u = 1 / math.sqrt(3)
    cross = torch.tensor(
        [[0, -u, u, 0], [u, 0, -u, 0], [-u, u, 0, 0], [0, 0, 0, 0]], device=angle.device, dtype=angle.dtype
    )
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(4, device=angle.device, dtype=angle.dtype) + sine * cross + (1 - cosine) * (cross @ cross)
