"""Mixed precision, placed in one way for every method: which part of a network computes in bfloat16, and which never.

Inside `mixed_precision` the given networks run under torch's autocast: matrix products, convolutions and attention in
bfloat16. Float32 stay, by `in_float32` on the layers concerned: the embedding of the diffusion time (neighbouring times
would fall together), adaptive modulation, norms, the last layer. The residual stream is float32 because what it begins
with is. What a network returns is float32, and everything outside of it: latents, noise, schedule, loss, the frozen
autoencoder, the sampler's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

MIXED = "bf16-mixed"
HALF = (torch.bfloat16, torch.float16)


def full(value: Any) -> Any:
    """A half-precision tensor as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def autocast_kind(values: Iterable[Any]) -> str:
    """The kind of device whose autocast says how a call with these values computes: that of the first tensor.

    Shapes (the meta device) have none of their own; the CPU's says it for them, as a count of their memory reads it.
    """
    kind = next(value.device.type for value in values if isinstance(value, Tensor))
    return "cpu" if kind == "meta" else kind


def in_float32(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward, or another function of a tensor, that computes outside of autocast; half-precision arguments become
    float32. Without autocast it is the function itself, bit for bit.
    """

    @wraps(forward)
    def outside_autocast(*arguments: Any) -> Any:
        kind = autocast_kind(arguments)
        # A device without autocast raises when it is asked.
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return forward(*arguments)
        with torch.autocast(kind, enabled=False):
            return forward(*map(full, arguments))

    return outside_autocast


class LayerNorm(nn.LayerNorm):
    """Layer norm in float32; its result too."""

    forward = in_float32(nn.LayerNorm.forward)


class GroupNorm(nn.GroupNorm):
    """Group norm in float32; its result too."""

    forward = in_float32(nn.GroupNorm.forward)


class Float32Layers(nn.Sequential):
    """Layers that compute in float32 in mixed precision too: a time embedding, modulation, an output."""

    forward = in_float32(nn.Sequential.forward)


@contextmanager
def replaced_forwards(modules: Sequence[Any], replaced: Callable[[Callable], Callable]) -> Iterator[None]:
    """Inside, the forward of each module is what `replaced` makes of it; afterwards it is what it was before, also
    where another one was put in its place outside.
    """
    own = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = replaced(module.forward)
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            if before is None:
                del module.forward
            else:
                module.forward = before


@contextmanager
def mixed_precision(networks: Sequence[nn.Module], precision: str) -> Iterator[None]:
    """Inside, calling one of the networks runs it under bfloat16 autocast where precision is bf16-mixed; all
    floating-point numbers that it returns are float32. Other calls of its methods are float32 throughout.
    """
    with replaced_forwards(networks if precision == MIXED else (), partial(partial, autocast_call)):
        yield


def autocast_call(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a forward gives under bfloat16 autocast on the device of its first tensor, as float32."""
    with torch.autocast(autocast_kind((*arguments, *options.values())), torch.bfloat16):
        output = forward(*arguments, **options)
    return tree_map(full, output)


def called_networks(module: nn.Module, trained: set[nn.Parameter]) -> list[nn.Module]:
    """The outermost modules below `module` that can be called and hold one of these parameters, in their order.

    A module without a forward of its own (a list, a group of networks) stands for what it holds.
    """
    found: list[nn.Module] = []
    for child in module.children():
        if trained.isdisjoint(child.parameters()):
            continue
        found += [child] if type(child).forward is not nn.Module.forward else called_networks(child, trained)
    return found
