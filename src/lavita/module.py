"""LAVITA as a method of the suite: the four variants of one network under IDDPM in the suite's codec."""

from __future__ import annotations

from dataclasses import dataclass

from lavita.config import one_of
from lavita.models.lavita import SIZES, Lavita, LavitaShape, depth_of_variant
from lavita.train.latent import LatentDiffusion


@dataclass(frozen=True)
class Config:
    """The model section: variant 1 to 4, size by name, patch side in latent pixels, and the paper's choices."""

    variant: int
    size: str
    patch_size: int
    embedding: str
    tubelet_frames: int
    conditioning: str
    time_positions: str

    def __post_init__(self) -> None:
        one_of("model.size", self.size, tuple(SIZES))


class Method(LatentDiffusion):
    """LAVITA-v1 to -v4. Source: LAVITA (ICLR 2024 submission), section 3; Latte, arXiv 2401.03048."""

    def build_network(self) -> Lavita:
        c: Config = self.config
        depth, width, num_heads = SIZES[c.size]
        num_frames, channels, side, _ = self.latent_shape
        return Lavita(
            LavitaShape(
                variant=c.variant,
                depth=depth_of_variant(c.variant, depth),
                width=width,
                num_heads=num_heads,
                patch_size=c.patch_size,
                num_frames=num_frames,
                channels=channels,
                side=side,
                num_classes=self.context.num_classes,
                embedding=c.embedding,
                tubelet_frames=c.tubelet_frames,
                conditioning=c.conditioning,
                time_positions=c.time_positions,
            )
        )
