"""A method to copy: its settings, and which network it trains. All else is LatentDiffusion's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavita.config.schema import ConfigError
from lavita.methods.latent_diffusion import LatentDiffusion

from .model import SpaceTimeNet


@dataclass(frozen=True)
class Config:
    """The `model:` section of method.yaml. width in channels, of which each of `groups` is normalised by itself."""

    width: int
    groups: int
    depth: int

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise ConfigError(f"model.width: got {self.width}, wanted a multiple of model.groups, {self.groups}")


class Method(LatentDiffusion):
    """IDDPM on the suite's latents with a network of convolutions, by class or not."""

    def build_network(self) -> nn.Module:
        _, channels, _, _ = self.latent_shape
        c: Config = self.config
        return SpaceTimeNet(channels, c.width, c.groups, c.depth, self.context.num_classes)
