"""The card of a method: published values, where others come from, the README's words; and what is absent."""

import pytest

from lavita.config.plan import make_plan
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError
from lavita.report import published
from lavita.report.published import not_yet
from lavita.results.run_folder import AbsentSystem
from lavita.suite.record import SECTIONS, card_of, sections_of


def card(*overrides, suite="ucf101", tier="demo", methods=("pvdm",)):
    (experiment,) = make_plan(suite, tier, methods, [0], overrides)
    return card_of(experiment)


def test_published_values_and_where_others_come_from():
    found = card("train.weight_decay=0.5", "data.root=/videos")
    assert found.authors["sampling.steps"] == "400" and found.authors["model.unet_channels"] == 256
    assert found.why["train.learning_rate"] == "tier demo, one rule for every method"
    assert found.why["model.unet_channels"] == "the method's size at tier demo"
    assert found.why["train.weight_decay"] == "the command line"
    assert "model.patch_size" not in found.why  # as published
    assert card().why["model.patch_size"] == "the method's size at tier demo"  # another for synthetic videos


def test_values_of_a_data_set_count_as_published():
    assert card(suite="skytimelapse").authors["model.previous_clip_probability"] == 0.2


def test_guidance_comes_from_the_suite_and_a_choice_from_its_row():
    found = card(suite="ucf101-class")
    assert found.why["sampling.guidance"] == "suite ucf101-class at tier demo, the same for every row"
    found = card(suite="ablations", methods=["lavita-v1-rotary"])
    assert found.why["model.time_positions"] == "the row lavita-v1-rotary of suite ablations"
    found = card(suite="ablations", methods=["lavita-v1-pretrained"])
    assert found.why["pretraining"] == "the row lavita-v1-pretrained of suite ablations"


@pytest.mark.parametrize("name", names_in("methods"))
def test_every_method_has_every_section(name):
    assert list(card(methods=[name]).about) == list(SECTIONS)


def test_a_method_without_a_readme_has_no_sections(tmp_path):
    assert sections_of(tmp_path / "README.md") == {}


def test_what_is_not_built_is_listed_until_it_is(tmp_path, monkeypatch):
    names = [one.name for one in not_yet()]
    # The systems that the paper's reviewers name, less those that are methods by now.
    wanted = {"lvdm", "mcvd", "video-ldm", "long-video-gan", "mostgan-v"} - set(names_in("methods"))
    assert wanted <= set(names) and not set(names) & set(names_in("methods"))
    file = tmp_path / "not_yet.yaml"
    file.write_text("- {name: dit, title: DiT, source: ''}\n- {name: new, title: New, source: ''}\n")
    monkeypatch.setattr(published, "FILE", file)
    assert not_yet() == [AbsentSystem("new", "New", "")]
    file.write_text("- {name: new, title: New, sources: ''}\n")
    with pytest.raises(ConfigError, match="did you mean 'source'"):
        not_yet()
