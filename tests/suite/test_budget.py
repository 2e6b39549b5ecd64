"""Every row of every suite at every tier has a budget that goes into whole batches, checked on shapes alone."""

import pytest
import torch

from lavita.config.compose import TIERS, load_yaml
from lavita.config.plan import make_plan
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError
from lavita.experiment.budget import check_budget, meta_flops, planned_shared_cost
from lavita.experiment.costs import counted
from lavita.suite import run
from lavita.suite.estimates import lines_of


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("suite", names_in("suites"))
def test_every_budget_can_be_split(suite, tier):
    for experiment in make_plan(suite, tier, None, [0], []):
        check_budget(experiment, load_yaml("datasets", experiment.data.dataset)["num_classes"])


def test_a_budget_that_does_not_go_names_the_row_and_what_would():
    (experiment,) = make_plan("ablations", "demo", ["lavita-v1-joint"], [0], ["budget.clips=1416"])
    with pytest.raises(ValueError, match="lavita-v1-joint: budget: 1160 clips is not a multiple of the batch of 12"):
        check_budget(experiment, None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.task=nonsense"], "vdt: sampling.task: got 'nonsense', allowed for vdt: generation"),
        (["model.tasks=[prediction,animation]"], "vdt: sampling.task: got 'generation', .*: prediction, animation"),
    ],
)
def test_a_task_that_a_method_does_not_have_is_refused_before_anything_starts(overrides, message):
    (experiment,) = make_plan("skytimelapse", "demo", ["vdt"], [0], overrides)
    with pytest.raises(ValueError, match=message):
        check_budget(experiment, None)
    with pytest.raises(ValueError, match=message):
        list(lines_of(experiment, None))


def test_chained_clips_are_scored_against_clips_as_long():
    chained = ["model.previous_clip=true", "sampling.num_clips_chained=2"]
    with pytest.raises(ValueError, match="data.frames is 8 and sampling.num_clips_chained 2 but protocol.frames is 8"):
        make_plan("skytimelapse", "demo", ["pvdm"], [0], chained)
    (experiment,) = make_plan("skytimelapse", "demo", ["pvdm"], [0], [*chained, "protocol.frames=16"])
    check_budget(experiment, None)
    assert (experiment.data.frames, experiment.protocol.frames) == (8, 16)
    (experiment,) = make_plan("skytimelapse", "demo", ["pvdm"], [0], [*chained[1:], "protocol.frames=16"])
    with pytest.raises(ValueError, match="pvdm: sampling.num_clips_chained: got 2, .* model.previous_clip=true"):
        check_budget(experiment, None)


def test_what_clips_are_made_from_stands_in_the_row():
    changes = ["sampling.task=prediction", "model.tasks=[prediction]"]
    (prediction,) = make_plan("skytimelapse", "demo", ["vdt"], [0], changes)
    check_budget(prediction, None)
    (by_class,) = make_plan("ucf101-class", "demo", ["vdt"], [0], changes)
    (plain,) = make_plan("skytimelapse", "demo", ["vdt"], [0], [])
    assert (prediction.conditions, by_class.conditions, plain.conditions) == ("prediction", "class+prediction", "none")


def test_tasks_beside_generation_are_a_row_as_any_other():
    (experiment,) = make_plan("skytimelapse", "demo", ["vdt"], [0], ["model.tasks=[generation,prediction]"])
    check_budget(experiment, None)


def test_a_budget_of_flops_is_reached_by_the_last_step():
    """The autoencoder's share first; every row gets the steps that it can afford."""
    asked, spent = 2e12, {}
    for method in ("lavita-v1", "pvdm", "lvdm"):
        overrides = ["budget.currency=flops", f"budget.flops={asked:g}", "data.root=/videos", "data.latent_cache=false"]
        (experiment,) = make_plan("ucf101", "demo", [method], [0], overrides)
        stages, total = check_budget(experiment, None), 0.0
        for stage, limit in stages:
            drawn = limit.clips / stage.module.clip_cost
            assert drawn % stage.module.train_config.batch_clips == 0
            total += float(drawn) * meta_flops(experiment.data)(stage.module)
            if stage.module.prepared_clips:  # LVDM's and PVDM's encoder, on 256 clips
                one, autoencoder = torch.zeros(1, 8, 3, 32, 32, device="meta"), stage.module.autoencoder
                encode = autoencoder.moments if method == "lvdm" else autoencoder.encode
                with torch.no_grad():
                    total += 256 * counted(lambda: encode(one))  # noqa: B023
        last = stages[-1][0].module
        step = meta_flops(experiment.data)(last) * last.train_config.batch_clips
        total += planned_shared_cost(experiment, last).flops
        assert asked <= total < asked + step, method
        spent[method] = stages[-1][1].clips
    assert spent["lavita-v1"] > spent["pvdm"]  # whose first stage takes nearly half of the FLOPs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.currency=flops"], "budget.flops: got None, wanted a number above 0"),
        (["budget.currency=hours"], "got 'hours', allowed clips, flops, seconds"),
        (["budget.currency=seconds", "budget.seconds=-1"], "budget.seconds: got -1"),
    ],
)
def test_a_budget_without_its_amount_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_plan("ucf101", "demo", ["dit"], [0], overrides)


def test_flops_that_are_too_few_to_measure_on_are_refused():
    overrides = ["budget.currency=flops", "budget.flops=5e10", "data.root=/videos"]
    (experiment,) = make_plan("ucf101", "demo", ["lvdm"], [0], overrides)
    with pytest.raises(ValueError, match="lvdm: budget: stage train gets .* clips, fewer than the 256 it measures on"):
        check_budget(experiment, None)


def test_flops_that_the_codec_has_eaten_leave_nothing():
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], ["budget.currency=flops", "budget.flops=1e9"])
    with pytest.raises(ValueError, match="dit: budget: nothing is left of 1e\\+09 flops .*what the rows share costs"):
        check_budget(experiment, None)


@pytest.mark.parametrize(("dirty", "words"), [("true", "has uncommitted changes"), ("unknown", "is in no repository")])
def test_tables_to_be_published_need_a_clean_commit(monkeypatch, dirty, words):
    monkeypatch.setattr(run, "commit", lambda: ("0123456789abcdef", dirty))
    run.check_commit(publishable=False)
    with pytest.raises(ConfigError, match=f"--publishable: the code at commit 0123456789ab {words}"):
        run.check_commit(publishable=True)
    monkeypatch.setattr(run, "commit", lambda: ("0123456789abcdef", "false"))
    run.check_commit(publishable=True)
