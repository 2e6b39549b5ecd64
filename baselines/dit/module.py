"""DiT as a method of the suite: IDDPM on the suite's latents, frame by frame or jointly over space-time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavita.config.schema import one_of
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.nn.blocks import chosen_size

from .model import MODES, SIZES, DiT, DiTConfig


@dataclass(frozen=True)
class Config:
    """size: XXS, XS, S, B, L or XL; patch_size in latent pixels; mode: frame (independent frames) or joint.

    depth, width and num_heads, where not null, take the place of the named size's. match_params names a method
    whose parameter count depth and width were chosen by, before the configuration came here.
    """

    size: str
    patch_size: int
    mode: str
    depth: int | None
    width: int | None
    num_heads: int | None
    match_params: str | None

    def __post_init__(self) -> None:
        one_of("model.size", self.size, tuple(SIZES))
        one_of("model.mode", self.mode, MODES)
        self.numbers()

    def numbers(self) -> tuple[int, int, int]:
        """(depth, width, heads). Raises ConfigError."""
        return chosen_size(SIZES[self.size], self.depth, self.width, self.num_heads)


class Method(LatentDiffusion):
    """DiT trained with its authors' loss (IDDPM hybrid) on clips.

    All frames of a clip share one diffusion time and one class; their noise is independent. In frame mode a
    clip is therefore F images of one class that know nothing of each other: the lower bound of the comparison.
    """

    def build_network(self) -> nn.Module:
        frames, channels, side, _ = self.latent_shape
        depth, width, num_heads = self.config.numbers()
        return DiT(
            DiTConfig(
                depth=depth,
                width=width,
                num_heads=num_heads,
                patch_size=self.config.patch_size,
                channels=channels,
                side=side,
                num_classes=self.context.num_classes,
                mode=self.config.mode,
                num_frames=frames,
            )
        )
