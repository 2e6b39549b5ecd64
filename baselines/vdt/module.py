"""VDT as a method of the suite: IDDPM on the suite's latents, trained as DiT is (no recipe was released)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavita.config.schema import GENERATION, ConfigError, SamplingConfig, one_of
from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import sample_latent
from lavita.methods.base import MethodContext
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.nn.blocks import chosen_size
from lavita.shapes import check

from .model import SIZES, VDT, VDTConfig

MaskMaker = Callable[[int, int, torch.Generator, bool], Tensor]
# Of every frame that is to be completed, this part is made, in blocks of at least so many positions.
MADE_SHARE = 0.5
LEAST_BLOCK = 4
LEAST_ASPECT = 0.3
ATTEMPTS = 10
# Frames at most that completion leaves whole at either end, and the frames between two given ones in interpolation.
MOST_WHOLE = 3
INTERPOLATION_STEP = 4


def whole_frames(num_frames: int, side: int, given: list[int]) -> Tensor:
    """Mask with the frames of the list given, bool (F, h, w)."""
    mask = torch.zeros(num_frames, side, side, dtype=torch.bool)
    mask[given] = True
    return mask


def generation(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """Nothing is given."""
    return whole_frames(num_frames, side, [])


def prediction(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """The first half of the frames is given (8 of 16 in the released code)."""
    return whole_frames(num_frames, side, list(range(num_frames // 2)))


def backward_prediction(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """The last half of the frames is given."""
    return whole_frames(num_frames, side, list(range(num_frames - num_frames // 2, num_frames)))


def interpolation(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """Every fourth frame is given, from the first on; closer in clips below eight frames."""
    step = min(INTERPOLATION_STEP, max(2, num_frames // 2))
    return whole_frames(num_frames, side, list(range(0, num_frames, step)))


def animation(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """One frame is given: any one in training, as released; the first in sampling, where a still is to move."""
    frame = int(torch.randint(num_frames, (), generator=generator)) if training else 0
    return whole_frames(num_frames, side, [frame])


def completion(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """All is given but blocks that cover about half of the area, the same in all frames but a few at either end.

    The released code cuts its frames [start : -end], which makes nothing where end is drawn as 0; not repeated here.
    """
    most = min(MOST_WHOLE, (num_frames - 1) // 2)
    start, end = (int(torch.randint(most + 1, (), generator=generator)) for _ in range(2))
    mask = torch.ones(num_frames, side, side, dtype=torch.bool)
    mask[start : num_frames - end] = ~blocks(side, generator)
    return mask


TASKS: dict[str, MaskMaker] = {
    "generation": generation,
    "prediction": prediction,
    "backward-prediction": backward_prediction,
    "interpolation": interpolation,
    "animation": animation,
    "completion": completion,
}


def blocks(side: int, generator: torch.Generator) -> Tensor:
    """Rectangles of random area and aspect, bool (h, w), True inside, until MADE_SHARE of the area is covered.

    A rectangle never brings the area above that share. Where ten attempts find none that fits, no more are added; the
    first is then a square, so that something is always to be made.
    Source: Bao et al. 2022 (BEiT), algorithm 1, as the released code sets it.
    """
    inside = torch.zeros(side, side, dtype=torch.bool)
    wanted = max(1, int(MADE_SHARE * side * side))
    while (left := wanted - int(inside.sum())) > 0:
        if not add_rectangle(inside, left, generator):
            break
    if not inside.any():
        edge = max(1, math.isqrt(wanted))
        inside[:edge, :edge] = True
    return inside


def add_rectangle(inside: Tensor, most: int, generator: torch.Generator) -> bool:
    """Add one rectangle that covers 1 to `most` new positions of (h, w), in place; False where none was found."""
    side = len(inside)
    for _ in range(ATTEMPTS):
        area_draw, aspect_draw, top_draw, left_draw = torch.rand(4, generator=generator).tolist()
        area = LEAST_BLOCK + area_draw * (most - LEAST_BLOCK)
        aspect = math.exp((2 * aspect_draw - 1) * math.log(1 / LEAST_ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= side or width >= side:
            continue
        top, left = int(top_draw * (side - height + 1)), int(left_draw * (side - width + 1))
        part = inside[top : top + height, left : left + width]
        if 0 < int((~part).sum()) <= most:
            part[:] = True
            return True
    return False


def task_mask(task: str, num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """The mask of one clip, bool (F, h, w), True where given; random parts are drawn from the clip's generator."""
    return TASKS[task](num_frames, side, generator, training)


@dataclass(frozen=True)
class Config:
    """size: XXS, XS, S, B or L; patch_size in latent pixels; tasks: those trained, one drawn for each clip, all alike.

    depth, width and num_heads, where not null, take the place of the named size's. match_params names a method
    whose parameter count depth and width were chosen by, before the configuration came here.
    """

    size: str
    patch_size: int
    depth: int | None
    width: int | None
    num_heads: int | None
    match_params: str | None
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        one_of("model.size", self.size, tuple(SIZES))
        for task in self.tasks:
            one_of("model.tasks", task, tuple(TASKS))
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(
                f"model.tasks: got {list(self.tasks)}, wanted at least one of {', '.join(TASKS)}, each once"
            )
        self.numbers()

    def numbers(self) -> tuple[int, int, int]:
        """(depth, width, heads). Raises ConfigError."""
        return chosen_size(SIZES[self.size], self.depth, self.width, self.num_heads)


