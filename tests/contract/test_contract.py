"""Does a method do what docs/adding_a_method.md asks? `pytest tests/contract --plugin PATH` checks your own."""

from __future__ import annotations

import pytest

from lavita.config.compose import load_method
from lavita.config.registry import BUILT_IN, implementation_folder, load_implementation

from . import checks, folder_checks
from .subject import Subject, subject_of

pytestmark = pytest.mark.usefixtures("plugins_are_known")


@pytest.fixture(scope="module")
def subject(plugins_are_known, method_name) -> Subject:
    """The method with classes where it takes part in such a suite, else without."""
    return subject_of(method_name, "class") or subject_of(method_name, "none")


@pytest.fixture
def implementation(plugins_are_known, method_name) -> str:
    return load_method(method_name).implementation


def test_configuration_composes(method_name):
    checks.check_composes(method_name)


def test_config_is_a_frozen_dataclass(implementation):
    checks.check_config_class(load_implementation(implementation).Config)


def test_budget_is_split_exactly_at_every_tier(method_name):
    checks.check_budget(method_name)


@pytest.mark.parametrize("conditioning", ["none", "class"])
def test_builds_and_has_a_loss(method_name, conditioning):
    subject = subject_of(method_name, conditioning)
    if subject is None:
        pytest.skip(f"{method_name} takes part in no suite with conditioning {conditioning}")
    checks.check_loss(subject)


@pytest.mark.parametrize("check", checks.OF_A_METHOD[1:], ids=lambda check: check.__name__)
def test_method(subject, check):
    check(subject)


@pytest.mark.parametrize("check", [folder_checks.check_readme, folder_checks.check_imports])
def test_folder(implementation, check):
    if implementation == BUILT_IN:
        pytest.skip("lavita itself is no folder with a README of its own")
    check(implementation_folder(implementation))
