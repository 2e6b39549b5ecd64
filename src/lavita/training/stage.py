"""The contract of a method, and the base of every trained stage: a thin LightningModule.

A method lives in its own folder with `module.py`, which defines
    Config   a frozen dataclass: the `model:` section of its YAML, read by lavita.config.schema.read
    Method   a VideoMethod (most often a LatentDiffusion), built as Method(context, config)
Imports inside a method's folder are relative (`from .model import DiT`), so that a folder works wherever it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import lightning
import torch
from torch import Tensor

from lavita.config.schema import TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.training.distributed import shard


@dataclass(frozen=True)
class StagePlan:
    """One trained stage: its name, its share of the method's own compute budget (shares sum to 1) and its module."""

    name: str
    share: float
    module: TrainedStage


class TrainedStage(lightning.LightningModule):
    """A module that one Trainer run optimises. Subclasses define `loss`; everything else is the same for all.

    Batches are {"video": float32 (B, F, 3, H, W) in [-1, 1], "label": int64 (B,), -1 where there is no class,
    "clip_index": int64 (B,), counted over the run}; with joint_images = n also {"images": (B, n, 3, H, W),
    "image_labels": int64 (B, n)}, single frames drawn from the whole training split; with context_frames = P also
    {"context_frames": (B, P, 3, H, W)}, the frames before the clip at the same interval. A stage that reads_latents may
    be given the posterior moments of the suite's autoencoder in place of pixels: "moments" (B, F, 2 C, h, w) and
    "image_moments".
    """

    stage_name = "train"
    uses_ema = True  # False for a stage whose authors keep the last weights
    joint_images = 0
    context_frames = 0
    reads_latents = False
    # Updates that alternate, e.g. 2 for a generator and its discriminator: clip k of the run belongs to update
    # k // batch modulo this number.
    alternating_updates = 1
    clip_cost = Fraction(1)  # of the budget, for one clip of a batch with all frames that come with it

    def __init__(self, train: TrainConfig, seed: int) -> None:
        super().__init__()
        self.train_config = train
        self.seed = seed
        self.num_clips_seen = 0

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        """Parts of the loss of each clip, float32 (B,); "loss" is the one that is minimised."""
        raise NotImplementedError("a stage defines loss")

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
        rng = SampleRNG.for_training(self.seed, self.stage_name, batch["clip_index"], self.device)
        return {key: value.mean() for key, value in self.loss(batch, rng).items()}

    @torch.no_grad()
    def heldout_loss(self, batch: dict[str, Tensor]) -> float:
        """Mean loss of a fixed held-out batch at fixed diffusion times and noise: comparable over a whole run."""
        indices = torch.arange(len(batch["clip_index"]))
        rng = SampleRNG.for_training(0, "heldout", indices, self.device)
        was_training = self.training
        self.eval()
        value = float(self.loss(batch, rng)["loss"].mean())
        self.train(was_training)
        return value

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Parameters that this stage optimises; by default all that need a gradient."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_model(self) -> None:
        """Called by the trainer: cuts the stage into shards where the strategy wants that."""
        if self._device_mesh is not None:
            shard(self, self._device_mesh["data_parallel"])

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.train_config
        optimiser = torch.optim.AdamW(
            self.trained_parameters(), lr=c.learning_rate, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay
        )
        steps = c.warmup_clips / c.batch_clips
        ramp = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / max(steps, 1)))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        c = self.train_config
        if c.grad_clip_norm is not None and self.num_clips_seen >= c.grad_clip_start_clips:
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), c.grad_clip_norm)
