"""Weights cut into shards, one a process (FSDP2), and put together again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from lavita.train.recompute import blocks_of


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
    """This process's shard of a whole tensor, as a parameter is cut; the value itself where that is not cut."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


@torch.no_grad()
def take_weights(module: torch.nn.Module, other: torch.nn.Module) -> None:
    """Give a module the whole weights and buffers of a sharded copy of it."""
    own = module.state_dict(keep_vars=True)
    for name, value in other.state_dict().items():
        own[name].copy_(whole(value))
