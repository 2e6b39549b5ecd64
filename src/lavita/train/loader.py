"""A loader from its k-th batch on, without a look at those before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader


class FromBatch:
    """The indices of a loader's batches from number `first` on. Its length stays that of all: the trainer, which is
    told how many were seen before, compares with that."""

    def __init__(self, batches: Any, first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.first, None)

    def __len__(self) -> int:
        return len(self.batches)


def from_batch(loader: DataLoader, first: int) -> DataLoader:
    """The same loader, beginning with batch number `first`."""
    return DataLoader(
        loader.dataset,
        batch_sampler=FromBatch(loader.batch_sampler, first),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        generator=loader.generator,
    )
