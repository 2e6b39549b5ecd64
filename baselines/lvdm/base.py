"""What LVDM's short and long video share: the autoencoder, its training, and the scale of its latents."""

from __future__ import annotations

import torch
from torch import Tensor

from lavita.codecs.base import Codec
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext, VideoMethod
from lavita.methods.latent_scale import LatentScale
from lavita.methods.perceptual import lpips_of_clips, perceptual_distance
from lavita.training.stage import StagePlan

from .autoencoder import VideoAutoencoder, VideoCodec
from .diffusion import lvdm_schedule
from .losses import FrameDiscriminator
from .stages import AdversarialStage, Config, ReconstructionStage, autoencoder_config, first_stage_training


class LatentVideo(VideoMethod):
    """Diffusion on the latents of LVDM's own autoencoder. Subclasses have the networks and the last stages."""

    owns_first_stage = True

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.schedule = lvdm_schedule()
        self.autoencoder = VideoAutoencoder(autoencoder_config(config))
        self.latent_shape = self.autoencoder.latent_shape(context.num_frames, context.resolution)
        self.latents = LatentScale()
        # In tuples, and so out of the registered modules: a checkpoint of the method holds what sampling needs.
        self._perceptual = (perceptual_distance(config.lpips_vgg, config.lpips_linear),)
        self._first_stages = tuple(self.build_first_stages())
        self.declared = {"perceptual loss": self._perceptual[0].name}

    def build_first_stages(self) -> list[StagePlan]:
        """Reconstruction, then (where it has a share) the phase with a discriminator, on the one autoencoder."""
        c: Config = self.config
        shared = (self.context.seed, self.autoencoder, self._perceptual[0], c.kl_weight)
        # The warm-up is a part of the whole budget; the first stage has the same part of its own, the second all of it:
        # its moments start anew, and the autoencoder must not lose what it has learned.
        train = first_stage_training(self.context.train, c, c.autoencoder_share)
        plans = [StagePlan("autoencoder", c.autoencoder_share, ReconstructionStage(train, *shared))]
        if c.adversarial_share:
            train = first_stage_training(self.context.train, c)
            discriminator = FrameDiscriminator(c.discriminator_width, c.discriminator_depth)
            stage = AdversarialStage(train, *shared, discriminator)
            plans.append(StagePlan("autoencoder-gan", c.adversarial_share, stage))
        return plans

    def first_stage(self) -> Codec:
        """The autoencoder as it now is, clip -> latent -> clip; a view that is not part of the method's state."""
        return VideoCodec(self.autoencoder)

    def perceptual_score(self, before: Tensor, after: Tensor) -> Tensor | None:
        return lpips_of_clips(self._perceptual[0], before, after)

    def decode(self, latent: Tensor) -> Tensor:
        """Clips (n, F, 3, H, W) in [-1, 1] of latents (n, C, f, h, w) as the diffusion sees them."""
        return self.autoencoder.decode(self.latents.undo(latent)).clamp(-1, 1)


@torch.no_grad()
def posterior_draw(autoencoder: VideoAutoencoder, video: Tensor, rng: SampleRNG) -> Tensor:
    """A draw of the posterior of each clip (B, F, 3, H, W), (B, C, f, h, w), neither shifted nor scaled."""
    return autoencoder.sample(video, rng.normal(autoencoder.latent_shape(video.shape[1], video.shape[3])))
