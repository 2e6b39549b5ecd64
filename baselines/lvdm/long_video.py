"""LVDM for long video: one network predicts latent frames far apart, a second one fills in those between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from lavita.config.schema import CONTINUATION, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import check_guidance
from lavita.diffusion.schedule import Schedule
from lavita.methods.base import MethodContext
from lavita.methods.latent_scale import LatentScale
from lavita.training.stage import StagePlan, TrainedStage

from .autoencoder import VideoAutoencoder
from .base import LatentVideo, posterior_draw
from .diffusion import sample_latents
from .given_frames import LEVEL_ROWS, MOST_TRAINED_LEVEL, conditioned, mask_of, masked_loss
from .stages import Config, unet_config
from .unet import VideoUNet

# How often a training clip has its frames given: the first one in prediction, both ends in interpolation.
PREDICTION_GIVEN, INTERPOLATION_GIVEN = 0.5, 0.9


def build_network(context: MethodContext, config: Config, latent_shape: tuple[int, ...], length: int) -> VideoUNet:
    """A U-Net for `length` latent frames with a mask channel and a table of noise levels."""
    sizes = unet_config(context, config, latent_shape)
    changes = {"in_channels": latent_shape[0] + 1, "temporal_length": length, "num_labels": LEVEL_ROWS}
    return VideoUNet(replace(sizes, **changes))


def whole_clip(batch: dict[str, Tensor]) -> Tensor:
    """The frames before a clip and the clip, (B, P + F, 3, H, W)."""
    before = [batch["context_frames"]] if "context_frames" in batch else []
    return torch.cat([*before, batch["video"]], dim=1)


def loss_of(
    network: VideoUNet, schedule: Schedule, z: Tensor, ends: Sequence[int], probability: float, rng: SampleRNG
) -> dict[str, Tensor]:
    """The masked loss of latents z (B, C, T, h, w), of which the frames `ends` are given with a probability."""
    mask = mask_of(rng.uniform() < probability, ends, z.shape[2])  # (B, 1, T, 1, 1)
    t = rng.integers(schedule.num_steps)  # (B,)
    s = rng.integers(MOST_TRAINED_LEVEL)  # (B,)
    noise_t, noise_s = rng.normal(z.shape[1:]), rng.normal(z.shape[1:])  # (B, C, T, h, w)
    return {"loss": masked_loss(network, schedule, z, mask, t, s, noise_t, noise_s)}


class InterpolationStage(TrainedStage):
    """The latent frames between two that are given. It is the first stage on latents, and measures their scale."""

    stage_name = "interpolation"
    unchanged = ("autoencoder",)
    prepared_clips = 256

    def __init__(
        self,
        context: MethodContext,
        schedule: Schedule,
        autoencoder: VideoAutoencoder,
        latents: LatentScale,
        network: VideoUNet,
        frames: int,
    ) -> None:
        super().__init__(context.train, context.seed)
        self.schedule = schedule
        self.autoencoder, self.latents, self.network = autoencoder, latents, network
        self.context_frames = frames - context.num_frames
        self.clip_cost = Fraction(frames, context.num_frames)

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()

    def prepare(self, batches: Iterable[tuple[dict[str, Tensor], SampleRNG]]) -> None:
        self.latents.measure(posterior_draw(self.autoencoder, whole_clip(batch), rng) for batch, rng in batches)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        z = self.latents.apply_to(posterior_draw(self.autoencoder, whole_clip(batch), rng))  # (B, C, T, h, w)
        return loss_of(self.network, self.schedule, z, (0, -1), INTERPOLATION_GIVEN, rng)


class LongVideo(LatentVideo):
    """Long video: `num_keys` latent frames at a time, `key_stride` apart, then those between; trained on clips as long
    as that, whose frames before the suite's clip are charged.

    Source: He et al. 2022 (LVDM), section 3.3 (hierarchical, with conditional latent perturbation and guidance).
    """

    unchanged = ("autoencoder", "latents", "interpolation")  # as the stages before have left them

    def __init__(self, context: MethodContext, config: Config) -> None:
        super().__init__(context, config)
        if context.num_classes is not None:
            raise ValueError("model.long_video: LVDM's long pair has no classes; take a suite without them")
        frames = context.num_frames
        latent_frames = {"prediction": config.num_keys * config.key_stride, "interpolation": config.key_stride + 1}
        lengths = {name: count * config.reductions[0] for name, count in latent_frames.items()}  # in frames
        for name, length in lengths.items():
            if length < frames:
                raise ValueError(
                    f"model.num_keys, model.key_stride: a training clip of {name} has {length} frames, fewer than the "
                    f"suite's {frames}; raise them"
                )
        self.tasks = (*self.tasks, CONTINUATION)
        self.context_frames = lengths["prediction"] - frames
        self.network = build_network(context, config, self.latent_shape, config.num_keys)
        self.interpolation = build_network(context, config, self.latent_shape, config.key_stride + 1)
        self._interpolation_stage = (
            InterpolationStage(
                context, self.schedule, self.autoencoder, self.latents, self.interpolation, lengths["interpolation"]
            ),
        )

    def stages(self) -> list[StagePlan]:
        c: Config = self.config
        return [
            *self._first_stages,
            StagePlan("interpolation", c.interpolation_share, self._interpolation_stage[0]),
            StagePlan(self.stage_name, 1 - c.first_share - c.interpolation_share, self),
        ]

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    def networks(self) -> list[nn.Module]:
        return [self.network, self.interpolation]

    def recomputed(self) -> list[nn.Module]:
        return self.network.blocks_to_recompute()

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        self.check_batch(batch)
        z = self.latents.apply_to(posterior_draw(self.autoencoder, whole_clip(batch), rng))  # (B, C, K s, h, w)
        keys = z[:, :, :: self.config.key_stride]  # (B, C, K, h, w)
        return loss_of(self.network, self.schedule, keys, (0,), PREDICTION_GIVEN, rng)

    def check_task(self, sampling: SamplingConfig) -> None:
        super().check_task(replace(sampling, num_clips_chained=1))  # any number of clips

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        classes: Tensor | None,
        sampling: SamplingConfig,
        condition: Tensor | None = None,
    ) -> Tensor:
        self.check_request(seeds, sampling, condition)
        check_guidance(sampling.guidance, None, classes)
        rng, known = SampleRNG(seeds, self.device), None
        if condition is not None:
            z = posterior_draw(self.autoencoder, condition.to(self.device), rng)
            known = self.latents.apply_to(z)[:, :, -1:]  # (n, C, 1, h, w)
        frames = self.context.num_frames * sampling.num_clips_chained
        wanted = frames // self.config.reductions[0] + (0 if known is None else 1)  # latent frames, a given one too
        count = -(-(wanted - 1) // self.config.key_stride) + 1
        keys = self.predict_keys(rng, sampling, known, count)  # (n, C, count, h, w)
        return self.decode(self.fill(rng, sampling, keys)[:, :, :wanted])[:, -frames:]

    def predict_keys(self, rng: SampleRNG, sampling: SamplingConfig, known: Tensor | None, count: int) -> Tensor:
        """So many latent frames (n, C, count, h, w), each num_keys after the last that is known (n, C, 1, h, w)."""
        shape = (self.latent_shape[0], self.config.num_keys, *self.latent_shape[2:])
        while known is None or known.shape[2] < count:
            given = torch.zeros(len(rng), *shape, device=self.device)
            if known is not None:
                given[:, :, 0] = known[:, :, -1]
            made = self.draw(self.network, rng, sampling, given, () if known is None else (0,))
            known = made if known is None else torch.cat([known, made[:, :, 1:]], dim=2)
        return known[:, :, :count]

    def fill(self, rng: SampleRNG, sampling: SamplingConfig, keys: Tensor) -> Tensor:
        """Latent frames (n, C, (count - 1) stride + 1, h, w) of which every stride-th is a key (n, C, count, h, w)."""
        shape = (self.latent_shape[0], self.config.key_stride + 1, *self.latent_shape[2:])
        parts = [keys[:, :, :1]]
        for number in range(keys.shape[2] - 1):
            given = torch.zeros(len(rng), *shape, device=self.device)
            given[:, :, 0], given[:, :, -1] = keys[:, :, number], keys[:, :, number + 1]
            made = self.draw(self.interpolation, rng, sampling, given, (0, -1))
            parts += [made[:, :, 1:-1], keys[:, :, number + 1 : number + 2]]
        return torch.cat(parts, dim=2)

    def draw(
        self, network: VideoUNet, rng: SampleRNG, sampling: SamplingConfig, given: Tensor, ends: Sequence[int]
    ) -> Tensor:
        """Latents (n, C, T, h, w) from noise, of which the frames `ends` are those of given."""
        every = torch.ones(len(given), dtype=torch.bool, device=given.device)
        mask = mask_of(every, ends, given.shape[2])
        noise: Callable[[], Tensor] = lambda: rng.normal(given.shape[1:])  # noqa: E731
        # Without a given frame there is nothing to be led away from.
        guidance = self.config.frame_guidance if ends else 0.0
        put, predict = conditioned(network, self.schedule, given, mask, noise(), guidance)
        bound = self.latents.bound if sampling.clip_denoised else None
        return sample_latents(
            predict, self.schedule, noise, sampling.sampler, sampling.steps, sampling.eta, bound, put=put
        )
