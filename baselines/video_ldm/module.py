"""Video LDM as a method of the suite: whole clips, clips that go on from others, or what lies between frames."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lavita.config.schema import CONTINUATION, FRAMES, GENERATION, ConfigError, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext

from .base import GuidedNetwork, VideoLDM
from .given_frames import context_guided, first_frames
from .interpolation import Interpolation
from .losses import noise_loss
from .stages import Config


class Method(VideoLDM):
    """Clips at once, one diffusion time a clip; with `given_frames` also clips that go on from others."""

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        if config.context >= context.num_frames:
            raise ConfigError(
                f"model.given_frames: got {list(config.given_frames)}, wanted fewer than the {context.num_frames} "
                "frames of a clip"
            )
        if config.given_frames:
            alone = (GENERATION,) if 0 in config.given_frames else ()
            self.tasks = (*alone, CONTINUATION, *self.scored_tasks)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        x0 = self.clip_latent(batch, rng)  # (B, F, C, h, w)
        t = rng.integers(self.schedule.num_steps)  # (B,)
        noise = rng.normal(x0.shape[1:])  # (B, F, C, h, w)
        labels, given = self.labels(batch["label"], rng), None  # (B,) or None
        if self.config.given_frames:
            counts = torch.tensor(self.config.given_frames).to(x0.device, non_blocking=True)
            given = first_frames(x0, counts[rng.integers(len(counts))])  # (B, F, C + 1, h, w)
        predicted = self.network(self.schedule.add_noise(x0, t, noise), t, labels, given)
        return {"loss": noise_loss(predicted, noise)}

    def latents(self, labels: Tensor | None, sampling: SamplingConfig, rng: SampleRNG, real: Tensor | None) -> Tensor:
        context, frames = self.config.context, self.context.num_frames
        known = None if real is None else self.codec.encode(real[:, -context:], rng)  # (n, k, C, h, w)
        parts: list[Tensor] = []
        for _ in range(self.clips_of(sampling)):
            clip = self.clip_after(known, labels, sampling, rng)  # (n, F, C, h, w)
            parts.append(clip if known is None else clip[:, context:])
            known = clip[:, frames - context :] if context else None
        return torch.cat(parts, dim=1)[:, : frames * sampling.num_clips_chained]

    def clip_after(
        self, known: Tensor | None, labels: Tensor | None, sampling: SamplingConfig, rng: SampleRNG
    ) -> Tensor:
        """Latents (n, F, C, h, w) of clips that begin with known frames (n, k, C, h, w), where there are any."""
        network: GuidedNetwork = self.network
        if self.config.given_frames:
            n, k = (len(rng), 0) if known is None else known.shape[:2]
            z = torch.zeros(n, *self.latent_shape, device=self.device)
            if known is not None:
                z[:, :k] = known
            given = first_frames(z, torch.full((n,), k, device=self.device))  # (n, F, C + 1, h, w)
            network = context_guided(self.network, given, self.config.context_guidance)
        return self.from_noise(network, labels, sampling, rng)

    def clips_of(self, sampling: SamplingConfig) -> int:
        """Clips that are generated for what is asked: F frames of one that is given none, F - k of others."""
        frames, new = self.context.num_frames, self.context.num_frames - self.config.context
        total = frames * sampling.num_clips_chained
        return math.ceil(total / new) if sampling.task == CONTINUATION else 1 + math.ceil((total - frames) / new)

    def evaluations(self, sampling: SamplingConfig) -> int:
        return self.clips_of(replace(sampling, num_clips_chained=1)) * sampling.num_steps

    def check_task(self, sampling: SamplingConfig) -> None:
        if self.config.context and sampling.task != FRAMES:  # a longer video goes on by its last frames
            sampling = replace(sampling, num_clips_chained=1)
        super().check_task(sampling)


def method_class(config: Config) -> type[VideoLDM]:
    """What a configuration builds."""
    return Method if config.key_stride is None else Interpolation
