"""This process among those that train together, by torch's usual variables (RANK, WORLD_SIZE, LOCAL_RANK); without
them it is alone, and everything here is a no-op.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

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
    """Join the others, once per process; NCCL where there are GPUs, and this process's GPU is then its current one."""
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
    shared = torch.tensor(value, dtype=torch.float64, device=device())
    distributed.broadcast(shared, src=0)
    return float(shared)


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


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of every ModuleList named `blocks`; none in a network that has no such list."""
    lists = [child for name, child in module.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for one in lists if isinstance(one, nn.ModuleList) for block in one]


@contextmanager
def recomputed_blocks(module: nn.Module, wanted: bool) -> Iterator[int]:
    """Inside, every block of a ModuleList named `blocks` is recomputed in the backward pass; yields how many are.

    Numbers stay the same bit for bit. A network without such a list (a U-Net) yields 0 and runs as it is.
    """
    blocks = blocks_of(module) if wanted else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            del block.forward


def shard(module: Any, mesh: DeviceMesh) -> None:
    """Cut the trained parameters of a stage over the processes of a mesh, in place: each transformer block by itself,
    then all that is left. What is not trained stays whole.

    Between steps the module holds shards (DTensor); inside training_step and heldout_loss it holds plain weights.
    """
    trained = set(module.trained_parameters())
    ignored = {parameter for parameter in module.parameters() if parameter not in trained}
    options = {"mesh": mesh, "reshard_after_forward": True, "ignored_params": ignored}
    for block in blocks_of(module):
        if trained.intersection(block.parameters()):
            fully_shard(block, **options)
    fully_shard(module, **options)
    # The stage is its own root, so that a method may call any part of its networks in any way.
    for name in ("training_step", "heldout_loss"):
        register_fsdp_forward_method(module, name)


def whole(value: Tensor) -> Tensor:
    """All of a tensor, on every process, from its shards. To be called by all processes in the same order."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def cut_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's shard of a whole tensor, cut like the parameter; the whole tensor if that is not sharded."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


@torch.no_grad()
def take_weights(module: torch.nn.Module, other: torch.nn.Module) -> None:
    """Give a module the whole weights and buffers of a sharded copy of it."""
    own = module.state_dict(keep_vars=True)
    for name, value in other.state_dict().items():
        own[name].copy_(whole(value))
