"""A method that an installed distribution declares is found by name; a wrong declaration is one line."""

from __future__ import annotations

import re
import sys

import pytest

from lavita.config.plan import make_plan
from lavita.config.registry import (
    PLUGINS,
    add_plugin,
    config_path,
    implementation_folder,
    installed_methods,
    load_implementation,
    names_in,
)
from lavita.config.schema import ConfigError
from lavita.results.identity import code_hash, source_files
from tests.config.declared import install


@pytest.fixture(autouse=True)
def site(tmp_path, monkeypatch):
    """A folder of packages that Python looks into, and nothing that another test has left."""
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.syspath_prepend(str(tmp_path))
    installed_methods.cache_clear()
    yield tmp_path
    installed_methods.cache_clear()
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


def test_it_is_found_like_a_baseline(site):
    before = names_in("methods")
    installed_methods.cache_clear()
    folder = install(site)
    assert names_in("methods") == sorted([*before, "mine"])
    assert config_path("methods", "mine") == folder / "method.yaml"
    assert implementation_folder("mine") == folder
    implementation = load_implementation("mine")
    assert implementation.__file__ == str(folder / "module.py")
    assert implementation.Method.__module__ == "their_package.mine.module"
    assert make_plan("skytimelapse", "paper", None, None, [])[-1].label == "mine"


def test_its_sources_are_hashed_and_not_its_place(site):
    folder = install(site)
    (experiment,) = make_plan("ucf101", "demo", ["mine"], [0], [])
    names = [name for name in source_files(experiment) if name.startswith("their_package")]
    assert sorted(names) == ["their_package/mine/model.py", "their_package/mine/module.py"]
    before = code_hash(experiment)
    with open(folder / "model.py", "a") as file:
        file.write("# changed\n")
    assert code_hash(experiment) != before


def test_the_flag_names_the_same_folder_or_another_name(site, tmp_path):
    folder = install(site)
    assert add_plugin(folder) == "mine"
    other = install(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="the name 'mine' is taken"):
        add_plugin(other)


def raising(site):
    install(site)
    (site / "their_package" / "__init__.py").write_text("raise RuntimeError('no licence\\nfound')")


WRONG = {
    "no package": (lambda site: install(site, entry="mine = nowhere.mine"), "can't be found (ModuleNotFoundError"),
    "no module": (lambda site: install(site, entry="mine = their_package.other"), "wanted a package, a folder with"),
    "a file": (lambda site: install(site, entry="mine = their_package.mine.module"), "wanted a package, a folder with"),
    "another name": (lambda site: install(site, entry="yours = their_package.mine"), "the name of its folder, mine"),
    "not what it says": (lambda site: install(site, entry="their_package = their_package"), "has no module.py"),
    "no settings": (lambda site: (install(site) / "method.yaml").unlink(), "has no method.yaml"),
    "a name of ours": (lambda site: install(site, name="vdt"), "the name 'vdt' is taken"),
    "a package that raises": (raising, "(RuntimeError: no licence found)"),
    "two packages": (
        lambda site: (install(site), install(site, package="their_other")),
        "the name 'mine' is taken",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_declaration_is_one_line(site, what):
    declare, message = WRONG[what]
    declare(site)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        names_in("methods")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("entry point ")
    assert "in group lavita.methods" in str(caught.value)
