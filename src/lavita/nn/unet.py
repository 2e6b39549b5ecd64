"""Layers that the ADM-style U-Nets of several baselines share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lavita.nn.precision import GroupNorm

GROUPS = 32


def normalization(width: int) -> GroupNorm:
    """Group norm over 32 groups, in float32."""
    return GroupNorm(GROUPS, width)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters zero, so that its branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of length one on the last axis, (..., D) -> (..., D')."""
    return functional.linear(x, layer.weight[..., 0], layer.bias)
