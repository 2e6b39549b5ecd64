"""PVDM as a method of the suite: its own autoencoder, the adversarial phase, then diffusion on latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavita.config import SamplingConfig
from lavita.diffusion.draws import ClipDraws
from lavita.shape import check
from lavita.train.module import MethodContext, StagePlan, VideoMethod

from .autoencoder import AutoencoderConfig, TriplaneAutoencoder
from .diffusion import guided, noise_loss, pvdm_schedule, sample_latents
from .losses import Adversary
from .perceptual import perceptual_distance
from .stages import AdversarialStage, ReconstructionStage, first_stage_training
from .unet import PlaneUNet, UNetConfig


@dataclass(frozen=True)
class Config:
    """The model section: sizes of both stages, the cut of the purse, perceptual weights, long video.

    autoencoder_share and adversarial_share are parts of the purse, diffusion gets the rest. lpips_vgg and
    lpips_linear are weight files, both null for the declared stand-in. autoencoder_batch_clips null takes
    train.batch_clips. previous_clip trains on clips of twice the frames, the first half being the condition
    with probability previous_clip_probability.
    """

    channels: int
    embed_dim: int
    patch_size: int
    depth: int
    num_heads: int
    head_width: int
    projection_depth: int
    projection_hidden: int
    discriminator_width: int
    discriminator_depth: int
    lpips_vgg: str | None
    lpips_linear: str | None
    autoencoder_share: float
    adversarial_share: float
    autoencoder_batch_clips: int | None
    autoencoder_beta1: float
    autoencoder_beta2: float
    unet_channels: int
    unet_multiples: tuple[int, ...]
    unet_attention: tuple[int, ...]
    unet_blocks: int
    unet_heads: int
    previous_clip: bool
    previous_clip_probability: float

    def __post_init__(self) -> None:
        if not (0 < self.autoencoder_share and 0 <= self.adversarial_share and self.first_share < 1):
            raise ValueError(
                f"model.autoencoder_share, model.adversarial_share: got {self.autoencoder_share} and "
                f"{self.adversarial_share}; wanted: the first above 0, the second not below, the sum below 1"
            )
        if not 0 <= self.previous_clip_probability <= 1:
            raise ValueError(f"model.previous_clip_probability: got {self.previous_clip_probability}, allowed 0 to 1")

    @property
    def first_share(self) -> float:
        """Part of the purse that the autoencoder costs, both phases together."""
        return self.autoencoder_share + self.adversarial_share


class Method(VideoMethod):
    """Diffusion on the latents of PVDM's own autoencoder. Source: Yu et al. 2023 (PVDM), section 3."""

    owns_first_stage = True

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.schedule = pvdm_schedule()
        self.autoencoder = TriplaneAutoencoder(autoencoder_config(context, config))
        self.network = PlaneUNet(unet_config(context, config))
        self.perceptual_name = ""
        # Kept out of the registered modules: a checkpoint of the method holds what sampling needs.
        self._first_stages = tuple(self.build_first_stages())

    def build_first_stages(self) -> list[StagePlan]:
        """Reconstruction, then (where it has a share) the adversarial phase, on the one autoencoder."""
        c: Config = self.config
        train = first_stage_training(
            self.context.train, c.autoencoder_beta1, c.autoencoder_beta2, c.autoencoder_batch_clips
        )
        perceptual = perceptual_distance(c.lpips_vgg, c.lpips_linear)
        self.perceptual_name = perceptual.name
        shared = (train, self.context.seed, self.autoencoder, perceptual)
        plans = [StagePlan("autoencoder", c.autoencoder_share, ReconstructionStage(*shared))]
        if c.adversarial_share:
            adversary = Adversary(c.discriminator_width, c.discriminator_depth)
            plans.append(StagePlan("autoencoder-gan", c.adversarial_share, AdversarialStage(*shared, adversary)))
        return plans

    def stages(self) -> list[StagePlan]:
        return [*self._first_stages, StagePlan(self.stage_name, 1 - self.config.first_share, self)]

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def loss(self, batch: dict[str, Tensor], draws: ClipDraws) -> dict[str, Tensor]:
        z, previous = self.latents(batch["video"], draws)  # (B, C, N), (B, C, N) or None
        labels = self.labels(batch["label"], draws)  # (B,) or None
        t = draws.integers(self.schedule.num_steps)  # (B,)
        noise = draws.normal(z.shape[1:])  # (B, C, N)
        mse = noise_loss(lambda z_t, t: self.network(z_t, t, previous, labels), self.schedule, z, t, noise)
        return {"loss": mse}

    @torch.no_grad()
    def latents(self, video: Tensor, draws: ClipDraws) -> tuple[Tensor, Tensor | None]:
        """Latent of the clip to model and of the one before it, (B, C, N) each; zeros where none is given.

        With previous_clip the video has 2 F frames: either its halves are condition and clip, or a window at
        a random start is the clip, without a condition.
        Source: PVDM, section 3.3; github.com/sihyun-yu/PVDM at 793172f, tools/trainer.py.
        """
        c = self.context
        if not self.config.previous_clip:
            self.check_batch({"video": video})
            return self.autoencoder.encode(video), None
        frames = c.num_frames
        check(video, "B F 3 H W", "video (model.previous_clip)", F=2 * frames, H=c.resolution, W=c.resolution)
        given = draws.uniform() < self.config.previous_clip_probability  # (B,)
        start = draws.integers(frames + 1).masked_fill(given, frames)  # (B,)
        position = start[:, None] + torch.arange(frames, device=video.device)  # (B, F)
        clip = video[torch.arange(len(video), device=video.device)[:, None], position]  # (B, F, 3, H, W)
        previous = self.autoencoder.encode(video[:, :frames]) * given[:, None, None]  # (B, C, N)
        return self.autoencoder.encode(clip), previous

    def labels(self, label: Tensor, draws: ClipDraws) -> Tensor | None:
        """Class of each clip, the null class with probability train.class_dropout; None without classes."""
        if self.context.num_classes is None:
            return None
        dropped = draws.uniform() < self.train_config.class_dropout
        return torch.where(dropped, torch.full_like(label, self.context.num_classes), label)

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_generation(sampling, condition)
        return self.sample_chain(seeds, classes, sampling, num_clips_chained=1)

    @torch.no_grad()
    def sample_chain(
        self, seeds: Sequence[int], classes: Tensor | None, sampling: SamplingConfig, num_clips_chained: int
    ) -> Tensor:
        """Long video float32 (n, num_clips_chained * F, 3, H, W) in [-1, 1], each clip given the one before.

        Raises ValueError for more than one clip where the network was not trained with previous_clip.
        """
        if num_clips_chained > 1 and not self.config.previous_clip:
            raise ValueError(
                f"sampling.num_clips_chained: got {num_clips_chained}, allowed 1: train with "
                "model.previous_clip=true for longer video"
            )
        num_steps = check_sampling(sampling, self.context.num_classes, classes)
        draws = ClipDraws(seeds, self.device)
        shape = (self.config.embed_dim, self.autoencoder.config.latent_length)
        clips: list[Tensor] = []
        z = None
        for _ in range(num_clips_chained):
            predict = self.predictor(z, classes, sampling.guidance)
            z = sample_latents(
                predict,
                self.schedule,
                lambda: draws.normal(shape),
                num_steps,
                sampling.eta,
                sampling.clip_denoised,
            )  # (n, C, N)
            clips.append(self.autoencoder.decode(z).clamp(-1, 1))  # (n, F, 3, H, W)
        return torch.cat(clips, dim=1)

    def predictor(self, previous: Tensor | None, classes: Tensor | None, guidance: float):
        """The network as a function of (z, t), guided by classes in a class suite."""
        if classes is None or self.context.num_classes is None:
            return lambda z, t: self.network(z, t, previous)
        labels = classes.to(self.device)
        null = torch.full_like(labels, self.context.num_classes)

        def predict(z: Tensor, t: Tensor) -> Tensor:
            conditional = self.network(z, t, previous, labels)  # (n, C, N)
            if guidance == 1.0:
                return conditional
            return guided(conditional, self.network(z, t, previous, null), guidance)

        return predict


