"""LVDM as a method of the suite: short video, and by `long_video` the pair of networks for long video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lavita.config.schema import ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import guided_noise
from lavita.methods.base import MethodContext
from lavita.training.stage import StagePlan

from .base import LatentVideo, posterior_draw
from .diffusion import NoisePredictor, noise_loss, sample_latents
from .long_video import LongVideo
from .official import load_official_pair
from .stages import Config, unet_config
from .unet import VideoUNet


class Method(LatentVideo):
    """Short video: the latent of a whole clip is generated at once.

    Shift and scale of the latents are measured before the first step. Source: He et al. 2022 (LVDM), section 3.2.
    """

    unchanged = ("autoencoder",)  # as the stages before have left it
    prepared_clips = 256

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.network = VideoUNet(unet_config(context, config, self.latent_shape))

    def stages(self) -> list[StagePlan]:
        return [*self._first_stages, StagePlan(self.stage_name, 1 - self.config.first_share, self)]

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()

    def prepare(self, batches: Iterable[tuple[dict[str, Tensor], SampleRNG]]) -> None:
        self.latents.measure(posterior_draw(self.autoencoder, batch["video"], rng) for batch, rng in batches)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        self.check_batch(batch)
        z = self.latents.apply_to(posterior_draw(self.autoencoder, batch["video"], rng))  # (B, C, f, h, w)
        labels = self.labels(batch["label"], rng)  # (B,) or None
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(self.latent_shape)  # (B, C, f, h, w)
        return {"loss": noise_loss(self.network(self.schedule.add_noise(z, t, noise), t, labels), noise)}

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_generation(sampling, condition)
        rng = SampleRNG(seeds, self.device)
        latent = sample_latents(
            self.predictor(classes, sampling.guidance),
            self.schedule,
            lambda: rng.normal(self.latent_shape),
            sampling.sampler,
            sampling.steps,
            sampling.eta,
            self.latents.bound if sampling.clip_denoised else None,
        )  # (n, C, f, h, w)
        return self.decode(latent)

    def predictor(self, classes: Tensor | None, guidance: float) -> NoisePredictor:
        """The network as a function of (x, t), guided by classes in a class suite."""
        labels = None if classes is None else classes.to(self.device)
        return guided_noise(self.network, labels, self.context.num_classes, guidance)


def method_class(config: Config) -> type[LatentVideo]:
    """The class that a configuration asks for."""
    return LongVideo if config.long_video else Method


def load_official(method: LatentVideo, paths: Sequence[Path]) -> None:
    """Fill a method from the two official files, autoencoder first. Raises ValueError, and then changes nothing."""
    if isinstance(method, LongVideo):
        raise ConfigError("--checkpoint: no weights were released for LVDM's long video; give a run's folder")
    if len(paths) != 2:
        raise ConfigError(
            f"--checkpoint: got {len(paths)} files, lvdm has two: --checkpoint AUTOENCODER --checkpoint UNET"
        )
    shift, scale = method.config.released_shift, method.config.released_scale
    if shift is None or scale is None:
        raise ConfigError(
            "model.released_shift, model.released_scale: not set, since no official files of this data set are known; "
            "give those of the file's autoencoder (ddpm3d: shift_factor, scale_factor)"
        )
    load_official_pair(method.autoencoder, method.network, *paths)
    method.latents.shift.fill_(shift)
    method.latents.scale.fill_(scale)
