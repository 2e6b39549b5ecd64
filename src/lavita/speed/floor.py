"""The floor: how long the counted arithmetic of a step would take at the rate of the machine's own matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted_flops(loss: Callable[[], Tensor]) -> int:
    """FLOPs (2 a multiply-add, matrix products only) of a loss and its backward pass, by torch's counter.

    The fused CPU attention is unknown to the counter, so the plain one runs here: it has the same two products.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of the fastest square matrix product of a series that lasts about `seconds`."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    wait, best, end = waiter(device), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def waiter(device: torch.device) -> Callable[[], None]:
    """A function that returns once the device has done all it was given."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
