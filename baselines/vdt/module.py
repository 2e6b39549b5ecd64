"""VDT as a method of the suite: IDDPM on the suite's latents, trained as DiT is (no recipe was released)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavita.config import one_of
from lavita.train.latent import LatentDiffusion

from .model import SIZES, VDT, VDTShape


@dataclass(frozen=True)
class Config:
    """size: XS, S, B or L; patch_size in latent pixels."""

    size: str
    patch_size: int

    def __post_init__(self) -> None:
        one_of("model.size", self.size, tuple(SIZES))


class Method(LatentDiffusion):
    """VDT for unconditional and class-conditional generation.

    An unconditional suite uses the official label table of one class: row 0 is always added, in training too.
    """

    def build_network(self) -> nn.Module:
        frames, channels, side, _ = self.latent_shape
        depth, width, num_heads = SIZES[self.config.size]
        return VDT(
            VDTShape(
                depth=depth,
                width=width,
                num_heads=num_heads,
                patch_size=self.config.patch_size,
                num_frames=frames,
                channels=channels,
                side=side,
                num_classes=1 if self.context.num_classes is None else self.context.num_classes,
            )
        )
