"""Every suite, tier and method composes; overrides are checked; deviations are found."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lavita.config.compose import TIERS, RowSpec, apply_changes, compose, load_method, load_suite, rows_of_suite
from lavita.config.plan import check_identical, deviations, experiment_from_dict, make_plan, read_config, write_config
from lavita.config.registry import PLUGINS, add_plugin, names_in
from lavita.config.schema import ConfigError
from lavita.results.identity import config_hash
from lavita.suite.record import origins

TEMPLATE = Path(__file__).parents[2] / "docs" / "template"
DATA_SETS = [name for name in names_in("suites") if load_suite(name).rows is None]
CHOICES = [name for name in names_in("suites") if load_suite(name).rows is not None]
MIXED = "bf16-mixed"
ARITHMETIC = "sampling.precision: 32-true -> bf16-mixed"
BY_DEFAULT = ["lavita-v1", "lavita-v2", "lavita-v3", "lavita-v4", "dit", "dit-joint", "vdt", "pvdm", "lvdm", "mcvd"]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("suite", DATA_SETS)
def test_every_suite_and_tier(suite, tier):
    experiments = make_plan(suite, tier, None, [0, 1], [])
    assert (
        [one.label for one in experiments[::2]]
        == BY_DEFAULT
        == [row.label for row in rows_of_suite(load_suite(suite), tier)]
    )
    assert {experiment.seed for experiment in experiments} == {0, 1}
    assert len({experiment.budget for experiment in experiments}) == 1
    # MCVD is trained at 64x64 where the others are at 256x256, and its protocol says so.
    others = [one for one in experiments if one.method != "mcvd" or tier != "paper"]
    assert len({one.protocol for one in others}) == len({one.data for one in others}) == 1
    assert all(
        experiment.conditioning == ("class" if suite == "ucf101-class" else "none") for experiment in experiments
    )
    assert all(experiment.budget.clips % experiment.train.batch_clips == 0 for experiment in experiments)


def test_same_rule_for_all_below_paper():
    for tier in ("small", "demo"):
        experiments = make_plan("ucf101", tier, None, [0], [])
        rules = {
            (c.train.batch_clips, c.train.learning_rate, c.train.ema_halflife_share, c.train.warmup_clips)
            for c in experiments
        }
        assert len(rules) == 1
        assert len({experiment.sampling.steps for experiment in experiments}) == 1


@pytest.mark.parametrize("suite", [name for name in DATA_SETS if load_suite(name).conditioning == "none"])
def test_paper_keeps_the_authors_values_but_for_the_arithmetic(suite):
    for experiment in make_plan(suite, "paper", None, [0], []):
        assert deviations(experiment) == [ARITHMETIC]


def test_deviations_are_listed():
    (experiment,) = make_plan("ucf101", "paper", ["dit"], [0], ["train.learning_rate=0.0003", "model.size=B"])
    assert deviations(experiment) == ["train.learning_rate: 0.0001 -> 0.0003", ARITHMETIC, "model.size: XL -> B"]


def test_weight_files_are_outside_help_wherever_they_lie():
    """LPIPS's files open the row; neither hash nor list of deviations holds a path, but the hash knows of them."""
    here, there = (
        make_plan(
            "ucf101", "demo", ["pvdm"], [0], [f"model.lpips_vgg={at}/vgg16.pth", f"model.lpips_linear={at}/l.pth"]
        )[0]
        for at in ("/here", "/there")
    )
    (without,) = make_plan("ucf101", "demo", ["pvdm"], [0], [])
    assert here.external_weights == {"model.lpips_vgg": "/here/vgg16.pth", "model.lpips_linear": "/here/l.pth"}
    assert not without.external_weights and experiment_from_dict(asdict(here)) == here
    assert config_hash(here) == config_hash(there) != config_hash(without)
    assert deviations(here) == deviations(there) and "model.lpips_vgg: none -> an external file" in deviations(here)
    assert here.division == "open" and without.division == "closed"


