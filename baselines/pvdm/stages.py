"""Training of PVDM's first stage: reconstruction, then the adversarial phase; the budget is the switch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lavita.config import TrainConfig
from lavita.diffusion.draws import ClipDraws
from lavita.train.module import TrainedStage

from .autoencoder import TriplaneAutoencoder
from .batch_norm import share_statistics
from .losses import TURNS, Adversary, discriminators_turn, reconstruction_loss


def first_stage_training(train: TrainConfig, beta1: float, beta2: float, batch_clips: int | None) -> TrainConfig:
    """The suite's training setting with the autoencoder's own moments and, where given, batch."""
    return replace(train, beta1=beta1, beta2=beta2, batch_clips=batch_clips or train.batch_clips)


class ReconstructionStage(TrainedStage):
    """Pixel and perceptual loss. The authors keep the last weights of the autoencoder, not their average.

    Source: PVDM, section 3.1; github.com/sihyun-yu/PVDM at 793172f, exps/first_stage.py.
    """

    stage_name = "autoencoder"
    uses_ema = False

    def __init__(self, train: TrainConfig, seed: int, autoencoder: TriplaneAutoencoder, perceptual: nn.Module) -> None:
        super().__init__(train, seed)
        self.autoencoder = autoencoder
        self.perceptual = perceptual

    def loss(self, batch: dict[str, Tensor], draws: ClipDraws) -> dict[str, Tensor]:
        video = batch["video"]  # (B, F, 3, H, W)
        index = draws.integers(video.shape[1])  # (B,)
        return reconstruction_loss(video, self.autoencoder(video), index, self.perceptual)

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(self.autoencoder.parameters())


class AdversarialStage(ReconstructionStage):
    """The same with two discriminators; they and the autoencoder are updated in turn, batch by batch.

    A parameter whose turn it is not has no gradient, so the one AdamW passes it over, moments and decay too.
    """

    stage_name = "autoencoder-gan"
    turns = TURNS

    def __init__(
        self,
        train: TrainConfig,
        seed: int,
        autoencoder: TriplaneAutoencoder,
        perceptual: nn.Module,
        adversary: Adversary,
    ) -> None:
        super().__init__(train, seed, autoencoder, perceptual)
        self.adversary = adversary

    def loss(self, batch: dict[str, Tensor], draws: ClipDraws) -> dict[str, Tensor]:
        video = batch["video"]  # (B, F, 3, H, W)
        index = draws.integers(video.shape[1])  # (B,)
        # The turn follows from the clips' running number, so a resumed run goes on with the right one.
        if discriminators_turn(int(batch["clip_index"][0]) // self.train_config.batch_clips):
            with torch.no_grad():
                rebuilt = self.autoencoder(video)  # (B, F, 3, H, W)
            value = self.adversary.discriminator_loss(video, rebuilt, index)  # (B,)
            return {"loss": value, "discriminator": value}
        rebuilt = self.autoencoder(video)  # (B, F, 3, H, W)
        parts = reconstruction_loss(video, rebuilt, index, self.perceptual)
        parts |= self.adversary.autoencoder_loss(video, rebuilt, index)
        return parts | {"loss": parts["loss"] + parts["adversarial"] + parts["features"]}

    @torch.no_grad()
    def heldout_loss(self, batch: dict[str, Tensor]) -> float:
        """The loss of the stage before, so that the two phases can be compared."""
        draws = ClipDraws.for_training(0, "heldout", torch.arange(len(batch["video"])), self.device)
        return float(super().loss(batch, draws)["loss"].mean())

    def on_train_start(self) -> None:
        share_statistics(self.adversary, True)

    def on_train_end(self) -> None:
        share_statistics(self.adversary, False)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.autoencoder.parameters(), *self.adversary.parameters()]

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Each discriminator is clipped to norm 1 as published; then the suite's rule, where there is one."""
        self.adversary.clip_gradients()
        super().configure_gradient_clipping(optimizer)
