"""The figures of all transformer cases: a forward pass, the IDDPM loss of each clip, its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.schedule import Schedule
from lavita.parity.case import Case


def tensor(case: Case, key: str) -> Tensor:
    """An input that is a plain z call, or a list of integers, as a tensor."""
    value = case.get("inputs", key)
    return torch.tensor(value) if isinstance(value, list) else torch.from_numpy(case.array(key))


def hybrid_figures(network: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Outputs "y" (of x itself), "loss", "mse" and "vb" (of x noised); the mean loss is backpropagated.

    network maps x (B, F, C, H, W) to noise and variance (B, F, 2C, H, W); t is (B,).
    """
    schedule = Schedule.linear()
    with torch.no_grad():
        y = network(x)
    eps, v = network(schedule.add_noise(x, t, noise)).chunk(2, dim=2)
    parts = hybrid_loss(schedule, x, t, noise, eps, v)
    parts["loss"].mean().backward()
    return {"y": y, **parts}
