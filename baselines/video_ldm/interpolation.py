"""Temporal interpolation: the network is given two frames, key_stride apart, and makes those between them.

A clip is cut into stretches of key_stride + 1 frames, each of which begins with the last frame of the one before.
Source: Blattmann et al. 2023 (Align your Latents), section 3.3: the masks of prediction with the middle frames unknown,
three of them between two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavita.config.schema import FRAMES, INTERPOLATION, ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext

from .base import VideoLDM
from .given_frames import context_guided, end_frames
from .losses import noise_loss
from .stages import Config, draws_per_example


class Interpolation(VideoLDM):
    """An interpolation model: of a clip, every key_stride-th frame and the last one are given, the others are made.

    Every stretch of a clip is a training example. It generates nothing from noise alone but frames by themselves.
    """

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        frames, stride = context.num_frames, config.key_stride
        if stride is None or stride >= frames:
            raise ConfigError(
                f"model.key_stride: got {stride}, wanted less than the {frames} frames of a clip, which holds both ends"
            )
        self.stride = stride
        self.tasks = (INTERPOLATION, *self.scored_tasks)
        self.examples_per_clip = (frames - 1) // stride

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        z, n, labels = self.clip_latent(batch, rng), self.examples_per_clip, None  # (B, F, C, h, w)
        start = rng.integers(z.shape[1] - n * self.stride)  # (B,)
        x0 = stretches(z, start, self.stride, n).flatten(0, 1)  # (B n, s + 1, C, h, w)
        t = draws_per_example(n, lambda: rng.integers(self.schedule.num_steps))  # (B n,)
        noise = rng.normal((n, *x0.shape[1:])).flatten(0, 1)  # (B n, s + 1, C, h, w)
        if self.context.num_classes is not None:
            labels = draws_per_example(n, lambda: self.labels(batch["label"], rng))  # (B n,)
        predicted = self.network(self.schedule.add_noise(x0, t, noise), t, labels, end_frames(x0))
        return {"loss": noise_loss(predicted, noise).unflatten(0, (-1, n)).mean(dim=1)}

    def latents(self, labels: Tensor | None, sampling: SamplingConfig, rng: SampleRNG, real: Tensor | None) -> Tensor:
        """Stretch by stretch; the last one ends with the clip, and begins with a frame that may have been made."""
        assert real is not None  # check_request has seen to it
        stride, frames = self.stride, self.context.num_frames
        places = key_places(frames, stride)
        z = torch.zeros(len(rng), *self.latent_shape, device=self.device)
        z[:, places] = self.codec.encode(real[:, places], rng)
        for first in stretch_starts(frames, stride):
            given = end_frames(z[:, first : first + stride + 1])  # (n, s + 1, C + 1, h, w)
            network = context_guided(self.network, given, self.config.context_guidance)
            made = self.from_noise(network, labels, sampling, rng, stride + 1)
            known = places[-2] if first + stride == frames - 1 else first  # all frames up to it are there
            z[:, known + 1 : first + stride] = made[:, known + 1 - first : -1]
        return z

    def evaluations(self, sampling: SamplingConfig) -> int:
        """Those of stretches; frames by themselves take as many of a whole clip."""
        count = 1 if sampling.task == FRAMES else len(stretch_starts(self.context.num_frames, self.stride))
        return count * sampling.num_steps


def key_places(frames: int, stride: int) -> list[int]:
    """The frames of a clip that are given: every stride-th from the first on, and the last."""
    return [*range(0, frames - 1, stride), frames - 1]


def stretch_starts(frames: int, stride: int) -> list[int]:
    """The first frame of every stretch of stride + 1 frames; the last stretch ends with the clip."""
    return [*range(0, frames - 1 - stride, stride), frames - 1 - stride]


def stretches(z: Tensor, start: Tensor, stride: int, count: int) -> Tensor:
    """So many stretches (B, count, stride + 1, C, h, w) of latents z (B, F, C, h, w), from frame start, int64 (B,), on;
    each begins with the last frame of the one before.
    """
    place = torch.arange(count, device=z.device)[:, None] * stride + torch.arange(stride + 1, device=z.device)
    clip = torch.arange(len(z), device=z.device)[:, None, None]
    return z[clip, start[:, None, None] + place]
