"""MCVD as a method of the suite: diffusion in pixels on blocks of frames, each after the frames before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lavita.config.schema import CONTINUATION, ConfigError, SamplingConfig, one_of
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import guided_noise
from lavita.methods.base import MethodContext, VideoMethod

from .diffusion import (
    NUM_LABELS,
    NoisePredictor,
    first_place,
    following_past,
    masked,
    mcvd_schedule,
    sample_block,
    sampling_labels,
    stacked,
    steps_of,
    summed_loss,
)
from .model import MCVDNet, UNetConfig
from .official import official_weights

CONCAT, SPATIN = "concat", "spatin"
SEEDS = 2**32  # of dropout


@dataclass(frozen=True)
class Config:
    """The model section.

    depth: residual blocks of a level; num_heads: of the first level, whose head width the others keep; attention:
    heights, in pixels, at which there is any. frames: of a block; past: those that it is generated from, all of them
    masked in training with past_mask_probability. conditioning: how they are given, concat (stacked on the block) or
    spatin (in the norms, through spatin_channels). final_denoising: one more network evaluation at the end of a block,
    as released. restart_label: the label at which a block begins, from the last frames before it with noise, as the
    authors' code offers too; null, as published: every block begins from noise alone. match_params names a method
    whose parameter count depth and width were chosen by, before the configuration came here.
    """

    depth: int
    width: int
    num_heads: int
    match_params: str | None
    multiples: tuple[int, ...]
    attention: tuple[int, ...]
    frames: int
    past: int
    conditioning: str
    spatin_channels: int
    dropout: float
    past_mask_probability: float
    final_denoising: bool
    restart_label: int | None

    def __post_init__(self) -> None:
        one_of("model.conditioning", self.conditioning, (CONCAT, SPATIN))
        if self.depth < 1 or self.num_heads < 1 or self.width % self.num_heads:
            raise ConfigError(
                f"model: got depth {self.depth}, width {self.width} and num_heads {self.num_heads}, wanted at least 1, "
                "and heads that divide the width"
            )
        if not 0 <= self.dropout < 1 or not 0 <= self.past_mask_probability <= 1:
            raise ConfigError(
                f"model.dropout, model.past_mask_probability: got {self.dropout} and {self.past_mask_probability}, "
                "allowed 0 to below 1, and 0 to 1"
            )
        if self.restart_label is not None and (not 0 <= self.restart_label < NUM_LABELS or self.past < self.frames):
            raise ConfigError(
                f"model.restart_label: got {self.restart_label}, allowed 0 to {NUM_LABELS - 1}, with a past of at "
                f"least the {self.frames} frames of a block; or null"
            )

    def numbers(self) -> tuple[int, int, int]:
        """(depth, width, heads)."""
        return self.depth, self.width, self.num_heads

    @property
    def width_step(self) -> int:
        """By how much the width may grow: heads divide it, and every level has groups of at least four channels."""
        return math.lcm(self.num_heads, 8)

    @property
    def window(self) -> int:
        """Frames of one training example."""
        return self.past + self.frames


def unet_config(context: MethodContext, config: Config) -> UNetConfig:
    """Sizes of the network for the suite's frames."""
    return UNetConfig(
        image_size=context.resolution,
        frames=config.frames,
        past=config.past,
        width=config.width,
        multiples=config.multiples,
        attention=config.attention,
        num_res_blocks=config.depth,
        head_width=config.width // config.num_heads,
        spatin=config.spatin_channels if config.conditioning == SPATIN else None,
        dropout=config.dropout,
        num_classes=context.num_classes,
    )


