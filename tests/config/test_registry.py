"""A method from outside the repository is found like one of its own; a wrong folder is one line of what to do."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lavita.config import registry
from lavita.config.plan import deviations, make_plan
from lavita.config.registry import (
    PLUGINS,
    add_plugin,
    config_path,
    implementation_folder,
    load_implementation,
    names_in,
)
from lavita.config.schema import ConfigError
from lavita.executors.process import environment_of_processes
from lavita.results.identity import code_hash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch):
    monkeypatch.setenv(PLUGINS, "")


def copied(base: Path, name: str) -> Path:
    """A copy of the template in base/name, with its settings renamed."""
    folder = base / name
    shutil.copytree(ROOT / "docs" / "template", folder)
    settings = folder / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", f": {name}\n"))
    return folder


def test_a_plugin_is_found_like_a_baseline(tmp_path):
    before = names_in("methods")
    folder = copied(tmp_path, "outside-one")
    assert add_plugin(folder) == "outside-one"
    assert names_in("methods") == sorted([*before, "outside-one"])
    assert names_in("suites") == sorted(path.stem for path in (ROOT / "configs" / "suites").glob("*.yaml"))
    assert config_path("methods", "outside-one") == folder / "method.yaml"
    assert implementation_folder("outside-one") == folder
    implementation = load_implementation("outside-one")
    assert implementation.__file__ == str(folder / "module.py")
    assert implementation.Method.__module__ == "plugins.outside-one.module"


def test_a_plugin_is_a_row_of_every_data_set(tmp_path):
    add_plugin(copied(tmp_path, "outside-two"))
    experiments = make_plan("skytimelapse", "paper", None, None, [])
    assert experiments[-1].label == "outside-two"  # order 90, after all of ours
    assert deviations(experiments[-1]) == ["sampling.precision: 32-true -> bf16-mixed"]


def test_processes_of_runs_find_it_wherever_they_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied(tmp_path, "one"), copied(tmp_path, "two")
    add_plugin("one")
    add_plugin(Path("two"))
    add_plugin(tmp_path / "one")  # twice is once
    assert os.environ[PLUGINS].split(os.pathsep) == [str(tmp_path / "one"), str(tmp_path / "two")]


def test_code_hash_follows_the_folders_sources_and_not_its_place(tmp_path, monkeypatch):
    first = copied(tmp_path / "a", "moved")
    add_plugin(first)
    (experiment,) = make_plan("ucf101", "demo", ["moved"], [0], [])
    before = code_hash(experiment)
    assert before != code_hash(replace(experiment, implementation="vdt"))
    (first / "notes.md").write_text("no source")
    assert code_hash(experiment) == before
    shutil.copytree(first, tmp_path / "b" / "moved")
    monkeypatch.setenv(PLUGINS, str(tmp_path / "b" / "moved"))
    assert code_hash(experiment) == before
    with open(tmp_path / "b" / "moved" / "model.py", "a") as file:
        file.write("# changed\n")
    assert code_hash(experiment) != before
    monkeypatch.setenv(PLUGINS, str(first))
    (first / "more").mkdir()
    (first / "more" / "part.py").write_text("")
    assert code_hash(experiment) != before


def rename(folder: Path, old: str, new: str) -> None:
    path = folder / "method.yaml"
    path.write_text(path.read_text().replace(old, new))


WRONG = {
    "no folder": (lambda f: shutil.rmtree(f), "no such folder"),
    "no module": (lambda f: (f / "module.py").unlink(), "has no module.py"),
    "no settings": (lambda f: (f / "method.yaml").unlink(), "has no method.yaml"),
    "broken settings": (lambda f: (f / "method.yaml").write_text("a: [1"), "method.yaml: "),
    "settings that are a list": (lambda f: (f / "method.yaml").write_text("- 1\n"), "has name: None"),
    "other name": (lambda f: rename(f, "\nname: wrong", "\nname: right"), "has name: right, wanted the folder's name"),
    "other implementation": (
        lambda f: rename(f, "implementation: wrong", "implementation: dit"),
        "implementation: dit",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_folder_is_one_line(tmp_path, what):
    folder = copied(tmp_path, "wrong")
    break_it, message = WRONG[what]
    break_it(folder)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        add_plugin(folder)
    assert "\n" not in str(caught.value) and f"--plugin {folder}" in str(caught.value)
    assert not os.environ[PLUGINS]


@pytest.mark.parametrize("name", ["vdt", "lavita-v1", "lavita", "dit-joint"])
def test_a_name_of_ours_is_taken(tmp_path, name):
    with pytest.raises(ConfigError, match=f"the name '{name}' is taken"):
        add_plugin(copied(tmp_path, name))


def test_a_name_of_another_plugin_is_taken(tmp_path):
    add_plugin(copied(tmp_path / "a", "same"))
    with pytest.raises(ConfigError, match="the name 'same' is taken"):
        add_plugin(copied(tmp_path / "b", "same"))


def test_a_name_that_no_module_can_have(tmp_path):
    with pytest.raises(ConfigError, match="letters, digits, - and _"):
        add_plugin(copied(tmp_path, "my.method"))


def test_what_is_not_there_is_met_with_the_flag():
    with pytest.raises(ConfigError, match="--plugin PATH"):
        implementation_folder("elsewhere")


def test_processes_get_the_folder_of_a_checkout_and_of_no_installed_copy(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert environment_of_processes({})["PYTHONPATH"] == str(registry.PACKAGE.parent)
    # Put before the standard library, an interpreter's packages could stand in for it.
    monkeypatch.setattr(registry, "PACKAGE", Path("/usr/lib/python3.11/site-packages/lavita"))
    assert "PYTHONPATH" not in environment_of_processes({})
    assert environment_of_processes({"PYTHONPATH": "own"})["PYTHONPATH"] == "own"
