"""Video LDM as a method of the suite: an image model, then temporal layers between its frozen layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lavita.codecs.base import Codec
from lavita.codecs.kl import KLCodec
from lavita.config.schema import CONTINUATION, FRAMES, ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import guided_noise, sample_latent
from lavita.methods.base import MethodContext
from lavita.methods.checkpoints import Start, start_from
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.methods.perceptual import lpips_of_clips, perceptual_distance
from lavita.training.stage import StagePlan

from .decoder import VideoCodec, temporal_decoder
from .given_frames import context_guided, first_frames
from .losses import ClipDiscriminator, noise_loss
from .official import our_names
from .stages import Config, DecoderStage, ImageStage, video_ldm_schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
GuidedNetwork = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Method(LatentDiffusion):
    """The temporal phase: clips, one time a clip, and only the temporal layers move.

    The image phase comes before it on the same spatial layers, whose weights are then its average; the temporal layers
    of the decoder are trained between the two. Source: Blattmann et al. 2023 (Align your Latents), section 3.1.
    """

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        if config.context >= context.num_frames:
            raise ConfigError(
                f"model.given_frames: got {list(config.given_frames)}, wanted fewer than the {context.num_frames} "
                "frames of a clip"
            )
        if config.given_frames:
            self.tasks = (*self.tasks, CONTINUATION) if 0 in config.given_frames else (CONTINUATION,)
        if config.freeze_spatial:  # else the image phase is no more
            self.tasks, self.scored_tasks = (*self.tasks, FRAMES), (FRAMES,)
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

    def denoiser_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def start_from(self, state: Mapping[str, Tensor]) -> Start:
        """Begin with Stable Video Diffusion's U-Net, and with the temporal layers of its decoder where the state holds
        them: an open row. Layers of another shape, cross-attention and embeddings that are not ours are left. Names are
        the official ones or diffusers'. Raises CheckpointError, having changed nothing, where not one block fits.
        """
        parts = {"network": self.network} | ({"decoder": self.decoder} if self._decoder_stage else {})
        return start_from(nn.ModuleDict(parts), our_names(state), "network.unet.")

    def networks(self) -> list[nn.Module]:
        return [self.network, self._image_stage[0].network]

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        x0 = self.clip_latent(batch, rng)  # (B, F, C, h, w)
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(x0.shape[1:])  # (B, F, C, h, w)
        labels, given = self.labels(batch["label"], rng), None  # (B,) or None
        if self.config.given_frames:
            counts = torch.tensor(self.config.given_frames).to(x0.device, non_blocking=True)
            given = first_frames(x0, counts[rng.integers(len(counts))])  # (B, F, C + 1, h, w)
        predicted = self.network(self.schedule.add_noise(x0, t, noise), t, labels, given)
        return {"loss": noise_loss(predicted, noise)}

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
        self.check_request(seeds, sampling, condition)
        rng, known = SampleRNG(seeds, self.device), None
        if sampling.task == FRAMES:
            return self.decode(
                self.drawn_from_noise(rng, sampling, self.denoiser(classes, sampling, self.image_network))
            )
        context, frames = self.config.context, self.context.num_frames
        if condition is not None:
            known = self.codec.encode(condition[:, -context:].to(self.device), rng)  # (n, k, C, h, w)
        parts: list[Tensor] = []
        for _ in range(self.clips_of(sampling)):
            clip = self.clip_after(known, classes, sampling, rng)  # (n, F, C, h, w)
            parts.append(clip if known is None else clip[:, context:])
            known = clip[:, frames - context :] if context else None
        latent = torch.cat(parts, dim=1)[:, : frames * sampling.num_clips_chained]
        return self.decode(latent)

    def decode(self, latent: Tensor) -> Tensor:
        """Clips (n, F', 3, H, W) in [-1, 1] of latents (n, F', C, h, w), F frames at a time."""
        decoder = self.first_stage() or self.codec
        return torch.cat([decoder.decode(clip) for clip in latent.split(self.context.num_frames, dim=1)], dim=1)

    def image_network(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Noise (n, F, C, h, w) of clips, every frame by itself: what the network is where all mixing factors are 1."""
        n, frames = x.shape[:2]
        of_frames = [None if one is None else one.repeat_interleave(frames) for one in (t, y)]  # (n F,)
        return self._image_stage[0].network(x.flatten(0, 1), *of_frames).unflatten(0, (n, frames))

    def clip_after(
        self, known: Tensor | None, classes: Tensor | None, sampling: SamplingConfig, rng: SampleRNG
    ) -> Tensor:
        """Latents (n, F, C, h, w) of clips that begin with known frames (n, k, C, h, w), where there are any."""
        network: GuidedNetwork = self.network
        if self.config.given_frames:
            frames, *sizes = self.latent_shape
            n, k = (len(rng), 0) if known is None else known.shape[:2]
            z = torch.zeros(n, frames, *sizes, device=self.device)
            if known is not None:
                z[:, :k] = known
            given = first_frames(z, torch.full((n,), k, device=self.device))  # (n, F, C + 1, h, w)
            network = context_guided(self.network, given, self.config.context_guidance)
        return self.drawn_from_noise(rng, sampling, self.denoiser(classes, sampling, network))

    def drawn_from_noise(self, rng: SampleRNG, sampling: SamplingConfig, denoise: Denoiser) -> Tensor:
        """Latents (n, F, C, h, w) from noise."""
        return sample_latent(
            sampling.sampler,
            sampling.steps,
            denoise,
            self.schedule,
            rng.normal(self.latent_shape),
            lambda step: rng.normal(self.latent_shape),
            sampling.eta,
            sampling.clip_denoised,
            self.codec.latent_bound(),
        )

    def denoiser(
        self, classes: Tensor | None, sampling: SamplingConfig, network: GuidedNetwork | None = None
    ) -> Denoiser:
        """Noise and variance (n, F, 2 C, h, w) as a function of (x, t), by a network of (x, t, y), the video network
        where none is named, guided by classes in a class suite. It predicts no variance: that is the smaller of its
        bounds, the posterior's.
        """
        labels = None if classes is None else classes.to(self.device)
        predict = guided_noise(network or self.network, labels, self.context.num_classes, sampling.guidance)

        def with_variance(x: Tensor, t: Tensor) -> Tensor:
            eps = predict(x, t)
            return torch.cat([eps, -torch.ones_like(eps)], dim=2)

        return with_variance

    def clips_of(self, sampling: SamplingConfig) -> int:
        """Clips that are generated for what is asked: F frames of one that is given none, F - k of others."""
        frames, new = self.context.num_frames, self.context.num_frames - self.config.context
        total = frames * sampling.num_clips_chained
        return math.ceil(total / new) if sampling.task == CONTINUATION else 1 + math.ceil((total - frames) / new)

    def evaluations(self, sampling: SamplingConfig) -> int:
        return self.clips_of(replace(sampling, num_clips_chained=1)) * sampling.num_steps

    def check_task(self, sampling: SamplingConfig) -> None:
        if self.config.context and sampling.task != FRAMES:  # a longer video goes on by its last frames
            sampling = replace(sampling, num_clips_chained=1)
        super().check_task(sampling)


def mean_of(mixing: Tensor) -> str:
    """The mean of some mixing factors, in words."""
    return f"{float(mixing.detach().mean()):.3f}"
