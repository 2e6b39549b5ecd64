"""This process among those that train together, by torch's usual variables (RANK, WORLD_SIZE, LOCAL_RANK); without
them it is alone, and everything here is a no-op.
"""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

# The others wait while the first one scores and writes; who dies closes its connections, which is noticed at once.
TIMEOUT = timedelta(hours=24)


def world() -> int:
    """Processes that train together, on all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them, 0 to world() - 1."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def local_rank() -> int:
    """Its number on its node: the device that is its own."""
    return int(os.environ["LOCAL_RANK"]) if world() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and reports."""
    return rank() == 0


def start_group() -> None:
    """Join the others, once a process; NCCL where there are GPUs, and this process's GPU is then its current one."""
    if world() == 1 or distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        distributed.init_process_group("nccl", timeout=TIMEOUT, device_id=torch.device("cuda", local_rank()))
    else:
        distributed.init_process_group("gloo", timeout=TIMEOUT)
    atexit.register(end_group)  # a group that is still there when the interpreter ends may abort it


def end_group() -> None:
    """Leave the others, where they were joined."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait until all processes are here."""
    if world() > 1:
        mean(torch.zeros(()))


def mean(value: Tensor) -> Tensor:
    """Mean over the processes, the same bits on each; without a gradient, any shape, float."""
    if world() == 1:
        return value
    summed = value.detach().to(device(), copy=True)
    distributed.all_reduce(summed)
    return (summed / world()).to(value.device)


def of_first(value: float) -> float:
    """The first process's value, on every process."""
    if world() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=device())
    distributed.broadcast(told, src=0)
    return float(told)


def total(value: Tensor) -> Tensor:
    """Sum over the processes, through which gradients flow: each gets the sum of all processes' gradients."""
    return Total.apply(value)


class Total(torch.autograd.Function):
    """A sum over the processes is its own transpose."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        summed = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return Total.apply(gradient)


def device() -> torch.device:
    """Where the group's tensors lie. Starts the group where nobody has."""
    start_group()
    return torch.device("cuda", local_rank()) if distributed.get_backend() == "nccl" else torch.device("cpu")
