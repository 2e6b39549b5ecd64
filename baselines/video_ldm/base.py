"""What every setting of Video LDM shares: an image model, then temporal layers between its frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lavita.codecs.base import Codec
from lavita.codecs.kl import KLCodec
from lavita.config.schema import FRAMES, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import guided_noise, sample_latent
from lavita.methods.base import MethodContext
from lavita.methods.checkpoints import Start, start_from
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.methods.perceptual import lpips_of_clips, perceptual_distance
from lavita.training.stage import StagePlan

from .decoder import VideoCodec, temporal_decoder
from .given_frames import behind_given_frames
from .losses import ClipDiscriminator
from .official import our_names
from .stages import Config, DecoderStage, ImageStage, video_ldm_schedule

GuidedNetwork = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class VideoLDM(LatentDiffusion):
    """The temporal phase: only the temporal layers move. Subclasses define `loss`, and `latents` of their tasks.

    The image phase comes before it on the same spatial layers, whose weights are then its average; the temporal layers
    of the decoder are trained between the two. Source: Blattmann et al. 2023 (Align your Latents), section 3.1.
    """

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
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
        parts = nn.ModuleDict({"network": self.network})
        if self._decoder_stage:
            parts["decoder"] = self.decoder
        return start_from(parts, behind_given_frames(our_names(state), parts), "network.unet.")

    def networks(self) -> list[nn.Module]:
        return [self.network, self._image_stage[0].network]

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()

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
        rng = SampleRNG(seeds, self.device)
        labels = None if classes is None else classes.to(self.device)
        if sampling.task == FRAMES:
            latent = self.from_noise(self.image_network, labels, sampling, rng)
        else:
            real = None if condition is None else condition.to(self.device)
            latent = self.latents(labels, sampling, rng, real)
        decoder = self.first_stage() or self.codec
        clips = [decoder.decode(clip) for clip in latent.split(self.context.num_frames, dim=1)]
        return torch.cat(clips, dim=1)  # (n, F', 3, H, W)

    def latents(self, labels: Tensor | None, sampling: SamplingConfig, rng: SampleRNG, real: Tensor | None) -> Tensor:
        """Latents (n, F', C, h, w) of what sampling.task asks for; real: the clips (n, F, 3, H, W) that it begins with,
        None for generation."""
        raise NotImplementedError("a setting of Video LDM defines latents")

    def image_network(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Noise (n, F, C, h, w) of clips, every frame by itself: what the network is where all mixing factors are 1."""
        n, frames = x.shape[:2]
        of_frames = [None if one is None else one.repeat_interleave(frames) for one in (t, y)]  # (n F,)
        return self._image_stage[0].network(x.flatten(0, 1), *of_frames).unflatten(0, (n, frames))

    def from_noise(
        self,
        network: GuidedNetwork,
        labels: Tensor | None,
        sampling: SamplingConfig,
        rng: SampleRNG,
        frames: int | None = None,
    ) -> Tensor:
        """Latents (n, T, C, h, w) that a network of (x, t, y) makes; frames: T, None for those of a clip."""
        shape = (frames or self.context.num_frames, *self.latent_shape[1:])
        return sample_latent(
            sampling.sampler,
            sampling.steps,
            self.denoiser(labels, sampling, network),
            self.schedule,
            rng.normal(shape),
            lambda step: rng.normal(shape),
            sampling.eta,
            sampling.clip_denoised,
            self.codec.latent_bound(),
        )

    def denoiser(
        self, classes: Tensor | None, sampling: SamplingConfig, network: GuidedNetwork | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Noise and variance (n, T, 2 C, h, w) as a function of (x, t), by a network of (x, t, y), the video network
        where none is named, guided by classes in a class suite. It predicts no variance: that is the smaller of its
        bounds, the posterior's.
        """
        predict = guided_noise(network or self.network, classes, self.context.num_classes, sampling.guidance)

        def with_variance(x: Tensor, t: Tensor) -> Tensor:
            eps = predict(x, t)
            return torch.cat([eps, -torch.ones_like(eps)], dim=2)

        return with_variance


def mean_of(mixing: Tensor) -> str:
    """The mean of some mixing factors, in words."""
    return f"{float(mixing.detach().mean()):.3f}"
