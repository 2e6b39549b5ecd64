"""This process among those that train together, by torch's usual variables (RANK, WORLD_SIZE, LOCAL_RANK); without
them it is alone, and everything here is a no-op.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from lavita.nn.precision import replaced_forwards

T = TypeVar("T")

# Of one collective. What takes long on one process alone is waited for through the store (`from_first`), which has no
# limit: the first process is under its launcher's watch, and who dies closes its connections.
TIMEOUT = timedelta(hours=2)
LOOK_SECONDS = 0.1  # between two looks into the store
GOODBYE_SECONDS = 5.0  # for the others to read what they were told last


class _Group:
    """The store of the group that this process has joined, and the number of the next value that is told in it."""

    store: distributed.Store | None = None
    told = itertools.count()


def world() -> int:
    """Processes that train together, on all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them, 0 to world() - 1."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def local_rank() -> int:
    """Its number on its node."""
    return int(os.environ["LOCAL_RANK"]) if world() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and reports."""
    return rank() == 0


def start_group() -> None:
    """Join the others, once per process; NCCL where there are GPUs, and this process's GPU is then its current one."""
    if world() == 1 or distributed.is_initialized():
        return
    store, number, processes = next(distributed.rendezvous("env://", timeout=TIMEOUT))
    group = {"store": distributed.PrefixStore("group", store), "rank": number, "world_size": processes}
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())
        distributed.init_process_group("nccl", timeout=TIMEOUT, device_id=own_device(), **group)
    else:
        distributed.init_process_group("gloo", timeout=TIMEOUT, **group)
    _Group.store, _Group.told = distributed.PrefixStore("told", store), itertools.count()
    atexit.register(end_group)  # a group that is still there when the interpreter ends may abort it


def own_device() -> torch.device:
    """This process's GPU, or the CPU."""
    return device_of(local_rank())


def device_of(number: int) -> torch.device:
    """The device of the process with this number on its node; a scheduler may show it only the GPU that is its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", number % torch.cuda.device_count())


def end_group() -> None:
    """Leave the others, where they were joined; the first process, which holds the store, a little after them."""
    if distributed.is_initialized():
        if _Group.store is not None:
            with suppress(RuntimeError):  # the store has gone with the first process
                say_goodbye()
        distributed.destroy_process_group()
        _Group.store = None


def say_goodbye() -> None:
    """Tell the first process that this one reads no more from the store; the first one waits for that, not long."""
    if not is_first():
        tell(f"left {rank()}", {})
        return
    left, deadline = [f"left {number}" for number in range(1, world())], time.monotonic() + GOODBYE_SECONDS
    while not _Group.store.check(left) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def from_first(make: Callable[[], T]) -> T:
    """What make gives on the first process, on every process; plain values, as JSON has them. Called by all.

    Whatever stands on a disk that several machines see is looked up in this way, since each may see another state of
    it. However long make takes, the others wait: through the store, no collective stands open meanwhile. make must not
    call this again. What it raises is raised on the first process, and the others end with a RuntimeError that says so.
    """
    if world() == 1:
        return make()
    start_group()
    key = f"value {next(_Group.told)}"
    if is_first():
        try:
            value = make()
        except BaseException as error:
            tell(key, {"error": f"{type(error).__name__}: {error}"})
            raise
        tell(key, {"value": value})
        return value
    found = heard(key)
    if "error" in found:
        raise RuntimeError(f"the first process ended: {found['error']}")
    return found["value"]


def to_first(value: T, waiting: Callable[[], Any] = lambda: None) -> list[T]:
    """The values of all processes, by rank, on the first one, and [] on the others; plain values, as JSON has them.

    Called by all, however late some of them come. waiting is called again and again while the first one waits.
    """
    if world() == 1:
        return [value]
    start_group()
    key = f"value {next(_Group.told)}"
    if not is_first():
        tell(f"{key} of {rank()}", {"value": value})
        return []
    others = [heard(f"{key} of {number}", waiting)["value"] for number in range(1, world())]
    return [value, *others]


def count_done(name: str, more: int) -> int:
    """Add to what all processes have done of something, and return that; 0 only asks."""
    if world() == 1:
        return more
    start_group()
    return _Group.store.add(f"done {name}", more)


def tell(key: str, value: dict[str, Any]) -> None:
    """Put a value into the group's store."""
    _Group.store.set(key, json.dumps(value))


def heard(key: str, waiting: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """A value of the group's store, once it is there. Raises RuntimeError where the first process, which holds the
    store, has ended."""
    while not _Group.store.check([key]):
        waiting()
        time.sleep(LOOK_SECONDS)
    return json.loads(_Group.store.get(key))


def nothing_to_share(value: Tensor) -> bool:
    """Whether there is one process, or the value is a shape alone (on the meta device), as one process counts them."""
    return world() == 1 or value.is_meta


def mean(value: Tensor) -> Tensor:
    """Mean over the processes, the same bits on each; without a gradient, any shape, float."""
    if nothing_to_share(value):
        return value
    summed = value.detach().to(device(), copy=True)
    distributed.all_reduce(summed)
    return (summed / world()).to(value.device)


def largest(value: Tensor) -> Tensor:
    """Largest value over the processes, entry by entry, on each; without a gradient, any shape, float."""
    if nothing_to_share(value):
        return value
    found = value.detach().to(device(), copy=True)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.to(value.device)


def of_first(value: float) -> float:
    """The first process's value, on every process."""
    if world() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device())
    distributed.broadcast(shared, src=0)
    return float(shared)


def total(value: Tensor) -> Tensor:
    """Sum over the processes, through which gradients flow: each gets the sum of all processes' gradients."""
    return value if nothing_to_share(value) else Total.apply(value)


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
    return own_device() if distributed.get_backend() == "nccl" else torch.device("cpu")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of every ModuleList named `blocks`; none in a network that has no such list."""
    lists = [child for name, child in module.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for one in lists if isinstance(one, nn.ModuleList) for block in one]


@contextmanager
def recomputed_blocks(blocks: Sequence[nn.Module], wanted: bool) -> Iterator[int]:
    """Inside, the blocks run again in the backward pass where that is wanted; yields how many do. Those of a stage are
    what it names (`TrainedStage.recomputed`).

    Numbers stay the same bit for bit.
    """
    blocks = blocks if wanted else []
    with replaced_forwards(blocks, partial(partial, checkpoint, use_reentrant=False)):
        yield len(blocks)


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
