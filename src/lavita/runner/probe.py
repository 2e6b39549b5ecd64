"""This machine's rate on a transformer block, trained and only evaluated, from which seconds are estimated."""

from __future__ import annotations

import time

import torch

from lavita.models.blocks import ModulatedBlock
from lavita.runner.costs import counted

SECONDS = 3.0
WIDTHS = {"cpu": (384, 6), "cuda": (1152, 16)}


class Probe:
    """Forward and backward of one block, then its forward alone, each repeated for some seconds: achieved FLOPs a
    second.

    An estimate made with it leaves out loading, the optimiser and what small tensors waste, so it is a lower bound.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        width, heads = WIDTHS[device]
        block = ModulatedBlock(width, heads).to(device)
        x, c = torch.randn(2, 8, 256, width, device=device), torch.randn(2, 1, width, device=device)

        def step() -> None:
            block(x, c).mean().backward()
            block.zero_grad(set_to_none=True)

        flops = counted(step)
        step()
        self.flops_per_second = flops * rate(step, seconds)
        with torch.no_grad():
            flops = counted(lambda: block(x, c))
            block(x, c)
            self.forward_flops_per_second = flops * rate(lambda: block(x, c), seconds)

    def seconds(self, flops: int) -> float:
        """How long so many FLOPs of training take at the measured rate."""
        return flops / self.flops_per_second

    def forward_seconds(self, flops: int) -> float:
        """How long so many FLOPs of evaluation take, as in sampling and scoring."""
        return flops / self.forward_flops_per_second


def rate(step, seconds: float) -> float:
    """Calls a second of step, over at least `seconds`."""
    done, started = 0, time.perf_counter()
    while True:
        step()
        done += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        if elapsed > seconds:
            return done / elapsed
