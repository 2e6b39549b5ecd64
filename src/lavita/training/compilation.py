"""torch.compile of the networks' blocks: many small operations of a block become a few kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from lavita.config.schema import AUTO
from lavita.nn.precision import replaced_forwards
from lavita.training.distributed import blocks_of

# Graphs of one block's code: spatial and temporal tokens, with gradients and without, batches and their rests.
GRAPHS = 32


def compiles(wanted: str | bool) -> bool:
    """Whether compute.compile means compilation on this machine: `auto` does where there is an accelerator."""
    return torch.cuda.is_available() if wanted == AUTO else bool(wanted)


@contextmanager
def compiled_blocks(module: nn.Module, wanted: str | bool) -> Iterator[int]:
    """Inside, every block of a ModuleList named `blocks` is compiled for the shapes that it meets, once per shape and
    not once per block; yields how many blocks are. A network without such a list (a U-Net) yields 0 and runs as it is.

    wanted: compute.compile. Names in the state dict stay as they are. Numbers are those of the uncompiled block but for
    the order of sums. To be entered before `recomputed_blocks`, which then recomputes the compiled block.
    Raises ValueError where torch.compile can't work here, before a step is taken.
    """
    blocks = blocks_of(module) if compiles(wanted) else []
    if blocks:
        check_compiler(next(module.parameters()).device)
    with (
        replaced_forwards(blocks, lambda forward: torch.compile(forward, dynamic=False)),
        torch._dynamo.config.patch(recompile_limit=GRAPHS),
        # Autocast ends with the forward pass, as it does without compilation: float32 layers have float32 gradients.
        torch._functorch.config.patch(backward_pass_autocast="off"),
    ):
        yield len(blocks)


@cache
def check_compiler(device: torch.device) -> None:
    """Compile one line. Raises ValueError, saying what to set."""
    try:
        torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # a missing C++ compiler, Triton or header: the user must know what to do
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"compute.compile: torch.compile does not work on {device} ({reason}); install a C++ compiler (and on a "
            "GPU Triton), or set compute.compile=false"
        ) from None
