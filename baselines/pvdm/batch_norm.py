"""Batch norm whose statistics are those of all clips of a pass, also where several processes have a part of it each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavita.train import ranks


class SharedStatistics:
    """Mixed into a batch norm: while `shared` is set, training takes mean and variance over all processes.

    Plain batch norm otherwise, with its state-dict keys; torch's own SyncBatchNorm runs on GPUs only. Mean first, then
    deviations from it: two sums, neither of which loses digits as a difference of squares does.
    Source: Ioffe & Szegedy 2015, algorithm 1.
    """

    shared = False

    def forward(self, x: Tensor) -> Tensor:
        if not (self.shared and self.training and ranks.world() > 1):
            return super().forward(x)
        axes = [0, *range(2, x.ndim)]  # x (B, C, ...)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * ranks.world()
        mean = ranks.total(values.mean(axes, keepdim=True)) / ranks.world()  # (1, C, 1, ...)
        centred = values - mean  # (B, C, ...)
        variance = ranks.total(centred.square().mean(axes, keepdim=True)) / ranks.world()  # (1, C, 1, ...)
        self.remember(mean.flatten(), variance.flatten() * count / max(count - 1, 1))
        scale = (self.weight.view_as(mean) * (variance + self.eps).rsqrt()).to(x.dtype)
        return centred.to(x.dtype) * scale + self.bias.view_as(mean).to(x.dtype)  # (B, C, ...)

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, (C,) each, as torch does."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class BatchNorm2d(SharedStatistics, nn.BatchNorm2d):
    """Of frames (B, C, H, W)."""


class BatchNorm3d(SharedStatistics, nn.BatchNorm3d):
    """Of clips (B, C, F, H, W)."""


def share_statistics(module: nn.Module, shared: bool) -> None:
    """Set whether the batch norms of a network are over all processes: only while all of them train it together."""
    for layer in module.modules():
        if isinstance(layer, SharedStatistics):
            layer.shared = shared
