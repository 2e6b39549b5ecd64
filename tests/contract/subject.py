"""What a check is given: how to build the method at the size of tier demo, and batches to feed it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from lavita.config.compose import Experiment, compose, load_method, load_suite, read_experiment
from lavita.config.registry import names_in
from lavita.config.schema import SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, empty_codec
from lavita.training.stage import TrainedStage

NUM_CLASSES = 5
STEPS = "3"
SHAKE = 0.03  # about the spread of weights at their start, so that what starts at zero has a say


@dataclass(frozen=True)
class Subject:
    """A method under check. build(seed) makes it anew at the starting weights of a training seed."""

    experiment: Experiment
    build: Callable[[int], VideoMethod]

    @property
    def sampling(self) -> SamplingConfig:
        """The run's sampling in few steps."""
        return replace(self.experiment.sampling, steps=STEPS)

    def shaken(self, seed: int = 0) -> VideoMethod:
        """The method after a small random change of every weight: none is zero, nothing is hidden behind a gate."""
        method, generator = self.build(seed), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for stage in method.stages():
                for parameter in stage.module.trained_parameters():
                    parameter += SHAKE * torch.randn(parameter.shape, generator=generator)
        return method

    def classes(self, count: int) -> Tensor | None:
        """Class of each of `count` clips, int64 (count,), or None in an unconditional suite."""
        return torch.arange(count) % NUM_CLASSES if self.experiment.conditioning == "class" else None

    def clips(self, method: VideoMethod, seeds: list[int]) -> Tensor:
        """Clips of these seeds, clip k of class seeds[k] modulo the number of classes: float32 (n, F, 3, H, W)."""
        classes = None if self.experiment.conditioning == "none" else torch.tensor(seeds) % NUM_CLASSES
        return method.eval().sample(seeds, classes, self.sampling)


suite_named = cache(load_suite)  # files of the repository, read by every check of every method


def suites_of(name: str) -> list[str]:
    """The suites of data sets that a method takes part in."""
    taken = load_method(name).suites
    return [s for s in names_in("suites") if suite_named(s).rows is None and ("all" in taken or s in taken)]


def experiment_of(name: str, suite_name: str, tier: str) -> Experiment:
    """The configuration of a method in a suite at a tier, without overrides. Raises ConfigError."""
    suite, method = suite_named(suite_name), load_method(name)
    return read_experiment(suite, tier, method, "", 0, compose(suite, tier, method, True))


def subject_of(name: str, conditioning: str) -> Subject | None:
    """A method in the first of its suites with this conditioning, at tier demo; None where it is in no such suite."""
    for suite in suites_of(name):
        if suite_named(suite).conditioning == conditioning:
            experiment = experiment_of(name, suite, "demo")
            return Subject(experiment, partial(build_with_seed, experiment))
    return None


def build_with_seed(experiment: Experiment, seed: int) -> VideoMethod:
    """The method of a run with another training seed, on an autoencoder of random weights."""
    return build_method(replace(experiment, seed=seed), NUM_CLASSES, empty_codec(experiment.codec))


def batch_of(subject: Subject, stage: TrainedStage, size: int, start: int = 0) -> dict[str, Tensor]:
    """A batch as training hands it to a stage, with all that the stage asks for; smooth noise for video."""
    generator = torch.Generator().manual_seed(start)
    frames, side = subject.experiment.data.frames, subject.experiment.data.resolution

    def video(count: int) -> Tensor:
        coarse = torch.randn(size * count, 3, 4, 4, generator=generator)
        return torch.nn.functional.interpolate(coarse, side, mode="bilinear").tanh().unflatten(0, (size, count))

    classes = subject.classes(size)
    label = torch.full((size,), -1) if classes is None else classes
    batch = {"video": video(frames), "label": label, "clip_index": start + torch.arange(size)}
    if stage.joint_images:
        images = {"images": video(stage.joint_images), "image_labels": label[:, None].expand(-1, stage.joint_images)}
        batch |= images
    return batch | ({"context_frames": video(stage.context_frames)} if stage.context_frames else {})


def draws_of(batch: dict[str, Tensor]) -> SampleRNG:
    """The draws of a batch in training."""
    return SampleRNG.for_training(0, "contract", batch["clip_index"], "cpu")
