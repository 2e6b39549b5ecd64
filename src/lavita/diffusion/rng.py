"""Random numbers with one generator per clip, so that no clip depends on its neighbours, the batch or the device."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch's, numpy's and Python's global generators; seed 0 .. 2**63 - 1."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order, the same on every machine and run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Request:
    """One draw of every clip: kind normal (values of shape `size`), uniform, or integers (below size[0])."""

    kind: str
    size: tuple[int, ...] = ()

    def draw(self, generator: torch.Generator) -> Tensor:
        """A clip's value: normal float32 (*size), uniform float32 (), integers int64 ()."""
        if self.kind == "normal":
            return torch.randn(self.size, generator=generator)
        if self.kind == "uniform":
            return torch.rand((), generator=generator)
        return torch.randint(self.size[0], (), generator=generator)


class SampleRNG:
    """Random numbers for B clips. Values are drawn on the CPU and then moved, so every device gets the same numbers.

    seeds: one integer a clip. A second call continues each clip's stream. drawn: what the streams begin with, drawn
    before by someone else, (B, ...) a request; where another request comes in its place, it is drawn here, and the
    numbers are the same either way.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        device: torch.device | str = "cpu",
        drawn: Iterable[tuple[Request, Tensor]] = (),
    ) -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.device = device
        self.asked: list[Request] = []
        self._drawn = list(drawn)
        self._generators: list[torch.Generator] | None = None

    @classmethod
    def for_training(
        cls,
        seed: int,
        stage: str,
        clip_index: Tensor,
        device: torch.device | str,
        drawn: Iterable[tuple[Request, Tensor]] = (),
    ) -> SampleRNG:
        """Random numbers that depend on (seed, stage, clip index) only; clip_index, int64 (B,), counts over the run."""
        return cls((derive_seed(seed, stage, index) for index in clip_index.tolist()), device, drawn)

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def generators(self) -> list[torch.Generator]:
        """Each clip's generator where its stream is now, for draws of other kinds."""
        if self._generators is None:
            self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
            for request in self.asked:  # these came drawn
                for generator in self._generators:
                    request.draw(generator)
        return self._generators

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal values, float32 (B, *shape)."""
        return self._values(Request("normal", tuple(shape)))

    def uniform(self) -> Tensor:
        """Uniform values in [0, 1), float32 (B,)."""
        return self._values(Request("uniform"))

    def integers(self, high: int) -> Tensor:
        """Uniform integers in 0..high-1, int64 (B,)."""
        return self._values(Request("integers", (high,)))

    def _values(self, request: Request) -> Tensor:
        number = len(self.asked)
        if self._generators is None and number < len(self._drawn) and self._drawn[number][0] == request:
            values = self._drawn[number][1]
        else:
            values = torch.stack([request.draw(generator) for generator in self.generators])
            if torch.device(self.device).type == "cuda":
                values = values.pin_memory()  # so that nobody waits for the copy
        self.asked.append(request)
        return values.to(self.device, non_blocking=True)


def drawn_ahead(draw: Callable[[int], Tensor], count: int) -> Iterator[Tensor]:
    """draw(0), ..., draw(count - 1) in this order, each drawn by a thread while the one before is in use."""
    with ThreadPoolExecutor(1, "noise") as thread:
        following = thread.submit(draw, 0)
        for number in range(count):
            values = following.result()
            if number + 1 < count:
                following = thread.submit(draw, number + 1)
            yield values
