"""Activation checkpointing: blocks that run again in the backward pass instead of keeping what they made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


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