def test_grad_clipping_starts_as_published_for_each_data_set():
    starts = {s: make_plan(s, "paper", ["lavita-v1"], [0], [])[0].train.grad_clip_start_clips for s in DATA_SETS}
    steps = {
        "ucf101": 100_000,
        "ucf101-class": 100_000,
        "skytimelapse": 20_000,
        "faceforensics": 20_000,
        "taichi": 500_000,
    }
    assert starts == {suite: 40 * count for suite, count in steps.items()}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["budget.clip=3"], "unknown key budget.clip: did you mean 'budget.clips'"),
        (["budget.clips"], "wanted section.key=value"),
        (["budget.clips=many"], "budget.clips: got 'many', wanted int"),
        (["data.resolution=64"], "set both"),
        (["train.ema_decay=0.9"], "exactly one of ema_decay and ema_halflife_share"),
        (["protocol.split=test"], "protocol.split"),
    ],
)
def test_wrong_overrides(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_plan("ucf101", "demo", None, [0], overrides)


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ucf101'"):
        make_plan("ucf10", "demo", None, [0], [])
    with pytest.raises(ConfigError, match="did you mean 'lavita-v"):
        make_plan("ucf101", "demo", ["lavita-v9"], [0], [])
    with pytest.raises(ConfigError, match="paper, small, demo"):
        make_plan("ucf101", "tiny", None, [0], [])


def test_a_method_on_request_is_a_row_where_it_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "asked"
    shutil.copytree(TEMPLATE, folder)
    settings = folder / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", ": asked\n") + "on_request: true\n")
    monkeypatch.setenv(PLUGINS, "")
    add_plugin(folder)
    assert "asked" not in [one.label for one in make_plan("ucf101", "demo", None, [0], [])]
    assert [one.label for one in make_plan("ucf101", "demo", ["dit", "asked"], [0], [])] == ["dit", "asked"]
    suite = load_suite("ucf101")
    assert "asked" not in [row.label for row in rows_of_suite(suite, "demo")]
    assert "asked" in [row.label for row in rows_of_suite(suite, "demo", {"asked"})]
    with pytest.raises(ConfigError, match="did you mean 'asked'"):
        make_plan("ucf101", "demo", ["askd"], [0], [])


def test_a_key_of_one_method_is_passed_over_by_the_others():
    experiments = make_plan("ucf101", "demo", ["lavita-v1", "vdt"], [0], ["model.time_positions=rotary"])
    assert experiments[0].model["time_positions"] == "rotary"
    assert "time_positions" not in experiments[1].model


def test_protocol_name_says_what_was_changed():
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], ["protocol.n_real=16", "protocol.n_generated=16"])
    assert experiment.protocol.name == "demo[n=16]"
    assert experiment.protocol.hash() != make_plan("ucf101", "demo", ["dit"], [0], [])[0].protocol.hash()


def test_configuration_round_trip(tmp_path):
    for experiment in make_plan("ucf101", "demo", None, [0], []):
        write_config(experiment, tmp_path / "config.yaml")
        assert read_config(tmp_path / "config.yaml") == experiment
        assert experiment_from_dict(asdict(experiment)) == experiment


def test_config_hash_ignores_where_the_data_lies_and_nothing_else():
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], [])
    assert config_hash(replace(experiment, data=replace(experiment.data, root="elsewhere"))) == config_hash(experiment)
    assert config_hash(replace(experiment, seed=1)) != config_hash(experiment)
    assert config_hash(replace(experiment, data=replace(experiment.data, interval=2))) != config_hash(experiment)
    assert config_hash(replace(experiment, data=replace(experiment.data, num_workers=None))) == config_hash(experiment)


def test_arithmetic_is_part_of_a_runs_identity():
    changes = ("compute.precision=bf16-mixed", "compute.compile=true", "compute.compile=auto")
    changes += ("sampling.precision=bf16-mixed",)
    plans = [make_plan("ucf101", "demo", ["dit"], [0], [*change])[0] for change in ([], *([one] for one in changes))]
    assert len({config_hash(experiment) for experiment in plans}) == len(plans)
    assert plans[2].compute.compile is True and plans[3].compute.compile == "auto"
    assert "sampling.precision: 32-true -> bf16-mixed" in deviations(plans[4])


def test_demo_computes_as_ever_and_the_other_tiers_fast():
    for tier, precision, compiled in (("demo", "32-true", False), ("small", MIXED, "auto"), ("paper", MIXED, "auto")):
        for experiment in make_plan("ucf101", tier, None, [0], []):
            found = (experiment.compute.precision, experiment.sampling.precision, experiment.compute.compile)
            assert found == (precision, precision, compiled)
            assert experiment.data.num_workers == (0 if tier == "demo" else None)


def test_suites_of_choices_compare_with_their_first_row():
    assert CHOICES == ["ablations", "scaling", "space"]
    for suite in CHOICES:
        for tier in TIERS:
            experiments = make_plan(suite, tier, None, [0], [])
            assert len({experiment.label for experiment in experiments}) == len(experiments) >= 3
            assert all(experiment.cell == f"{experiment.label}-s0" for experiment in experiments)
    assert len(make_plan("ablations", "demo", None, None, [])) == 2 * len(make_plan("ablations", "demo", None, [0], []))


def test_a_choice_changes_what_it_names_and_nothing_else():
    base, rotary = make_plan("ablations", "demo", ["lavita-v1", "lavita-v1-rotary"], [0], [])
    assert (base.label, rotary.label) == ("lavita-v1", "lavita-v1-rotary")
    changed = base.model | {"time_positions": "rotary"}
    assert replace(rotary, choice="", model=base.model) == base and rotary.model == changed
    assert "model.time_positions: sincos -> rotary" in deviations(rotary)


def test_a_choice_wins_over_the_command_line_and_all_rows_of_a_method_can_be_named():
    experiments = make_plan("space", "demo", ["lavita-v1"], [0], ["model.patch_size=4", "budget.clips=4096"])
    assert [experiment.label for experiment in experiments] == [
        "lavita-v1-latents",
        "lavita-v1-pixels-p8",
        "lavita-v1-pixels-p4",
    ]
    assert [experiment.model["patch_size"] for experiment in experiments] == [4, 8, 4]
    assert {experiment.budget.clips for experiment in experiments} == {4096}
    assert [experiment.codec.kind for experiment in experiments] == ["suite", "pixels", "pixels"]


