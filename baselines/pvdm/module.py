"""PVDM as a method of the suite: its own autoencoder, the adversarial phase, then diffusion on latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lavita.codecs.base import Codec
from lavita.config.schema import CONTINUATION, ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import guided_noise
from lavita.methods.base import MethodContext, VideoMethod
from lavita.methods.checkpoints import official_state
from lavita.methods.latent_scale import LatentScale
from lavita.methods.perceptual import lpips_of_clips, perceptual_distance
from lavita.shapes import check
from lavita.training.stage import StagePlan

from .autoencoder import TriplaneAutoencoder, TriplaneCodec
from .diffusion import noise_loss, pvdm_schedule, sample_latents
from .losses import Adversary
from .stages import (
    AdversarialStage,
    Config,
    ReconstructionStage,
    autoencoder_config,
    check_steps,
    first_stage_training,
    unet_config,
)
from .unet import PlaneUNet

# The released trainer saves its U-Net inside a wrapper of this name.
UNET_PREFIX = "diffusion_model."


def load_official_pair(
    autoencoder: TriplaneAutoencoder, network: PlaneUNet, autoencoder_path: Path | str, unet_path: Path | str
) -> None:
    """Load both files, or raise CheckpointError and change neither network.

    Files and errors are those of `lavita.methods.checkpoints.load_official`; the U-Net's keys may stand with the
    released trainer's prefix or without. Use the averaged U-Net (`ema_model_<iteration>.pth`): published scores
    are of that one.
    Source: github.com/sihyun-yu/PVDM at 793172f, tools/trainer.py and exps/diffusion.py.
    """
    first = official_state(autoencoder_path, autoencoder)
    second = official_state(unet_path, network, prefix=UNET_PREFIX)
    autoencoder.load_state_dict(first, strict=True)
    network.load_state_dict(second, strict=True)


class Method(VideoMethod):
    """Diffusion on the latents of PVDM's own autoencoder. Source: Yu et al. 2023 (PVDM), section 3."""

    owns_first_stage = True
    unchanged = ("autoencoder",)  # as the stages before have left it

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.schedule = pvdm_schedule()
        self.autoencoder = TriplaneAutoencoder(autoencoder_config(context, config))
        self.network = PlaneUNet(unet_config(context, config))
        self.latent_shape = (config.embed_dim, self.autoencoder.config.latent_length)
        self.latents = LatentScale(self.latent_shape, bound=1.0)  # an autoencoder's latents lie in [-1, 1]
        if config.normalize_latents:
            self.prepared_clips = 256
        if config.previous_clip:
            self.context_frames = context.num_frames
            self.tasks = (*self.tasks, CONTINUATION)
        # In tuples, and so out of the registered modules: a checkpoint of the method holds what sampling needs.
        self._perceptual = (perceptual_distance(config.lpips_vgg, config.lpips_linear),)
        self._first_stages = tuple(self.build_first_stages())
        self.declared = {"perceptual loss": self._perceptual[0].name}

    def build_first_stages(self) -> list[StagePlan]:
        """Reconstruction, then (where it has a share) the adversarial phase, on the one autoencoder."""
        c: Config = self.config
        train = first_stage_training(
            self.context.train, c.autoencoder_beta1, c.autoencoder_beta2, c.autoencoder_batch_clips
        )
        shared = (train, self.context.seed, self.autoencoder, self._perceptual[0])
        plans = [StagePlan("autoencoder", c.autoencoder_share, ReconstructionStage(*shared))]
        if c.adversarial_share:
            adversary = Adversary(c.discriminator_width, c.discriminator_depth)
            plans.append(StagePlan("autoencoder-gan", c.adversarial_share, AdversarialStage(*shared, adversary)))
        return plans

    def first_stage(self) -> Codec:
        """The autoencoder as it now is, clip -> planes -> clip; a view that is not part of the method's state."""
        return TriplaneCodec(self.autoencoder)

    def perceptual_score(self, before: Tensor, after: Tensor) -> Tensor | None:
        return lpips_of_clips(self._perceptual[0], before, after)

    def stages(self) -> list[StagePlan]:
        return [*self._first_stages, StagePlan(self.stage_name, 1 - self.config.first_share, self)]

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def prepare(self, batches: Iterable[tuple[dict[str, Tensor], SampleRNG]]) -> None:
        self.latents.measure(self.autoencoder.encode(batch["video"]) for batch, _ in batches)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        z, previous = self.encoded(batch, rng)  # (B, C, N), (B, C, N) or None
        labels = self.labels(batch["label"], rng)  # (B,) or None
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(z.shape[1:])  # (B, C, N)
        mse = noise_loss(lambda z_t, t: self.network(z_t, t, previous, labels), self.schedule, z, t, noise)
        return {"loss": mse}

    @torch.no_grad()
    def encoded(self, batch: dict[str, Tensor], rng: SampleRNG) -> tuple[Tensor, Tensor | None]:
        """Latent of the clip to model and of the one before it, (B, C, N) each; zeros where none is given.

        With previous_clip, past and video together are 2 F frames: either the two halves are condition and clip, or a
        window at a random start is the clip, without a condition.
        Source: PVDM, section 3.3; github.com/sihyun-yu/PVDM at 793172f, tools/trainer.py.
        """
        self.check_batch(batch)
        if not self.config.previous_clip:
            return self.encode(batch["video"]), None
        if "context_frames" not in batch:
            raise ValueError("model.previous_clip=true: got a batch without context_frames, those before each clip")
        c, past = self.context, batch["context_frames"]
        check(past, "B F 3 H W", "context_frames (model.previous_clip)", F=c.num_frames, H=c.resolution, W=c.resolution)
        frames, both = c.num_frames, torch.cat([past, batch["video"]], dim=1)  # (B, 2 F, 3, H, W)
        given = rng.uniform() < self.config.previous_clip_probability  # (B,)
        start = rng.integers(frames + 1).masked_fill(given, frames)  # (B,)
        position = start[:, None] + torch.arange(frames, device=both.device)  # (B, F)
        clip = both[torch.arange(len(both), device=both.device)[:, None], position]  # (B, F, 3, H, W)
        previous = self.encode(past) * given[:, None, None]  # (B, C, N)
        return self.encode(clip), previous

    def encode(self, video: Tensor) -> Tensor:
        """Latents (B, C, N) of clips (B, F, 3, H, W), as the diffusion sees them."""
        return self.latents.apply_to(self.autoencoder.encode(video))

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_request(seeds, sampling, condition)
        num_steps = check_steps(sampling)
        rng = SampleRNG(seeds, self.device)
        clips: list[Tensor] = []
        z = None if condition is None else self.encode(condition.to(self.device))  # (n, C, N)
        for _ in range(sampling.num_clips_chained):
            predict = self.predictor(z, classes, sampling.guidance)
            z = sample_latents(
                predict,
                self.schedule,
                lambda: rng.normal(self.latent_shape),
                num_steps,
                sampling.eta,
                self.latents.bound if sampling.clip_denoised else None,
            )  # (n, C, N)
            clips.append(self.autoencoder.decode(self.latents.undo(z)).clamp(-1, 1))  # (n, F, 3, H, W)
        return torch.cat(clips, dim=1)

    def check_task(self, sampling: SamplingConfig) -> None:
        if sampling.num_clips_chained > 1 and not self.config.previous_clip:
            raise ValueError(
                f"sampling.num_clips_chained: got {sampling.num_clips_chained}, allowed 1: train with "
                "model.previous_clip=true for longer video"
            )
        super().check_task(replace(sampling, num_clips_chained=1))

    def predictor(self, previous: Tensor | None, classes: Tensor | None, guidance: float):
        """The network as a function of (z, t), guided by classes in a class suite."""
        labels = None if classes is None else classes.to(self.device)
        return guided_noise(lambda z, t, y: self.network(z, t, previous, y), labels, self.context.num_classes, guidance)


def load_official(method: Method, paths: Sequence[Path]) -> None:
    """Fill a method from the two official files, autoencoder first. Raises ValueError, and then changes nothing."""
    if len(paths) != 2:
        raise ConfigError(
            f"--checkpoint: got {len(paths)} files, pvdm has two: --checkpoint AUTOENCODER --checkpoint UNET"
        )
    load_official_pair(method.autoencoder, method.network, *paths)
