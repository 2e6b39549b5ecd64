"""YAML with Python objects and references to the environment, at every door: nothing is made, nothing is looked up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from lavita.audit.settings import config_lines
from lavita.config import registry
from lavita.config.compose import compose, load_method, load_suite, load_yaml
from lavita.config.plain_yaml import read_yaml
from lavita.config.plan import experiment_from_dict, read_config
from lavita.data import catalogue, sources
from lavita.report import published
from lavita.results.run_folder import read_run
from tests.report.folder_of_run import make_run
from tests.safety.evil import one_line, yaml_texts

KINDS = tuple(yaml_texts(Path("x")))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def secret(monkeypatch) -> str:
    """What no file may find out."""
    monkeypatch.setenv("HOME", "/secret-of-the-environment")
    return "secret-of-the-environment"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["value", "key", "section", "list", "document"])
def test_a_file_is_plain_values_or_refused(tmp_path, kind, place, secret):
    marker, path = tmp_path / "marker", tmp_path / "evil.yaml"
    text = yaml_texts(marker)[kind]
    shape = {
        "value": "train:\n  beta1: 0.5\n  rate: {}\n",
        "key": "train:\n  beta1: 0.5\n  ? {}\n  : 1\n",
        "section": "train: {}\n",
        "list": "- 1\n- [2, {}]\n",
        "document": "{}\n",
    }[place]
    path.write_text(shape.format(text if text.startswith("!!") else f'"{text}"'))
    with pytest.raises(ValueError) as caught:
        read_yaml(path)
    said = one_line(caught.value)
    assert str(path) in said and not marker.exists() and secret not in said


def test_plain_files_are_read_as_before(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("a: 1e-4\nb: [1, x, {c: null}]\nd: cost $5 {not a reference}\n")
    assert read_yaml(path) == {"a": 1e-4, "b": [1, "x", {"c": None}], "d": "cost $5 {not a reference}"}
    for wrong in ("a: [", "a: 1\na: 2\n", "\x00"):
        path.write_text(wrong)
        with pytest.raises(ValueError) as caught:
            read_yaml(path)
        one_line(caught.value)
    with pytest.raises(ValueError, match="nowhere.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugins_file(tmp_path, kind, secret, monkeypatch):
    marker, folder = tmp_path / "marker", tmp_path / "mine"
    shutil.copytree(ROOT / "docs" / "template", folder)
    path = folder / registry.METHOD_FILE
    good = (
        path.read_text()
        .replace("name: template", "name: mine")
        .replace("implementation: template", "implementation: mine")
    )
    path.write_text(good)
    monkeypatch.setenv(registry.PLUGINS, "")
    registry.add_plugin(folder)
    text = yaml_texts(marker)[kind]
    path.write_text(good + f"\nextra: {text if text.startswith('!!') else repr(text)}\n")
    for read in (
        lambda: registry.add_plugin(folder),
        lambda: load_method("mine"),
        lambda: load_yaml("methods", "mine"),
    ):
        with pytest.raises(ValueError) as caught:
            read()
        said = one_line(caught.value)
        assert not marker.exists() and secret not in said
    # Where the references stand among values that are merged with others.
    values = yaml.safe_load(good)
    values["datasets"] = {"ucf101": {"train": text}}
    path.write_text(yaml.safe_dump(values))
    if not text.startswith("!!"):
        with pytest.raises(ValueError):
            compose(load_suite("ucf101"), "demo", load_method("mine"), True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_in_a_results_folder(tmp_path, kind, secret):
    marker, run = tmp_path / "marker", make_run(tmp_path / "run")
    record = next(iter(read_run(run).attempts))
    path = run / "cells" / record.name / "config.yaml"
    text = yaml_texts(marker)[kind]
    path.write_text(f"suite: {text if text.startswith('!!') else repr(text)}\n")
    folder = read_run(run)
    (line,) = config_lines(folder, next(one for one in folder.attempts if one.name == record.name))
    assert line.verdict == "fail" and "config.yaml" in line.text and "\n" not in line.text, line
    assert not marker.exists() and secret not in line.text
    with pytest.raises(Exception) as caught:  # its own process says the first line of whatever this is
        read_config(path)
    assert not marker.exists() and secret not in str(caught.value)


def test_references_in_a_record_stay_text(secret):
    """Records are JSON: what stands in them is never given to a reader that replaces references."""
    experiment = read_config_of_a_plan()
    values = experiment | {"data": experiment["data"] | {"root": "${oc.env:HOME}"}}
    assert experiment_from_dict(values).data.root == "${oc.env:HOME}"


def read_config_of_a_plan() -> dict:
    from dataclasses import asdict

    from lavita.config.plan import make_plan

    return asdict(make_plan("ucf101", "demo", ["lavita-v1"], [0], [])[0])


@pytest.mark.parametrize("kind", ["apply", "new", "name"])
def test_files_of_the_repository_are_read_as_carefully(tmp_path, kind, monkeypatch):
    marker, path = tmp_path / "marker", tmp_path / "ucf101.yaml"
    path.write_text(f"name: {yaml_texts(marker)[kind]}\n")
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    monkeypatch.setattr(published, "FILE", path)
    for read in (lambda: catalogue.dataset_facts("ucf101"), lambda: sources.read_source("ucf101"), published.not_yet):
        with pytest.raises((ValueError, yaml.YAMLError)):
            read()
        assert not marker.exists()
