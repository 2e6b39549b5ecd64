"""Batches that several updates get in turn: which clips, under which numbers, in which order."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from lavita.data.clips import ClipShare
from lavita.data.datamodule import RepeatedBatches


class Numbers(Dataset):
    """Stands in for training clips: an item says which clip it is."""

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"video": index, "clip_index": index}


def batches(
    start: int, stop: int, batch: int, turns: tuple[int, ...], passes: int = 1
) -> list[tuple[list[int], list[int]]]:
    """(clips, numbers) of every pass from start to stop."""
    share = ClipShare(start, stop, batch // passes, 0, 1)
    loader = DataLoader(RepeatedBatches(Numbers(), start, batch, turns), batch_size=batch // passes, sampler=share)
    return [(item["video"].tolist(), item["clip_index"].tolist()) for item in loader]


def test_every_batch_comes_twice_with_numbers_of_its_own():
    assert batches(8, 16, 2, (0, 0)) == [
        ([8, 9], [8, 9]), ([8, 9], [10, 11]), ([10, 11], [12, 13]), ([10, 11], [14, 15]),
    ]  # fmt: skip


def test_all_passes_of_an_update_come_before_the_next_update():
    assert batches(0, 8, 4, (0, 0), passes=2) == [
        ([0, 1], [0, 1]),
        ([2, 3], [2, 3]),
        ([0, 1], [4, 5]),
        ([2, 3], [6, 7]),
    ]


def test_one_turn_is_the_plain_order():
    assert batches(3, 9, 3, (0,)) == [([3, 4, 5], [3, 4, 5]), ([6, 7, 8], [6, 7, 8])]
    assert torch.equal(torch.tensor(batches(0, 4, 2, (0,))[1][0]), torch.tensor([2, 3]))


def test_updates_of_a_cycle_share_batches_unevenly():
    # Three updates on one batch, two on the next, then a new cycle.
    assert [clips for clips, _ in batches(10, 24, 2, (0, 0, 0, 1, 1))] == [
        [10, 11], [10, 11], [10, 11], [12, 13], [12, 13], [14, 15], [14, 15],
    ]  # fmt: skip
    assert [numbers for _, numbers in batches(10, 24, 2, (0, 0, 0, 1, 1))][-1] == [22, 23]