class Method(VideoMethod):
    """Noise prediction on the next frames from those before, or from none.

    All frames of a clip are charged, whether they are generated or given: a clip is cut into windows of past and block
    that do not overlap, and every window is a training example. Source: Voleti et al. 2022 (MCVD), section 3.
    """

    owns_first_stage = True  # there is none: frames are pixels
    tasks = (*VideoMethod.tasks, CONTINUATION)

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        if context.num_frames < config.window:
            raise ConfigError(
                f"data.frames: got {context.num_frames}, wanted at least {config.window} for mcvd: model.past "
                f"{config.past} and model.frames {config.frames} of one example"
            )
        self.examples_per_clip = context.num_frames // config.window
        self.schedule = mcvd_schedule()
        self.network = MCVDNet(unet_config(context, config))

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        self.check_batch(batch)
        c, n = self.config, self.examples_per_clip
        past, block = self.windows(batch["video"], rng).split([c.past, c.frames], dim=2)  # (B, n, p or f, 3, H, W)
        classes = self.labels(batch["label"], rng)  # (B,) or None
        label = draws_per_example(n, lambda: rng.integers(NUM_LABELS))  # (B n,)
        draw = draws_per_example(n, rng.uniform)  # (B n,)
        given, _ = masked(past.flatten(0, 1), draw, c.past_mask_probability)  # (B n, p, 3, H, W)
        seeds = draws_per_example(n, lambda: rng.integers(SEEDS)) if c.dropout else None  # (B n,)
        noise = rng.normal((n, *self.block_shape)).flatten(0, 1)  # (B n, 3 f, H, W)
        target = stacked(block.flatten(0, 1))  # (B n, 3 f, H, W)
        noisy = self.schedule.add_noise(target, steps_of(label), noise)  # (B n, 3 f, H, W)
        classes = None if classes is None else classes.repeat_interleave(n)
        # The seeds are drawn in any case, so that a clip's other draws are the same with dropout and without.
        predicted = self.network(noisy, stacked(given), label, classes, seeds if self.training else None)
        loss = summed_loss(predicted, noise).unflatten(0, (-1, n)).mean(dim=1)  # (B,)
        return {"loss": loss, "mse": loss.detach() * 2 / math.prod(self.block_shape)}

    def windows(self, video: Tensor, rng: SampleRNG) -> Tensor:
        """The examples of clips (B, F, 3, H, W): (B, n, past + frames, 3, H, W), one behind the other.

        Where they leave frames over, the first begins at random, so that every frame has its part.
        """
        n, window = self.examples_per_clip, self.config.window
        if video.shape[1] == n * window:
            return video.unflatten(1, (n, window))
        start = rng.integers(video.shape[1] - n * window + 1)  # (B,)
        position = start[:, None] + torch.arange(n * window, device=video.device)  # (B, n window)
        cut = video[torch.arange(len(video), device=video.device)[:, None], position]
        return cut.unflatten(1, (n, window))

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """A block of frames along the channels, (3 f, H, W)."""
        return 3 * self.config.frames, self.context.resolution, self.context.resolution

    def blocks_of(self, frames: int) -> int:
        """Blocks that so many frames are generated in."""
        return -(-frames // self.config.frames)

    def evaluations(self, sampling: SamplingConfig) -> int:
        c, blocks, steps = self.config, self.blocks_of(self.context.num_frames), sampling.num_steps
        left_out = 0 if c.restart_label is None else first_place(sampling_labels(steps), c.restart_label)
        return blocks * (steps + c.final_denoising) - (blocks - 1) * left_out

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_request(seeds, sampling, condition)
        c, context = self.config, self.context
        rng = SampleRNG(seeds, self.device)
        # Nothing before the first block: mid-grey, as a masked past is in training.
        past = torch.zeros(len(seeds), c.past, 3, context.resolution, context.resolution, device=self.device)
        if condition is not None:
            past = condition[:, -c.past :].to(self.device)
        total = context.num_frames * sampling.num_clips_chained
        blocks: list[Tensor] = []
        for number in range(self.blocks_of(total)):
            known = c.restart_label is not None and (number > 0 or condition is not None)
            block = sample_block(
                self.predictor(stacked(past), classes, sampling.guidance),
                lambda: rng.normal(self.block_shape),
                int(sampling.steps),
                sampling.sampler,
                sampling.eta,
                sampling.clip_denoised,
                c.final_denoising,
                start=(c.restart_label, stacked(past[:, -c.frames :])) if known else None,
            ).unflatten(1, (c.frames, 3))  # (n, f, 3, H, W)
            blocks.append(block)
            past = following_past(past, block)  # (n, p, 3, H, W)
        return torch.cat(blocks, dim=1)[:, :total].clamp(-1, 1)  # (n, F', 3, H, W)

    def predictor(self, given: Tensor, classes: Tensor | None, guidance: float) -> NoisePredictor:
        """The network as a function of (x, label), guided by classes in a class suite."""
        wanted = None if classes is None else classes.to(self.device)
        return guided_noise(
            lambda x, label, y: self.network(x, given, label, y), wanted, self.context.num_classes, guidance
        )

    def check_task(self, sampling: SamplingConfig) -> None:
        if sampling.sampler not in ("ddpm", "ddim") or not sampling.steps.isdigit():
            raise ConfigError(
                f"sampling: got sampler {sampling.sampler!r} with steps {sampling.steps!r}; mcvd samples by loops of "
                "its own: set sampling.sampler=ddpm or ddim, and one whole number of steps"
            )
        sampling_labels(int(sampling.steps))
        super().check_task(replace(sampling, num_clips_chained=1))  # a longer video goes on by blocks


def draws_per_example(count: int, draw: Callable[[], Tensor]) -> Tensor:
    """count draws (B,) of every clip, those of a clip behind each other: (B count,)."""
    return torch.stack([draw() for _ in range(count)], dim=1).flatten()


def load_official(method: Method, paths: Sequence[Path]) -> None:
    """Fill a method from an official file. Raises ValueError, and then changes nothing."""
    if len(paths) != 1:
        raise ConfigError(f"--checkpoint: got {len(paths)} files, mcvd has one")
    method.network.load_state_dict(official_weights(paths[0], method.network), strict=True)