def test_pixels_are_not_to_be_stored():
    assert {e.data.latent_cache for e in make_plan("space", "paper", None, [0], [])} == {"auto"}
    with pytest.raises(ConfigError, match="data.latent_cache: got true, but pixels have no latents to store"):
        make_plan("space", "paper", None, [0], ["data.latent_cache=true"])


def test_only_what_a_row_varies_by_name_may_differ():
    base, interval = make_plan("ablations", "demo", ["lavita-v1", "lavita-v1-interval1"], [0], [])
    assert base.protocol.hash() != interval.protocol.hash() and interval.data.interval == 1
    check_identical([base, interval], {"lavita-v1": set(), "lavita-v1-interval1": {"data", "protocol"}})
    with pytest.raises(ConfigError, match="of lavita-v1-interval1 differs from that of lavita-v1"):
        check_identical([base, interval], {"lavita-v1": set(), "lavita-v1-interval1": {"data"}})


def test_an_unknown_key_in_a_row_is_named():
    config = compose(load_suite("ucf101"), "demo", load_method("dit"), True)
    with pytest.raises(ConfigError, match="row dit-x: unknown key model.modes: did you mean 'model.mode'"):
        apply_changes(config, RowSpec("dit", "x", {"model": {"modes": "joint"}}), "suites/test")


def test_where_outside_files_lie_is_no_part_of_the_hash():
    def hashed(*overrides):
        return config_hash(make_plan("ucf101", "demo", ["dit"], [0], list(overrides))[0])

    one, other = ((f"pretraining.checkpoint={name}.pt", f"pretraining.origin={name}") for name in "ab")
    assert hashed(*one) == hashed(*other) != hashed()
    with pytest.raises(ConfigError, match="pretraining.origin: not set; say where pretraining.checkpoint comes from"):
        hashed("pretraining.checkpoint=a.pt")
    assert hashed("codec.path=a", "codec.kind=kl") == hashed("codec.path=b", "codec.kind=kl") != hashed()


@pytest.mark.parametrize("tier", ["small", "demo"])
def test_guidance_below_paper_acts_on_the_same_channels_for_every_method(tier):
    experiments = make_plan("ucf101-class", tier, None, [0], [])
    assert len(experiments) > 1 and {experiment.sampling.guided_channels for experiment in experiments} == {None}
    (own,) = make_plan("ucf101-class", "paper", ["dit"], [0], [])
    assert own.sampling.guided_channels == 3


@pytest.mark.parametrize(
    "key, value", [("mirror", "true"), ("real_codec", "jpeg-q75"), ("clip_selection", "random-start")]
)
def test_a_run_refuses_what_it_can_not_follow(key, value):
    with pytest.raises(ConfigError, match=f"protocol.{key}: a run scores with .*evaluate.py"):
        make_plan("ucf101", "demo", ["dit"], [0], [f"protocol.{key}={value}"])


def test_one_batch_for_all_is_the_first_rows_whichever_rows_are_run():
    own = {experiment.label: experiment.train.batch_clips for experiment in make_plan("ucf101", "paper", None, [0], [])}
    assert own["lavita-v1"] == 40 and len(set(own.values())) > 1
    equal = make_plan("ucf101", "paper", ["dit", "pvdm"], [0], ["fairness.batch=equal"])
    assert {experiment.train.batch_clips for experiment in equal} == {40}
    assert "train.batch_clips: 16 -> 40" in deviations(equal[0])
    with pytest.raises(ConfigError, match="fairness.batch: got 'same', allowed authors, equal"):
        make_plan("ucf101", "paper", ["dit"], [0], ["fairness.batch=same"])


def test_a_tier_has_sizes_of_its_own_for_synthetic_videos():
    """Where data.root names no folder; given sizes win over both, and either tier says where a value comes from."""
    drawn, real = (make_plan("ucf101", "demo", ["dit"], [0], words)[0] for words in ([], ["data.root=/videos"]))
    assert (drawn.model["size"], drawn.codec.downsample, drawn.budget.clips) == ("XXS", 16, 24576)
    assert (real.model["size"], real.codec.downsample, real.budget.clips) == ("XXS", 4, 12288)
    assert make_plan("ucf101", "demo", ["dit"], [0], ["data.root=null"]) == [drawn]
    given = ["budget.clips=4096", "codec.downsample=8"]
    chosen = make_plan("ucf101", "demo", ["dit"], [0], given)[0]
    assert (chosen.budget.clips, chosen.codec.downsample, chosen.codec.latent_channels) == (4096, 8, 16)
    for experiment in (drawn, real):
        found = origins(experiment, load_method("dit"), ["train.learning_rate", "model.size"])
        assert found["train.learning_rate"] == "tier demo, one rule for every method"
        assert found["model.size"] == "the method's size at tier demo"
