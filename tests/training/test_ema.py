"""EMA against its closed form, its half-life, and the finite guard."""

from types import SimpleNamespace

import pytest
import torch

from lavita.config.plan import make_plan
from lavita.training.callbacks import Diverged, Ema, FiniteGuard, decay_per_step


def run(decay: float, values: list[float]) -> float:
    """The average that an EMA ends with over weights that take these values, started at values[0]."""
    weight = torch.nn.Parameter(torch.tensor([values[0]], dtype=torch.float64))
    module = SimpleNamespace(trained_parameters=lambda: [weight])
    ema = Ema(lambda _: decay)
    ema.on_fit_start(None, module)
    for step, value in enumerate(values[1:], start=1):
        weight.data.fill_(value)
        ema.on_train_batch_end(SimpleNamespace(global_step=step), module)
        ema.on_train_batch_end(SimpleNamespace(global_step=step), module)  # a batch that was only accumulated
    ema.on_train_end(None, module)
    return float(weight.detach())


def test_equals_the_written_out_sum():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    average = values[0]
    for n, value in enumerate(values[1:], start=1):
        d = min(0.9, (1 + n) / (10 + n))
        average = d * average + (1 - d) * value
    # 40 updates in float64, each rounding at 1e-16 of values of order 1.
    assert run(0.9, values) == pytest.approx(average, abs=1e-13)


def test_constant_weights_stay():
    assert run(0.99, [2.5] * 30) == 2.5


def test_start_is_forgotten():
    """After a run of many half-lives almost nothing of the initial weight is left."""
    assert run(0.5, [1.0] + [0.0] * 60) < 1e-12


def test_half_life_is_the_share_of_the_stage():
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], [])
    decay = decay_per_step(experiment.train, 2048)(1)
    halflife_steps = 0.02 * 2048 / experiment.train.batch_clips
    assert decay**halflife_steps == pytest.approx(0.5, rel=1e-12)
    (paper,) = make_plan("ucf101", "paper", ["dit"], [0], [])
    assert decay_per_step(paper.train, 2048)(7) == 0.9999
    assert decay_per_step(paper.train, None)(7) == 0.9999


def test_without_a_known_end_the_half_life_is_the_share_of_the_clips_so_far():
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], [])
    decay = decay_per_step(experiment.train, None)
    for step in (1, 50, 4000):
        assert decay(step) ** (0.02 * step) == pytest.approx(0.5, rel=1e-12)
    known = decay_per_step(experiment.train, 4000 * experiment.train.batch_clips)
    assert decay(4000) == pytest.approx(known(1), rel=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_guard_names_step_and_stage(value):
    module = SimpleNamespace(stage_name="codec", num_clips_seen=32)
    with pytest.raises(Diverged, match="step 7 of stage codec.*32 clips"):
        FiniteGuard().on_train_batch_end(SimpleNamespace(global_step=7), module, {"loss": torch.tensor(value)})
    FiniteGuard().on_train_batch_end(SimpleNamespace(global_step=7), module, {"loss": torch.tensor(1.0)})
