"""Which methods the contract is checked for: those of --plugin PATH, or all of the repository and the template."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lavita.config.registry import PLUGINS, add_plugin, names_in
from lavita.config.schema import ConfigError

ROOT = Path(__file__).resolve().parents[2]

TEMPLATE = ROOT / "docs" / "template"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plugin",
        action="append",
        default=None,
        dest="method_folders",
        metavar="PATH",
        help="tests/contract: check the method in this folder, in place of those of the repository (repeatable)",
    )


def method_names(folders: list[str]) -> tuple[list[str], str]:
    """The methods to check, and what the environment variable must say for them to be found. Raises ConfigError."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, os.environ.get(PLUGINS, ""))
        given = [add_plugin(Path(folder)) for folder in folders or [TEMPLATE]]
        return given if folders else names_in("methods"), os.environ[PLUGINS]


def pytest_configure(config: pytest.Config) -> None:
    chosen(config)  # a wrong folder is an error before anything is imported


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "method_name" in metafunc.fixturenames:
        names, _ = chosen(metafunc.config)
        metafunc.parametrize("method_name", names, scope="module")


def chosen(config: pytest.Config) -> tuple[list[str], str]:
    """As method_names, for the command line; a wrong folder ends the call with its one line."""
    try:
        return method_names(config.getoption("method_folders", default=None) or [])
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="module")
def plugins_are_known(request: pytest.FixtureRequest):
    """For one file of tests, so that no other test meets a method that is not the repository's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, chosen(request.config)[1])
        yield


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --plugin only that method is checked, not the checks themselves."""
    given = config.getoption("method_folders", default=None)
    return (
        True if given and collection_path.name.startswith("test_") and collection_path.stem != "test_contract" else None
    )