class Method(LatentDiffusion):
    """VDT for generation, by class or not, and for its mask-modelling tasks (see masks.py).

    An unconditional suite uses the official label table of one class: row 0 is always added, in training too. Where a
    task gives part of a clip, the network reads clean latents there at every time t, and noisy ones elsewhere.
    Source: Lu et al. 2023 (VDT), its mask modelling; github.com/RERV/VDT at cdbad2b, diffusion/gaussian_diffusion.py.
    """

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        self.tasks = config.tasks
        if config.tasks != (GENERATION,) and context.num_frames < 3:
            raise ConfigError(f"model.tasks: {', '.join(config.tasks)} need 3 frames, got {context.num_frames}")

    def build_network(self) -> nn.Module:
        frames, channels, side, _ = self.latent_shape
        depth, width, num_heads = self.config.numbers()
        return VDT(
            VDTConfig(
                depth=depth,
                width=width,
                num_heads=num_heads,
                patch_size=self.config.patch_size,
                num_frames=frames,
                channels=channels,
                side=side,
                num_classes=1 if self.context.num_classes is None else self.context.num_classes,
            )
        )

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        if self.tasks == (GENERATION,):
            return super().loss(batch, rng)
        self.check_batch(batch)
        x0 = self.encode(batch["video"], rng)  # (B, F, C, h, w)
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(x0.shape[1:])  # (B, F, C, h, w)
        y = self.labels(batch["label"], rng)  # (B,) or None
        given = self.masks([self.tasks[k] for k in rng.integers(len(self.tasks))], rng, True)  # (B, F, 1, h, w)
        x_t = torch.where(given, x0, self.schedule.add_noise(x0, t, noise))  # (B, F, C, h, w)
        eps, v = self.network(x_t, t, y).chunk(2, dim=2)  # (B, F, C, h, w) each
        return hybrid_loss(self.schedule, x0, t, noise, eps, v, counted=~given)

    def masks(self, tasks: Sequence[str], rng: SampleRNG, training: bool) -> Tensor:
        """What is given of each clip under its task, bool (B, F, 1, h, w)."""
        frames, _, side, _ = self.latent_shape
        pairs = zip(tasks, rng.generators, strict=True)
        masks = [task_mask(task, frames, side, generator, training) for task, generator in pairs]
        return torch.stack(masks)[:, :, None].to(rng.device)

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        if sampling.task == GENERATION:
            return super().sample(seeds, classes, sampling, condition)
        self.check_task(sampling)
        self.check_condition(seeds, sampling, condition)
        rng = SampleRNG(seeds, self.device)
        known = self.encode(condition.to(self.device), rng)  # (n, F, C, h, w)
        given = self.masks([sampling.task] * len(seeds), rng, False)  # (n, F, 1, h, w)
        latent = self.complete(known, given, rng, classes, sampling)  # (n, F, C, h, w)
        return self.codec.decode(latent)  # (n, F, 3, H, W)

    def check_task(self, sampling: SamplingConfig) -> None:
        if sampling.task in TASKS and sampling.task not in self.tasks:
            raise ConfigError(
                f"sampling.task: got {sampling.task!r}, allowed for vdt: {', '.join(self.tasks)}: those in "
                f"model.tasks; for an official file that was trained for it give model.tasks=[{sampling.task}]"
            )
        super().check_task(sampling)

    def check_condition(self, seeds: Sequence[int], sampling: SamplingConfig, condition: Tensor | None) -> None:
        """Raise ValueError unless there is one real clip per seed."""
        c = self.context
        if condition is None:
            raise ValueError(
                f"sampling.task={sampling.task} needs one real clip per seed as condition (--condition VIDEO), got none"
            )
        check(condition, "B F 3 H W", "condition", B=len(seeds), F=c.num_frames, H=c.resolution, W=c.resolution)

    @torch.no_grad()
    def complete(
        self, known: Tensor, given: Tensor, rng: SampleRNG, classes: Tensor | None, sampling: SamplingConfig
    ) -> Tensor:
        """Latents (n, F, C, h, w) made where given (n, F, 1, h, w) is false; elsewhere `known`, bit for bit."""
        denoiser = self.denoiser(classes, sampling)
        latent = sample_latent(
            sampling.sampler,
            sampling.steps,
            lambda x, t: denoiser(torch.where(given, known, x), t),
            self.schedule,
            rng.normal(self.latent_shape),
            lambda step: rng.normal(self.latent_shape),
            sampling.eta,
            sampling.clip_denoised,
            self.codec.latent_bound(),
        )  # (n, F, C, h, w)
        return torch.where(given, known, latent)