def autoencoder_config(context: MethodContext, config: Config) -> AutoencoderConfig:
    """Sizes of the autoencoder for the suite's clips."""
    return AutoencoderConfig(
        embed_dim=config.embed_dim,
        channels=config.channels,
        resolution=context.resolution,
        timesteps=context.num_frames,
        patch_size=config.patch_size,
        depth=config.depth,
        num_heads=config.num_heads,
        head_width=config.head_width,
        projection_depth=config.projection_depth,
        projection_hidden=config.projection_hidden,
    )


def unet_config(context: MethodContext, config: Config) -> UNetConfig:
    """Sizes of the U-Net for the planes of the suite's clips."""
    return UNetConfig(
        image_size=context.resolution // config.patch_size,
        frames=context.num_frames,
        in_channels=config.embed_dim,
        out_channels=config.embed_dim,
        model_channels=config.unet_channels,
        attention_resolutions=config.unet_attention,
        num_res_blocks=config.unet_blocks,
        channel_mult=config.unet_multiples,
        num_heads=config.unet_heads,
        cond_model=config.previous_clip,
        num_classes=context.num_classes,
    )


def check_sampling(sampling: SamplingConfig, num_classes: int | None, classes: Tensor | None) -> int:
    """The number of steps; raises ValueError for what PVDM's own loop does not offer."""
    if sampling.sampler != "ddim" or not sampling.steps.isdigit():
        raise ValueError(
            f"sampling: got sampler {sampling.sampler!r} with steps {sampling.steps!r}; pvdm samples by its "
            "own ddim loop: set sampling.sampler=ddim and one whole number of steps (eta 1 as published)"
        )
    if num_classes is None and sampling.guidance != 1.0:
        raise ValueError(f"sampling.guidance: got {sampling.guidance}, an unconditional suite allows 1 only")
    if num_classes is not None and classes is None:
        raise ValueError("a class-conditional method samples with one class a clip, got none")
    return int(sampling.steps)
