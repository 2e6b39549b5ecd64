"""Formula weights: every parameter of a network gets values that follow from its official name and shape."""

from __future__ import annotations

import math

import torch
from torch import nn

from lavita.parity.case import Case, z


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The value that the cases give to the parameter or running statistic `name`, float32."""
    values = torch.from_numpy(z(name, shape))
    if name.endswith("running_mean"):
        return 0.1 * values
    if name.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    if len(shape) == 1 and name.endswith(".weight"):
        return 1 + 0.1 * values
    if len(shape) <= 1:
        return 0.05 * values
    return values * min(0.08, 1 / math.sqrt(math.prod(shape[1:])))


@torch.no_grad()
def fill_by_formula(network: nn.Module) -> None:
    """Give every trainable parameter its formula weight, named as in the network's own state dict.

    Fixed tables keep their values. From these weights, unlike a zero-initialised start, every layer matters.
    """
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weight(name, tuple(parameter.shape)))


@torch.no_grad()
def fill_from_case(network: nn.Module, case: Case) -> None:
    """Give a network of the case's shapes the case's weights: all keys that are neither fixed nor tied."""
    state = network.state_dict()
    kept = set(case.get("fixed")) | set(case.data.get("tied", {}))
    for name, shape in case.get("state_dict").items():
        if name not in kept and state[name].is_floating_point():
            state[name].copy_(weight(name, tuple(shape)))
