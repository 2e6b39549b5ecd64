"""The budget is cut into whole batches and met exactly; the clock fails a stage that misses it."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from lavita.train.budget import ClipClock, split_clips


@pytest.mark.parametrize("total, batch", [(1280, 16), (2560, 8), (10_240_000, 320)])
@pytest.mark.parametrize("shares", [[1.0], [0.4, 0.05, 0.55], [0.15, 0.01, 0.84]])
def test_parts_are_whole_batches_and_sum_to_the_total(total, batch, shares):
    names = [str(index) for index in range(len(shares))]
    if min(shares) * total < batch / 2:
        pytest.skip("a stage of less than half a batch is an error, tested below")
    parts = split_clips(total, shares, names, batch)
    assert sum(parts) == total
    assert all(part % batch == 0 and part > 0 for part in parts)
    assert all(abs(part - share * total) <= batch * len(shares) for part, share in zip(parts, shares, strict=True))


def test_what_does_not_go_is_an_error_that_names_what_would():
    with pytest.raises(ValueError, match="1000 clips is not a multiple of the batch of 16.*992 and 1008"):
        split_clips(1000, [1.0], ["train"], 16)
    with pytest.raises(ValueError, match="stage second gets 0 of 32"):
        split_clips(32, [0.999, 0.001], ["first", "second"], 16)
    with pytest.raises(ValueError, match="sum to 0.9"):
        split_clips(32, [0.5, 0.4], ["first", "second"], 16)


def test_clock_counts_clips_and_refuses_another_total():
    module = SimpleNamespace(num_clips_seen=0, stage_name="train", clip_cost=Fraction(1))
    trainer, seen = SimpleNamespace(world_size=1), []
    clock = ClipClock(8, lambda *report: seen.append(report), every_seconds=3600)
    for _ in range(2):
        clock.on_train_batch_end(trainer, module, torch.tensor(0.5), {"clip_index": torch.zeros(4, 1)}, 0)
    assert seen == [("train", 8, 8, 0.5)]
    clock.on_train_end(trainer, module)
    module.num_clips_seen = 12
    with pytest.raises(RuntimeError, match="saw 12 clips, its budget is 8"):
        clock.on_train_end(trainer, module)


def test_clock_counts_images_and_past_frames():
    """4 clips of 8 frames with 4 images each are 6 clips; 3 x 4 clips that cost 4/3 are exactly 16, not 15.999."""
    for cost, steps, total in ((Fraction(12, 8), 1, 6), (Fraction(4, 3), 3, 16)):
        module = SimpleNamespace(num_clips_seen=0, stage_name="train", clip_cost=cost)
        clock = ClipClock(total, lambda *_: None, every_seconds=3600)
        for _ in range(steps):
            clock.on_train_batch_end(
                SimpleNamespace(world_size=1), module, torch.tensor(0.5), {"clip_index": torch.zeros(4, 1)}, 0
            )
        clock.on_train_end(SimpleNamespace(world_size=1), module)
        assert module.num_clips_seen == total
