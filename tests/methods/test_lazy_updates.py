"""Cycles of updates with a regulariser of its own: order, batches, optimisers, the average."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from torch import nn

from lavita.config.schema import TrainConfig
from lavita.methods.adversarial import Adam
from lavita.methods.lazy_updates import LazyUpdates, copied
from lavita.training.stage import TrainedStage

TRAIN = TrainConfig(
    batch_clips=4, learning_rate=0.1, weight_decay=0.0, beta1=0.5, beta2=0.5, warmup_clips=0, ema_decay=0.9,
    ema_halflife_share=None, grad_clip_norm=None, grad_clip_start_clips=0, class_dropout=0.0,
)  # fmt: skip


class Pair(LazyUpdates, TrainedStage):
    """Two networks of one number; the generator has a running statistic too."""

    def __init__(self, **changes) -> None:
        super().__init__(dataclasses.replace(TRAIN, **changes), seed=0)
        self.generator, self.discriminator = nn.BatchNorm1d(1), nn.Linear(1, 1, bias=False)
        self.average = copied(self.generator)

    def adams(self):
        return Adam(0.003, 0.0, 0.99), Adam(0.002, 0.0, 0.99)

    def average_decay(self, step):
        return step / (step + 1)


def test_whose_updates_are():
    stage = Pair()
    whose = [stage.whose({"clip_index": torch.tensor([4 * number, 4 * number + 1])}) for number in range(66)]
    assert whose[:5] == ["generator", "discriminator", "r1", "generator", "discriminator"]
    assert whose[33:] == whose[:33]
    assert [whose[:33].count(kind) for kind in ("generator", "discriminator", "r1")] == [16, 16, 1]


def test_a_step_goes_with_one_batch_and_a_cycle_costs_its_steps():
    stage = Pair()
    assert stage.batch_of_update[:7] == (0, 0, 0, 1, 1, 2, 2)
    assert stage.batch_of_update[-1] == 15 and len(stage.batch_of_update) == stage.alternating_updates == 33
    assert stage.clip_cost * 33 == Fraction(16)
    assert stage.update_shares() == {0: 16, 1: 16, 2: 1}


def test_each_network_has_its_own_adam_and_the_discriminators_is_corrected():
    first, second = Pair().configure_optimizers()["optimizer"].param_groups
    assert (first["lr"], first["betas"]) == (0.003, (0.0, 0.99))
    assert second["lr"] == pytest.approx(0.002 * 16 / 17, rel=1e-12)
    assert second["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17), rel=1e-12))


def test_the_learning_rates_warm_up_with_clips():
    configured = Pair(warmup_clips=64).configure_optimizers()  # 16 batches, 33 updates
    ramp = configured["lr_scheduler"]["scheduler"].lr_lambdas[1]
    assert ramp(0) == pytest.approx(1 / 16)
    assert ramp(15 * 33 // 16) < 1 == ramp(32) == ramp(1000)


def test_the_average_moves_once_a_step_with_its_buffers_and_takes_the_generators_place():
    stage = Pair()
    seen = []
    for number in range(37):
        with torch.no_grad():
            stage.generator.weight.fill_(number)
            stage.generator.running_mean.fill_(-number)
        before = float(stage.average.weight)
        stage.end_update(number)
        if float(stage.average.weight) != before:
            seen.append(number)
    # After R1 in a cycle's first step, after the discriminator's update in the others: the mean of all these.
    steps = [2, *range(4, 33, 2), 35]
    assert seen == steps
    mean = sum(steps) / len(steps)
    assert float(stage.average.weight) == pytest.approx(mean, rel=1e-5)
    assert float(stage.average.running_mean) == pytest.approx(-mean, rel=1e-5)
    stage.on_train_end()
    assert torch.equal(stage.generator.weight, stage.average.weight)


def test_the_average_is_kept_and_not_trained():
    stage = Pair()
    trained = {id(value) for value in stage.trained_parameters()}
    assert all(id(value) not in trained and not value.requires_grad for value in stage.average.parameters())
    assert any(name.startswith("average.") for name in stage.state_dict())
