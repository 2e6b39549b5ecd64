"""StyleGAN-V and MoStGAN-V as a method of the suite: generator and discriminator of some frames, updated in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.config.schema import ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.adversarial import Adam, AdaptiveProbability, make_finite
from lavita.methods.base import MethodContext, VideoMethod
from lavita.methods.checkpoints import official_state
from lavita.methods.discriminators import UPDATES, AlternatingStage
from lavita.nn.augmentation import PIPES

from .discriminator import Discriminator, DiscriminatorConfig
from .generator import Generator, GeneratorConfig
from .losses import Players, spans
from .motion import MotionConfig
from .styles import StylesConfig

NORMALISED = (
    4  # largest sides whose weights MoStGAN-V normalises before, those that its authors trained in half precision
)
# fused and mixed of the generator, in training and in sampling.
MOTION_PATHS = {
    "trained": ((False, NORMALISED), (False, NORMALISED)),
    "paper": ((True, 0), (True, 0)),
    "released": ((False, NORMALISED), (True, NORMALISED)),
}
ADA_INTERVAL, ADA_TARGET = 4, 0.6


@dataclass(frozen=True)
class Config:
    """The model section.

    z_dim, w_dim, channel_base, channel_max, mapping_layers: sizes of both networks, see GeneratorConfig. motion_dim:
    width of motion noise and codes; motion_frequencies: of a frame's code; motion_distance: frames between two codes,
    and the shortest period; longest_period, max_frames: of the clips that the motion is made for. frames: that the
    discriminator sees of a clip. motion_styles: MoStGAN-V's, 0 for StyleGAN-V; style_dim, style_sides, style_rank: of
    these; motion_path: trained (the function that the authors' training computed, in training and sampling alike),
    paper (every image's weight is changed), released (training as trained, sampling as the released evaluation);
    diversity: weight of their similarity in the loss. pipe: of augmentations. ada_clips: in so many clips their
    probability may go from 0 to 1. r1_gamma: null for 0.0002 times the pixels of a frame over the batch. r1_interval,
    lazy_generator: intervals of the lazy regularisers that the optimisers are corrected for. beta1, beta2: of both
    optimisers at every tier. truncation: psi in sampling.
    """

    z_dim: int
    w_dim: int
    channel_base: int
    channel_max: int
    mapping_layers: int
    motion_dim: int
    motion_frequencies: int
    motion_distance: int
    longest_period: int
    max_frames: int
    frames: int
    motion_styles: int
    style_dim: int
    style_sides: tuple[int, ...]
    style_rank: int
    motion_path: str
    diversity: float
    pipe: str
    ada_clips: int
    r1_gamma: float | None
    r1_interval: int
    lazy_generator: int
    beta1: float
    beta2: float
    truncation: float

    def __post_init__(self) -> None:
        for key, allowed in {"motion_path": MOTION_PATHS, "pipe": PIPES}.items():
            if getattr(self, key) not in allowed:
                raise ConfigError(f"model.{key}: got {getattr(self, key)!r}, allowed {', '.join(allowed)}")
        if self.r1_interval < 1 or self.lazy_generator < 1 or self.ada_clips < 1:
            raise ConfigError("model.r1_interval, model.lazy_generator, model.ada_clips: wanted at least 1 each")


def generator_config(context: MethodContext, config: Config) -> GeneratorConfig:
    """Sizes of the generator for the suite's clips."""
    motion = MotionConfig(
        noise_dim=config.motion_dim,
        width=config.motion_dim,
        distance=config.motion_distance,
        frequencies=config.motion_frequencies,
        min_period=config.motion_distance,
        max_period=config.longest_period,
        max_frames=config.max_frames,
    )
    styles = StylesConfig(config.motion_styles, config.style_dim, config.style_sides, config.style_rank)
    return GeneratorConfig(
        resolution=context.resolution,
        c_dim=context.num_classes or 0,
        z_dim=config.z_dim,
        w_dim=config.w_dim,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        mapping_layers=config.mapping_layers,
        motion=motion,
        styles=styles if config.motion_styles else None,
    )


def discriminator_config(context: MethodContext, config: Config) -> DiscriminatorConfig:
    """Sizes of the discriminator for the suite's clips."""
    return DiscriminatorConfig(
        resolution=context.resolution,
        c_dim=context.num_classes or 0,
        frames=config.frames,
        max_frames=config.max_frames,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        mapping_layers=config.mapping_layers,
        hidden=config.style_dim if config.motion_styles else None,
        differences=bool(config.motion_styles),
    )


class Method(AlternatingStage, VideoMethod):
    """Both networks, trained from pixels. Every batch updates the generator, then the discriminator.

    Source: Skorokhodov et al. 2022 (StyleGAN-V, arXiv:2112.14683); Shen et al. 2023 (MoStGAN-V, arXiv:2304.02777).
    """

    owns_first_stage = True
    same_clips = True

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        try:
            spans(context.num_frames, config.frames)
            self.network = Generator(generator_config(context, config))
            self.discriminator = Discriminator(discriminator_config(context, config))
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
        batch = context.train.batch_clips
        self.ada = AdaptiveProbability(batch * ADA_INTERVAL / config.ada_clips, ADA_INTERVAL, ADA_TARGET)
        self.gamma = 0.0002 * context.resolution**2 / batch if config.r1_gamma is None else config.r1_gamma
        self.saw_real = False  # since the last step

    @property
    def clip_cost(self) -> Fraction:
        """Of the two updates of a clip, each half of the frames that the discriminator sees of it."""
        return Fraction(self.config.frames, self.context.num_frames * UPDATES)

    def update_shares(self) -> dict[int, int]:
        """The generator's, the discriminator's with R1, and those without."""
        rest = self.config.r1_interval - 1
        return {0: rest + 1, 1: 1} | ({UPDATES + 1: rest} if rest else {})

    @contextmanager
    def without_batch_statistics(self) -> Iterator[None]:
        """Inside, the minibatch deviation is taken over groups of one clip."""
        last, group = self.discriminator.b4, self.discriminator.b4.group
        last.group = 1
        try:
            yield
        finally:
            last.group = group

    def players(self) -> Players:
        """Both networks with how they are trained."""
        c: Config = self.config
        fused, mixed = MOTION_PATHS[c.motion_path][0]
        return Players(
            self.network,
            self.discriminator,
            self.context.num_frames,
            c.frames,
            PIPES[c.pipe],
            self.ada.p,
            fused,
            mixed,
            c.diversity,
            self.gamma,
            c.r1_interval,
        )

    def one_hot(self, label: Tensor | None) -> Tensor | None:
        """Labels (B,) as the networks take them, float32 (B, classes); None without classes."""
        if self.context.num_classes is None or label is None:
            return None
        return functional.one_hot(label.to(self.device), self.context.num_classes).float()

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        self.check_batch(batch)
        c = self.one_hot(batch["label"])
        if not self.updates_discriminator(batch):
            return self.players().generator_update(c, rng)
        update = batch["clip_index"].tolist()[0] // self.train_config.batch_clips // UPDATES
        penalised = update % self.config.r1_interval == 0
        parts, logits = self.players().discriminator_update(batch["video"], c, rng, penalised)
        if self.training and torch.is_grad_enabled():
            self.ada.observe(logits)
            self.saw_real = True
        return parts

    def heldout_losses(self, batch: dict[str, Tensor], rng: SampleRNG) -> Tensor:
        """The discriminator's loss, without R1: 2 ln 2 where it knows nothing. It says how the two stand, not how good
        clips are.
        """
        return self.players().discriminator_update(batch["video"], self.one_hot(batch["label"]), rng, False)[0]["loss"]

    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch, optimizer, optimizer_closure)
        if self.saw_real:
            self.ada.end_update()
        self.saw_real = False

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        make_finite(self.trained_parameters())
        super().configure_gradient_clipping(optimizer)

    def configure_optimizers(self) -> dict[str, Any]:
        """One Adam with a group for each network: rates and moments as corrected for lazy regularisers."""
        configured, c = super().configure_optimizers(), self.config
        optimiser, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        own = Adam(self.train_config.learning_rate, c.beta1, c.beta2)
        groups = ((self.network, c.lazy_generator), (self.discriminator, c.r1_interval))
        template = dict(optimiser.param_groups[0])
        optimiser.param_groups.clear()
        ramp = scheduler.lr_lambdas[0]
        for network, interval in groups:
            lazy = own.lazy(interval)
            settings = {key: value for key, value in template.items() if key not in ("params", "initial_lr")}
            settings |= {"lr": lazy.learning_rate, "betas": (lazy.beta1, lazy.beta2)}
            optimiser.add_param_group(settings | {"params": list(network.parameters())})
        again = torch.optim.lr_scheduler.LambdaLR(optimiser, [ramp] * len(groups))
        return configured | {"lr_scheduler": configured["lr_scheduler"] | {"scheduler": again}}

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.discriminator.parameters()]

    def denoiser_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def evaluations(self, sampling: SamplingConfig) -> int:
        return 1

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_generation(sampling, condition)
        times = torch.arange(self.context.num_frames, dtype=torch.float32)
        return self.frames_of(seeds, classes, times).clamp(-1, 1)

    @torch.no_grad()
    def frames_of(self, seeds: Sequence[int], classes: Tensor | None, times: Tensor) -> Tensor:
        """Frames (n, T, 3, R, R) of the clips of these seeds at any times (T,), 0 or later, in frames of the suite; not
        held in a range. The frame of a time does not depend on the other times.
        """
        config, rng = self.network.config, SampleRNG(seeds, self.device)
        z = rng.normal((config.z_dim,))
        noise = rng.normal((config.motion.trajectory(float(times.max())), config.motion.noise_dim))
        t = times.to(self.device).expand(len(seeds), -1)
        fused, mixed = MOTION_PATHS[self.config.motion_path][1]
        psi = self.config.truncation
        return self.network(z, t, noise, self.one_hot(classes), psi=psi, fused=fused, mixed=mixed)[0]


def load_official(method: Method, paths: Sequence[Path]) -> None:
    """Fill the generator from a file of official names, a state dict. Raises ValueError, and then changes nothing."""
    if len(paths) != 1:
        raise ConfigError(f"--checkpoint: got {len(paths)} files, {method.name} has one: the averaged generator's")
    method.network.load_state_dict(official_state(paths[0], method.network), strict=True)
