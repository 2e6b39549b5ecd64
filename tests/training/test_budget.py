"""The budget is cut into whole batches and met exactly; the clock fails a stage that misses it."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from lavita.training.budget import Clock, Limit, OverBudget, split_clips, split_flops

TRAINER = SimpleNamespace(world_size=1, accumulate_grad_batches=1, should_stop=False)


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
    trainer, seen = TRAINER, []
    clock = Clock(Limit(8), lambda *report: seen.append(report), every_seconds=3600)
    for _ in range(2):
        clock.on_train_batch_end(trainer, module, torch.tensor(0.5), {"clip_index": torch.zeros(4, 1)}, 0)
    assert seen == [("train", 8, 8, 0.5)]
    clock.on_train_end(trainer, module)
    clock.on_train_batch_end(trainer, module, torch.tensor(0.5), {"clip_index": torch.zeros(4, 1)}, 0)
    with pytest.raises(OverBudget, match="saw 12 clips, its budget is 8"):
        clock.on_train_end(trainer, module)


def test_clock_counts_images_and_context_frames():
    """4 clips of 8 frames with 4 images each are 6 clips; 3 x 4 clips that cost 4/3 are exactly 16, not 15.999."""
    for cost, steps, total in ((Fraction(12, 8), 1, 6), (Fraction(4, 3), 3, 16)):
        module = SimpleNamespace(num_clips_seen=0, stage_name="train", clip_cost=cost)
        clock = Clock(Limit(total), lambda *_: None, every_seconds=3600)
        for _ in range(steps):
            clock.on_train_batch_end(TRAINER, module, torch.tensor(0.5), {"clip_index": torch.zeros(4, 1)}, 0)
        clock.on_train_end(TRAINER, module)
        assert module.num_clips_seen == total


@pytest.mark.parametrize("total", [1e6, 123456.0, 5e5 + 1])
@pytest.mark.parametrize("shares", [[1.0], [0.4, 0.05, 0.55]])
def test_the_last_step_is_the_one_that_reaches_the_flops(total, shares):
    costs = [1000, 700, 1300][: len(shares)]
    steps = split_flops(total, shares, ["a", "b", "c"][: len(shares)], costs)
    spent = sum(count * cost for count, cost in zip(steps, costs, strict=True))
    assert total <= spent < total + costs[-1]
    for count, cost, share in zip(steps[:-1], costs, shares, strict=False):
        assert abs(count * cost - share * total) <= cost / 2


def test_a_stage_without_a_step_is_an_error():
    with pytest.raises(ValueError, match="stage first gets no step of 1e\\+06 FLOPs out of 1e\\+06"):
        split_flops(1e6, [0.4, 0.6], ["first", "second"], [10**6, 10])
