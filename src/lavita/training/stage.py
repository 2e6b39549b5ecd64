"""The contract of a method, and the base of every trained stage: a thin LightningModule.

A method lives in its own folder with `module.py`, which defines
    Config   a frozen dataclass: the `model:` section of its YAML, read by lavita.config.schema.read
    Method   a VideoMethod (most often a LatentDiffusion), built as Method(context, config)
Imports inside a method's folder are relative (`from .model import DiT`), so that a folder works wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import lightning
import torch
from torch import Tensor

from lavita.config.schema import TrainConfig
from lavita.data.clips import normalised
from lavita.diffusion.rng import Request, SampleRNG
from lavita.nn.precision import called_networks
from lavita.shapes import slices
from lavita.training.distributed import blocks_of, shard

HELDOUT_PIXELS = 8 * 16 * 256 * 256  # of clips that go through a stage at a time for a held-out loss: 8 of tier paper

DRAWN = "drawn"  # the key of a batch under which random numbers come


@dataclass(frozen=True)
class StagePlan:
    """One trained stage: its name, its share of the method's own compute budget (shares sum to 1) and its module."""

    name: str
    share: float
    module: TrainedStage


class TrainedStage(lightning.LightningModule):
    """A module that one Trainer run optimises. Subclasses define `loss`; everything else is the same for all.

    `loss` gets {"video": float32 (B, F, 3, H, W) in [-1, 1], "label": int64 (B,), -1 where there is no class,
    "clip_index": int64 (B,), counted over the run}; with joint_images = n also {"images": (B, n, 3, H, W),
    "image_labels": int64 (B, n)}, single frames drawn from the whole training split; with context_frames = P also
    {"context_frames": (B, P, 3, H, W)}, the frames before the clip at the same interval. A stage that reads_latents may
    be given the posterior moments of the suite's autoencoder in place of pixels: "moments" (B, F, 2 C, h, w),
    "image_moments".
    All lie on the stage's device but clip_index, which stays on the host: reading it there makes nobody wait.

    The loader's batches hold pixels as uint8, 0 to 255, of which training_step makes those numbers on the device, and
    may hold the step's random numbers (lavita.training.ahead).
    """

    stage_name = "train"
    uses_ema = True  # False for a stage whose authors keep the last weights
    joint_images = 0
    context_frames = 0
    reads_latents = False
    # Updates that alternate, e.g. 2 for a generator and its discriminator: clip k of the run belongs to update
    # k // batch modulo this number.
    alternating_updates = 1
    # Whether these updates are made on the same clips, one after the other: each then counts a part of a clip
    # (clip_cost = 1 / alternating_updates), and a clip has a number of its own in each of them. Where only some of them
    # share a batch, batch_of_update says which they get.
    same_clips = False
    # Names of submodules that the stage uses as they are, such as a frozen autoencoder: its checkpoints leave them out.
    unchanged: tuple[str, ...] = ()
    batch_statistics = False  # whether the loss takes statistics over a pass, so that its size is more than memory
    draw_requests: tuple[Request, ...] = ()  # what the loader's batches hold under DRAWN
    clip_cost = Fraction(1)  # of the budget, for one clip of a batch with all frames that come with it
    # Clips that `prepare` reads, the first that the stage will be trained on: their FLOPs and seconds are the stage's,
    # and since it sees them again, they are no clips of the budget.
    prepared_clips = 0

    def __init__(self, train: TrainConfig, seed: int) -> None:
        super().__init__()
        self.train_config = train
        self.seed = seed
        self.num_clips_seen = 0
        self.strict_loading = False  # what is unchanged is in no checkpoint; `fit_stage` compares the other names

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        """Parts of the loss of each clip, float32 (B,); "loss" is the one that is minimised."""
        raise NotImplementedError("a stage defines loss")

    def prepare(self, batches: Iterable[tuple[dict[str, Tensor], SampleRNG]]) -> None:
        """Measure statistics of training clips, such as the scale of their latents, and keep them in buffers.

        Called once, before the first step; a stage that is resumed has them from its checkpoint. Each batch comes as
        `loss` gets it, and where several processes train together, each has its part of the clips
        (lavita.training.distributed adds sums up).
        """
        raise NotImplementedError("a stage with prepared_clips defines prepare")

    def training_step(self, batch: dict[str, Any], batch_index: int) -> dict[str, Tensor]:
        drawn = zip(self.draw_requests, batch.get(DRAWN, ()), strict=False)
        rng = SampleRNG.for_training(self.seed, self.stage_name, batch["clip_index"], self.device, drawn)
        return {key: value.mean() for key, value in self.loss(inputs_of(batch), rng).items()}

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, index: int) -> dict[str, Any]:
        others = {key: value for key, value in batch.items() if key != "clip_index"}
        return super().transfer_batch_to_device(others, device, index) | {"clip_index": batch["clip_index"]}

    @property
    def batch_of_update(self) -> tuple[int, ...]:
        """Of the updates of a stage with same_clips, in turn, the number of the batch that each is made on, from 0."""
        return (0,) * self.alternating_updates

    @torch.no_grad()
    def heldout_loss(self, batch: dict[str, Tensor]) -> float:
        """Mean loss of a fixed held-out batch at fixed diffusion times and noise: comparable over a whole run.

        The clips, wherever they lie, go through the stage a few at a time, each with its own draws.
        """
        clips = len(batch["clip_index"])
        pixels = sum(v.shape[1] * v.shape[3] * v.shape[4] for v in batch.values() if v.ndim == 5)  # of a clip
        was_training = self.training
        self.eval()
        losses = []
        for part in slices(clips, max(pixels, 1), HELDOUT_PIXELS):
            rng = SampleRNG.for_training(0, "heldout", torch.arange(clips)[part], self.device)
            own = {key: value[part].to("cpu" if key == "clip_index" else self.device) for key, value in batch.items()}
            losses.append(self.heldout_losses(own, rng).float())
        self.train(was_training)
        return float(torch.cat(losses).mean())

    def heldout_losses(self, batch: dict[str, Tensor], rng: SampleRNG) -> Tensor:
        """The loss of each held-out clip, (B,), by default the one that is minimised."""
        return self.loss(batch, rng)["loss"]

    def update_shares(self) -> dict[int, int]:
        """The kinds of updates that a stage makes: the number of one of each kind, counted over the run from 0, and how
        often that kind falls. FLOPs are their mean, memory is the largest of theirs. By default the alternating
        updates, equally often; a regulariser that falls in every k-th of them makes a kind of its own.
        """
        return dict.fromkeys(range(self.alternating_updates), 1)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Parameters that this stage optimises; by default all that need a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def recomputed(self) -> list[torch.nn.Module]:
        """Modules that compute.checkpoint_activations runs again in the backward pass: by default the blocks of every
        ModuleList named `blocks`; none in a network without such a list.
        """
        return blocks_of(self)

    def networks(self) -> list[torch.nn.Module]:
        """What runs in bfloat16 where compute.precision or sampling.precision says so, each whenever it is called: by
        default the outermost modules that hold trained parameters. `loss` and `sample` need not know.
        """
        return called_networks(self, set(self.trained_parameters()))

    def configure_model(self) -> None:
        """Called by the trainer: cuts the stage into shards where the strategy wants that."""
        if self._device_mesh is not None:
            shard(self, self._device_mesh["data_parallel"])

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.train_config
        parameters = self.trained_parameters()
        fused = fuses({parameter.device.type for parameter in parameters})
        optimiser = torch.optim.AdamW(
            parameters, lr=c.learning_rate, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay, fused=fused
        )
        steps = c.warmup_clips / c.batch_clips
        ramp = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / max(steps, 1)))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """An update, after which no gradient takes memory until the next backward pass."""
        super().optimizer_step(epoch, batch, optimizer, optimizer_closure)
        optimizer.zero_grad(set_to_none=True)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        c = self.train_config
        if c.grad_clip_norm is not None and self.num_clips_seen >= c.grad_clip_start_clips:
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), c.grad_clip_norm)


@contextmanager
def others_frozen(module: TrainedStage) -> Iterator[None]:
    """Inside, parameters of a stage that it does not train need no gradient: the backward pass leaves it out, and DDP
    does not wait for it.
    """
    trained = {id(parameter) for parameter in module.trained_parameters()}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in trained]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def inputs_of(batch: dict[str, Any]) -> dict[str, Tensor]:
    """What a loss reads of a loader's batch: pixels as float32 in [-1, 1], no random numbers."""
    read = {key: value for key, value in batch.items() if key != DRAWN}
    return {key: normalised(value) if value.dtype == torch.uint8 else value for key, value in read.items()}


def fuses(devices: set[str]) -> bool | None:
    """AdamW's `fused` for weights on these kinds of device: one kernel for all of them on a GPU. Elsewhere torch's own
    choice, whose numbers the recorded figures hold."""
    return True if devices == {"cuda"} else None
