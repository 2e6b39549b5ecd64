"""Every name that lavita exports, and every metric, has an example in its docstring that runs; docs/api.md has them."""

from __future__ import annotations

import doctest
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lavita
from lavita.metrics import torchmetrics
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "api_page.py"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# The first makes the results folder that the next two read.
FUNCTIONS = ["run_suite", "compose", "load", "sample", "evaluate"]
EXAMPLES = {name: f"lavita.{name}" for name in FUNCTIONS}
METRICS = [name for name in torchmetrics.__all__]


def documented(name: str) -> Callable:
    return getattr(lavita if name in FUNCTIONS else torchmetrics, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The working directory of the examples: an extractor that knows nothing, and what the examples before left."""
    base = tmp_path_factory.mktemp("examples")
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(3), {}), base / "extractor.safetensors")
    return base


@pytest.mark.parametrize("name", FUNCTIONS + METRICS)
def test_the_example_runs(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said: list[str] = []
    found = doctest.DocTestFinder(recurse=False).find(documented(name), name, globs={})
    assert sum(len(test.examples) for test in found) >= 2, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_all_that_is_exported_is_among_them():
    assert set(lavita.__all__) == {"__version__", *FUNCTIONS}
    assert set(lavita.__all__) <= set(dir(lavita))


def page() -> str:
    spec = importlib.util.spec_from_file_location("api_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_the_page_is_what_the_docstrings_say():
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == page(), "python docs/api_page.py writes it anew"


def test_the_page_has_all_of_them_and_the_readme_links_it():
    text = page()
    assert all(f"## `lavita.{name}`" in text for name in FUNCTIONS)
    assert all(f"`{name}`" in text for name in METRICS)
    assert "(docs/api.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lavita' has no attribute 'evalute'"):
        lavita.evalute  # noqa: B018


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, lavita, lavita.api; dir(lavita); print([n for n in ('torch', 'numpy', 'av') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
