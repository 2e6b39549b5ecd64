"""The contract of a method: what the suite hands it, and what it must be able to do (docs/adding_a_method.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lavita.codecs.base import Codec
from lavita.config.schema import CONTINUATION, FROM_NOISE, GENERATION, INTERPOLATION, SamplingConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.checkpoints import Start, start_from
from lavita.shapes import check
from lavita.training.stage import StagePlan, TrainedStage


@dataclass(frozen=True)
class MethodContext:
    """What the suite hands to every method: the shape of its clips, the shared autoencoder and the training setting.

    codec is the suite's autoencoder; a method with a first stage of its own, or in pixels, ignores it
    (owns_first_stage = True).
    num_classes is None in an unconditional suite.
    """

    num_frames: int
    resolution: int
    num_classes: int | None
    codec: Codec
    train: TrainConfig
    seed: int


class VideoMethod(TrainedStage):
    """A method of the comparison: its last stage is itself, earlier ones are named in `stages`."""

    owns_first_stage = False
    examples_per_clip = 1  # evaluations of the network that the loss of one clip takes
    tasks: tuple[str, ...] = (GENERATION,)  # values of sampling.task; all but those from noise need a condition
    # Of these, what a run that generates samples and scores beside its own clips, as stages of the tasks' names.
    scored_tasks: tuple[str, ...] = ()
    declared: Mapping[str, str] = {}  # what a method is bound to say of itself: a name and a few words, for its record

    def __init__(self, context: MethodContext, config: Any) -> None:
        super().__init__(context.train, context.seed)
        self.context = context
        self.config = config

    def stages(self) -> list[StagePlan]:
        """The stages in the order of training."""
        return [StagePlan(self.stage_name, 1.0, self)]

    @property
    def clip_cost(self) -> Fraction:
        """Clips that one clip of a batch costs: images and context frames count as frames / F (fairness rule)."""
        frames = self.context.num_frames
        return Fraction(frames + self.joint_images + self.context_frames, frames)

    def labels(self, label: Tensor, rng: SampleRNG) -> Tensor | None:
        """Class of each clip (B,), the null class with probability train.class_dropout; None without classes.

        Source: Ho & Salimans 2022, algorithm 1.
        """
        if self.context.num_classes is None:
            return None
        dropped = rng.uniform() < self.train_config.class_dropout
        return torch.where(dropped, torch.full_like(label, self.context.num_classes), label)

    def denoiser_parameters(self) -> list[torch.nn.Parameter]:
        """Parameters of the network that samples, whichever stage trains them: what model.match_params compares. By
        default those of the last stage.
        """
        return self.trained_parameters()

    def start_from(self, state: Mapping[str, Tensor]) -> Start:
        """Fill the network from a state dict by name and shape; everything else stays. Raises CheckpointError, having
        changed nothing, where not one block fits.
        """
        return start_from(self.network, state)

    def first_stage(self) -> Codec | None:
        """A first stage of the method's own as clip -> clip, for its reconstruction scores; None where it has none."""
        return None

    def evaluations(self, sampling: SamplingConfig) -> int:
        """Network evaluations for one clip of F frames, not counting that guidance doubles them."""
        return sampling.num_steps

    def perceptual_score(self, before: Tensor, after: Tensor) -> Tensor | None:
        """LPIPS of each clip (B,), mean over its frames, where the method was given its weights; else None."""
        return None

    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Clips float32 (n, F', 3, H, W) in [-1, 1], one seed and (in a class suite) one class index (n,) a clip.

        Clip k depends on seeds[k], classes[k] and condition[k] only, not on its neighbours. F' is F times
        sampling.num_clips_chained. condition, float32 (n, F, 3, H, W) in [-1, 1], is a real clip: what of it is given
        is sampling.task's to say. Raises ValueError for a task, chain or condition that the method does not have.
        """
        raise NotImplementedError("a method defines sample")

    @property
    def name(self) -> str:
        """The name of the folder that the method lies in."""
        return type(self).__module__.split(".")[-2]

    def tasks_beside(self, sampling: SamplingConfig) -> tuple[str, ...]:
        """`scored_tasks` of a run that samples so: none where it is not one clip from noise alone."""
        plain = sampling.task == GENERATION and sampling.num_clips_chained == 1
        return self.scored_tasks if plain else ()

    def check_task(self, sampling: SamplingConfig) -> None:
        """Raise ValueError for a task or chain that the method lacks; called before training and before sampling."""
        if sampling.task not in self.tasks:
            raise ValueError(f"sampling.task: got {sampling.task!r}, allowed for {self.name}: {', '.join(self.tasks)}")
        if sampling.num_clips_chained != 1:
            raise ValueError(f"sampling.num_clips_chained: got {sampling.num_clips_chained}, {self.name} makes 1 clip")

    def check_generation(self, sampling: SamplingConfig, condition: Tensor | None) -> None:
        """Raise ValueError for anything but one clip from noise alone: what a plain method's `sample` calls first."""
        self.check_task(sampling)
        if condition is not None:
            others = [task for task in self.tasks if task not in FROM_NOISE]
            choose = f", or choose sampling.task (--task) among {', '.join(others)}" if others else ""
            raise ValueError(f"{self.name}: {sampling.task} is from noise alone; leave the condition out{choose}")

    def check_request(self, seeds: Sequence[int], sampling: SamplingConfig, condition: Tensor | None) -> None:
        """Raise ValueError for a task, chain or condition that the method lacks: what the `sample` of a method that
        generates, continues or completes clips calls first.
        """
        needed = {CONTINUATION: "before the first of each seed", INTERPOLATION: "whose frames each seed is given"}
        if sampling.task not in needed:
            return self.check_generation(sampling, condition)
        self.check_task(sampling)
        if condition is None:
            raise ValueError(f"sampling.task={sampling.task} needs the real clip {needed[sampling.task]}, got none")
        c = self.context
        check(condition, "B F 3 H W", "condition", B=len(seeds), F=c.num_frames, H=c.resolution, W=c.resolution)

    def check_batch(self, batch: dict[str, Tensor]) -> None:
        """Raise ValueError unless the video has the suite's shape."""
        c = self.context
        check(batch["video"], "B F 3 H W", "video", F=c.num_frames, H=c.resolution, W=c.resolution)
