"""Video LDM as a method of the suite: an image model, then temporal layers between its frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lavita.codecs.base import Codec
from lavita.codecs.kl import KLCodec
from lavita.config.schema import SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import guided_noise, sample_latent
from lavita.methods.base import MethodContext
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.methods.perceptual import lpips_of_clips, perceptual_distance
from lavita.training.stage import StagePlan

from .decoder import VideoCodec, temporal_decoder
from .losses import ClipDiscriminator, noise_loss
from .stages import Config, DecoderStage, ImageStage, video_ldm_schedule


class Method(LatentDiffusion):
    """The temporal phase: clips, one time a clip, and only the temporal layers move.

    The image phase comes before it on the same spatial layers, whose weights are then its average; the temporal layers
    of the decoder are trained between the two. Source: Blattmann et al. 2023 (Align your Latents), section 3.1.
    """

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.schedule = video_ldm_schedule()
        # In tuples, and so out of the registered modules: a checkpoint of the method holds what sampling needs.
        self._perceptual = (perceptual_distance(config.lpips_vgg, config.lpips_linear),)
        self._decoder_stage: tuple[DecoderStage, ...] = ()
        if config.decoder_share and isinstance(self.codec, KLCodec):
            self.decoder = temporal_decoder(self.codec.autoencoder)
            discriminator = ClipDiscriminator(config.discriminator_width, config.discriminator_depth)
            codec = VideoCodec(self.codec, self.decoder)
            self._decoder_stage = (
                DecoderStage(context.train, context.seed, codec, self._perceptual[0], discriminator),
            )

    def build_network(self) -> nn.Module:
        self._image_stage = (ImageStage(self.context, self.config),)
        return self._image_stage[0].video[0]

    def stages(self) -> list[StagePlan]:
        """Images, the decoder (where it has a share and there is one: pixels have none), then what time adds."""
        c: Config = self.config
        plans = [StagePlan(stage.stage_name, c.image_share, stage) for stage in self._image_stage]
        plans += [StagePlan(stage.stage_name, c.decoder_share, stage) for stage in self._decoder_stage]
        return [*plans, StagePlan(self.stage_name, 1 - sum(plan.share for plan in plans), self)]

    @property
    def declared(self) -> Mapping[str, str]:  # type: ignore[override]
        """What stands with the row: the perceptual loss of the decoder, and how much of each mixing is the image
        layer's (near 1: the temporal layers are not used).
        """
        said = {"mean mixing factor": mean_of(self.network.mixing())}
        if self._decoder_stage:
            said |= {"perceptual loss": self._perceptual[0].name}
            said |= {"mean mixing factor of the decoder": mean_of(self.decoder.mixing())}
        return said

    def trained_parameters(self) -> list[nn.Parameter]:
        if self.config.freeze_spatial:
            return list(self.network.temporal_parameters().values())
        return list(self.network.parameters())

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        x0 = self.clip_latent(batch, rng)  # (B, F, C, h, w)
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(x0.shape[1:])  # (B, F, C, h, w)
        labels = self.labels(batch["label"], rng)  # (B,) or None
        return {"loss": noise_loss(self.network(self.schedule.add_noise(x0, t, noise), t, labels), noise)}

    def first_stage(self) -> Codec | None:
        """The suite's autoencoder with the temporal decoder, a view; None where there is no such decoder."""
        return VideoCodec(self.codec, self.decoder) if self._decoder_stage else None

    def perceptual_score(self, before: Tensor, after: Tensor) -> Tensor | None:
        return lpips_of_clips(self._perceptual[0], before, after)

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
        latent = sample_latent(
            sampling.sampler,
            sampling.steps,
            self.denoiser(classes, sampling),
            self.schedule,
            rng.normal(self.latent_shape),
            lambda step: rng.normal(self.latent_shape),
            sampling.eta,
            sampling.clip_denoised,
            self.codec.latent_bound(),
        )  # (n, F, C, h, w)
        return (self.first_stage() or self.codec).decode(latent)  # (n, F, 3, H, W)

    def denoiser(self, classes: Tensor | None, sampling: SamplingConfig) -> Callable[[Tensor, Tensor], Tensor]:
        """Noise and variance (n, F, 2 C, h, w) as a function of (x, t), guided by classes in a class suite. The network
        predicts no variance: it is the smaller of its bounds, the posterior's.
        """
        labels = None if classes is None else classes.to(self.device)
        predict = guided_noise(self.network, labels, self.context.num_classes, sampling.guidance)

        def with_variance(x: Tensor, t: Tensor) -> Tensor:
            eps = predict(x, t)
            return torch.cat([eps, -torch.ones_like(eps)], dim=2)

        return with_variance


def mean_of(mixing: Tensor) -> str:
    """The mean of some mixing factors, in words."""
    return f"{float(mixing.detach().mean()):.3f}"
