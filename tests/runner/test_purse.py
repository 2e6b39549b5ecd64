"""Every row of every suite at every tier has a purse that goes into whole batches, checked on shapes alone."""

import pytest

from lavita.bench.plan import make_plan
from lavita.bench.suite import TIERS, load_yaml
from lavita.registry import names_in
from lavita.runner.build import check_purse
from lavita.runner.dry_run import lines_of


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("suite", names_in("suites"))
def test_every_purse_can_be_cut(suite, tier):
    for cell in make_plan(suite, tier, None, [0], []):
        check_purse(cell, load_yaml("datasets", cell.data.dataset)["num_classes"])


def test_a_budget_that_does_not_go_names_the_row_and_what_would():
    (cell,) = make_plan("ablations", "demo", ["lavita-v1-joint"], [0], ["budget.clips=1416"])
    with pytest.raises(ValueError, match="lavita-v1-joint: budget: 1160 clips is not a multiple of the batch of 12"):
        check_purse(cell, None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.task=prediction", "model.tasks=[generation,prediction]"], "vdt: sampling.task: got 'prediction'"),
        (["sampling.task=nonsense"], "vdt: sampling.task: got 'nonsense'"),
        (["model.tasks=[prediction,animation]"], "vdt: model.tasks: got prediction, animation, without generation"),
    ],
)
def test_a_row_that_needs_a_real_clip_is_refused_before_anything_starts(overrides, message):
    (cell,) = make_plan("skytimelapse", "demo", ["vdt"], [0], overrides)
    with pytest.raises(ValueError, match=message):
        check_purse(cell, None)
    with pytest.raises(ValueError, match=message):
        list(lines_of(cell, None))


def test_tasks_beside_generation_are_a_row_as_any_other():
    (cell,) = make_plan("skytimelapse", "demo", ["vdt"], [0], ["model.tasks=[generation,prediction]"])
    check_purse(cell, None)
