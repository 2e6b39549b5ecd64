"""One contestant of the model benchmark: a network and its training step on a fixed batch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lavita.diffusion.draws import ClipDraws
from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.schedule import Schedule
from lavita.models.lavita import LavitaShape


@dataclass(frozen=True)
class Batch:
    """Latents and noise, float32 (B, F, C, H, W), and diffusion times, int64 (B,); the same for every contestant."""

    x0: Tensor
    t: Tensor
    noise: Tensor

    @classmethod
    def drawn(cls, shape: LavitaShape, size: int, device: torch.device) -> Batch:
        """Normal latents and noise and uniform times, from the seeds 0 to size - 1."""
        draws, clip = ClipDraws(range(size), device), (shape.num_frames, shape.channels, shape.side, shape.side)
        return cls(draws.normal(clip), draws.integers(1000), draws.normal(clip))


class TrainingStep:
    """Calling it makes one update: forward, hybrid loss, backward, AdamW.

    precision is 32-true, or bf16-mixed: parameters stay float32 and matrix products run in bfloat16.
    """

    def __init__(self, network: nn.Module, batch: Batch, precision: str = "32-true") -> None:
        self.network, self.batch, self.precision = network, batch, precision
        self.schedule = Schedule.linear()
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)

    def loss(self) -> Tensor:
        """The mean loss of the batch, a scalar."""
        batch, kind = self.batch, self.batch.x0.device.type
        mixed = torch.autocast(kind, torch.bfloat16) if self.precision == "bf16-mixed" else contextlib.nullcontext()
        with mixed:
            x_t = self.schedule.add_noise(batch.x0, batch.t, batch.noise)
            eps, v = self.network(x_t, batch.t).chunk(2, dim=2)
            return hybrid_loss(self.schedule, batch.x0, batch.t, batch.noise, eps, v)["loss"].mean()

    def __call__(self) -> None:
        self.loss().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def output(self) -> Tensor:
        """What the network makes of the batch in float32, (B, F, 2C, H, W)."""
        return self.network(self.batch.x0, self.batch.t)


def difference(ours: Tensor, other: Tensor) -> float:
    """Largest difference of two outputs, relative to the largest value of ours."""
    return float((ours - other).abs().max() / ours.abs().max())
