"""LAVITA as a method of the suite: the four variants of one network under IDDPM in the suite's autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lavita.config.schema import ConfigError, one_of
from lavita.methods.base import MethodContext
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.methods.lavita.model import SIZES, Lavita, LavitaConfig, depth_of_variant


@dataclass(frozen=True)
class Config:
    """The model section: variant 1 to 4, size by name, patch side in latent pixels, and the paper's choices.

    depth (blocks of variants 1 and 2), width and num_heads: null takes the named size's.
    joint_images: single frames that come with each training clip (image-video joint training), 0 for none.
    """

    variant: int
    size: str
    depth: int | None
    width: int | None
    num_heads: int | None
    patch_size: int
    embedding: str
    tubelet_frames: int
    conditioning: str
    time_positions: str
    joint_images: int

    def __post_init__(self) -> None:
        one_of("model.size", self.size, tuple(SIZES))
        if self.joint_images < 0:
            raise ConfigError(f"model.joint_images: got {self.joint_images}, wanted 0 or more")
        if self.joint_images and self.embedding == "compression":
            raise ConfigError(
                f"model.joint_images: got {self.joint_images} with model.embedding=compression, which cuts the clip in "
                "tubelets of several frames; set model.embedding=uniform or model.joint_images=0"
            )


class Method(LatentDiffusion):
    """LAVITA-v1 to -v4. Source: LAVITA (ICLR 2024 submission), section 3; Latte, arXiv 2401.03048."""

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.joint_images = config.joint_images

    def predict(self, x_t: Tensor, t: Tensor, y: Tensor | None, y_images: Tensor | None) -> Tensor:
        return self.network(x_t, t, y, y_images, num_images=self.joint_images)  # (B, F + n, 2C, h, w)

    def build_network(self) -> Lavita:
        c: Config = self.config
        named = zip((c.depth, c.width, c.num_heads), SIZES[c.size], strict=True)
        depth, width, num_heads = (size if given is None else given for given, size in named)
        num_frames, channels, side, _ = self.latent_shape
        return Lavita(
            LavitaConfig(
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
