"""How a stage lies over the processes that train it, as Lightning is told."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from lavita.config import ComputeConfig
from lavita.train import ranks
from lavita.train.module import TrainedStage
from lavita.train.shards import take_weights


def placement(compute: ComputeConfig, module: TrainedStage) -> dict[str, Any]:
    """Arguments of a Trainer: devices, num_nodes, strategy, and where the processes come from.

    That is said, and never found out: Lightning would otherwise take a Slurm job's tasks for its own processes, and
    its requeueing and checkpoints of its own come with that. Raises ValueError unless as many processes are here as
    compute says.
    """
    if ranks.world() != compute.processes:
        raise ValueError(
            f"compute.devices: {compute.devices} on {compute.nodes} nodes are {compute.processes} processes, but this "
            f"is one of {ranks.world()} (WORLD_SIZE)"
        )
    rank_zero_only.rank = ranks.rank()  # by default a Slurm task's number
    if compute.processes == 1:
        return {"devices": 1, "num_nodes": 1, "strategy": "auto", "plugins": [LightningEnvironment()]}
    ranks.start_group()
    if compute.strategy == "fsdp":
        strategy = ModelParallelStrategy(compute.processes, 1, save_distributed_checkpoint=False)
    else:
        # In a stage that updates in turn a part of the weights has no gradient, and its gradient must stay None.
        strategy = DDPStrategy(find_unused_parameters=module.turns > 1)
    plugins = [TorchElasticEnvironment()]
    return {"devices": compute.devices, "num_nodes": compute.nodes, "strategy": strategy, "plugins": plugins}


@contextmanager
def placed(module: TrainedStage, compute: ComputeConfig) -> Iterator[TrainedStage]:
    """Inside, the module to fit; after, the given module holds its weights, plain and whole, on every process.

    It is the module itself, or with fsdp a copy that may be cut into shards: what uses a module after training would
    otherwise find its class, its weights and its calls changed.
    """
    fitted = module
    if compute.processes > 1 and compute.strategy == "fsdp":
        fitted = copy.deepcopy(module.cpu())
    with others_frozen(fitted, wanted=compute.processes > 1):
        yield fitted
    if fitted is not module:
        take_weights(module, fitted)
        module.num_clips_seen = fitted.num_clips_seen


@contextmanager
def others_frozen(module: TrainedStage, wanted: bool) -> Iterator[None]:
    """Inside, parameters of a stage that it does not train need no gradient, for which DDP would wait."""
    trained = {id(parameter) for parameter in module.trained_parameters()}
    others = [p for p in module.parameters() if wanted and p.requires_grad and id(p) not in trained]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
