"""How exact float32 is, set in one place: torch's own defaults let a GPU round it, and say so nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_WORKSPACE = ":4096:8"  # with which cuBLAS sums in one order; read when it first computes


@contextmanager
def arithmetic(deterministic: bool = False) -> Iterator[str]:
    """Inside, float32 is float32: convolutions and matrix products of a GPU don't round what they take to TF32's 10
    bits, whatever the precision of networks (lavita.nn.precision) is. Yields what a record says of it.

    deterministic: only kernels that sum in one order; an operation that has none raises torch's RuntimeError. On a CPU
    nothing changes. To be entered before a GPU is first used.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    before = torch.get_float32_matmul_precision()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing of ours reads memory before it is written
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=deterministic, allow_tf32=False):
            yield "float32 without TF32" + (", deterministic kernels" if deterministic else "")
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(was, warn_only=warned)
        torch.set_float32_matmul_precision(before)
