"""Peak memory of a call, counted on shapes alone: on the meta device tensors have sizes and no values."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lavita.nn.precision import replaced_forwards

# Kernels count elements in 32 bits: some of them fail, or are wrong, from here on.
MOST_ELEMENTS = 2**31 - 1


@dataclass(frozen=True)
class Peak:
    """bytes: of all tensors that a call had at once, beyond those that were there before it. elements: of its largest
    tensor.
    """

    bytes: int = 0
    elements: int = 0

    def __or__(self, other: Peak) -> Peak:
        """The larger of each, for calls one after another."""
        return Peak(max(self.bytes, other.bytes), max(self.elements, other.elements))

    def beside(self, others: int) -> Peak:
        """The same with so many more bytes there all the time."""
        return Peak(self.bytes + others, self.elements)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each storage once."""
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def peak_of(call: Callable[[], Any], recomputed: Sequence[nn.Module] = ()) -> Peak:
    """The peak of a call on the meta device. What it makes and keeps (gradients too) counts, what it finds does not.
    recomputed: blocks that run again in the backward pass.

    What a kernel needs for itself (workspaces of convolutions) is not seen, nor what an allocator wastes.
    """
    mode = OnAccelerator()
    with LiveStorages() as live, mode, inside(mode, recomputed):
        call()
    return Peak(live.peak, live.elements)


def tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values and in their lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors_of(value)


class LiveStorages(TorchDispatchMode):
    """Follows every storage on the meta device that operations inside make, until nobody holds it.

    now, peak: bytes at this moment and at most; elements: of the largest tensor so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.elements = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        options = options or {}
        for value in tensors_of((*arguments, *options.values())):
            self.see(value, made=False)
        result = function(*arguments, **options)
        for value in tensors_of((result,)):
            self.see(value, made=True)
        return result

    def see(self, value: Tensor, made: bool) -> None:
        """Take note of a tensor; made: by an operation inside, where it has not been seen as an input before."""
        if value.device.type != "meta":
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        size = storage.nbytes() if made else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        self.elements = max(self.elements, value.numel())
        weakref.finalize(storage, self.gone, key, size)

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


# How CUDA's autocast runs functions, by their names; all others take what they are given.
IN_LOWER = frozenset(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ __rmatmul__ mm "
    "bmm addmm baddbmm einsum scaled_dot_product_attention prelu".split()
)
IN_FLOAT32 = frozenset(
    "layer_norm group_norm exp expm1 log log1p log2 pow __pow__ rsqrt softmax log_softmax cumsum cumprod sum prod norm "
    "mse_loss l1_loss cross_entropy cosine_similarity softplus".split()
)


class OnAccelerator(TorchFunctionMode):
    """Inside, a call on the meta device needs the memory that it needs on a GPU.

    Attention keeps what the fused kernels keep, its inputs and its output, never the N x N weights; and inside
    `torch.autocast("cpu")`, which leaves the meta device alone, tensors there are cast as CUDA's autocast casts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cast: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # autocast casts a weight once and keeps it until its outermost block is left
        self.in_backward = False

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        name, options = getattr(function, "__name__", ""), options or {}
        if name == "backward":
            return self.backward(function, arguments, options)
        if self.cast and not autocast_depth():
            self.cast.clear()
        if torch.is_autocast_enabled("cpu"):
            arguments, options = self.as_autocast(name, arguments, options)
        if name == "scaled_dot_product_attention" and arguments[0].device.type == "meta":
            return FusedAttention.apply(*arguments[:3])
        return function(*arguments, **options)

    def backward(self, function: Any, arguments: tuple, options: dict) -> Any:
        """A backward pass; blocks that are recomputed in it (see `inside`) cast their weights anew, each for itself."""
        self.cast.clear()
        self.in_backward = True
        try:
            return function(*arguments, **options)
        finally:
            self.in_backward = False

    def as_autocast(self, name: str, arguments: tuple, options: dict) -> tuple[tuple, dict]:
        """The arguments of a function as autocast hands them on."""
        if name in IN_LOWER:
            lower = torch.get_autocast_dtype("cpu")
            return tuple(self.to(one, lower) for one in arguments), {k: self.to(v, lower) for k, v in options.items()}
        if name in IN_FLOAT32:
            full = torch.float32
            return tuple(self.to(one, full) for one in arguments), {k: self.to(v, full) for k, v in options.items()}
        return arguments, options

    def to(self, value: Any, dtype: torch.dtype) -> Any:
        """A tensor on the meta device in another precision; float64, and what is no such tensor, as it is."""
        if not isinstance(value, Tensor) or value.device.type != "meta" or not value.is_floating_point():
            return value
        if value.dtype in (dtype, torch.float64):
            return value
        weight = value.is_leaf and value.requires_grad and dtype != torch.float32
        if not weight or self.in_backward:
            return value.to(dtype)
        if id(value) not in self.cast:
            self.cast[id(value)] = value, value.to(dtype)  # while it is kept, nothing else can have its id
        return self.cast[id(value)][1]


def autocast_depth() -> int:
    """Blocks of autocast that stand open here; torch tells it only to who opens or closes one."""
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth


@contextmanager
def inside(mode: TorchFunctionMode, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, blocks run under a mode wherever they are called from: torch leaves it while it differentiates."""

    def run(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with mode:
            return forward(*arguments, **options)

    with replaced_forwards(blocks, partial(partial, run)):
        yield


class FusedAttention(torch.autograd.Function):
    """Stands for attention in a count of memory: the right shapes, no values."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        context.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *_ = context.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
