"""Who may import whom, read from the source: one ordered list, each package only what stands before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lavita"
ORDER = (
    "shapes", "files", "lock", "console", "config", "diffusion", "nn", "data", "results", "training", "codecs",
    "metrics", "methods", "baselines", "sampling", "report", "audit", "executors", "experiment", "suite", "parity",
    "speed", "api", "commands", "cli",
)  # fmt: skip
# What a method's folder may use. Its parity.py is an exception: it belongs to the package parity.
FOR_METHODS = {"shapes", "files", "config", "diffusion", "nn", "codecs", "training", "methods"}
LARGEST_FOLDER = 20


def imported(path: Path, package: str) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it; package: the dotted name of its folder."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "lavita" else {base}
    return found


def parts_of(names: set[str]) -> set[str]:
    """The packages of ours among absolute names."""
    return {name.split(".")[1] for name in names if name.startswith("lavita.")} - {"__version__"}


def files() -> list[tuple[Path, str, str]]:
    """(file, its place in ORDER, dotted name of its folder) of every source file."""
    found = []
    for root, start in ((SOURCE, ("lavita",)), (ROOT / "baselines", ("lavita", "baselines"))):
        for path in sorted(root.rglob("*.py")):
            if root == SOURCE and "baselines" in path.relative_to(root).parts:
                continue  # a link to baselines/
            parts = (*start, *path.relative_to(root).with_suffix("").parts)
            place = "parity" if path.name == "parity.py" and parts[1] in ("methods", "baselines") else parts[1]
            found.append((path, place, ".".join(parts[:-1])))
    return found


@pytest.mark.parametrize("place", ORDER)
def test_each_package_imports_only_what_stands_before_it(place):
    allowed = set(ORDER[: ORDER.index(place) + 1])
    for path, own, package in files():
        if own == place:
            assert parts_of(imported(path, package)) <= allowed, path


def test_the_order_names_every_package():
    places = {place for _, place, _ in files()} - {"__init__", "__main__"}
    assert places == set(ORDER)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "baselines").glob("*/module.py")))
def test_a_baseline_uses_no_other_and_nothing_that_judges(folder):
    for path in (ROOT / "baselines" / folder).glob("*.py"):
        if path.name == "parity.py":
            continue
        names = imported(path, f"lavita.baselines.{folder}")
        others = {name for name in names if name.startswith("lavita.baselines.")}
        assert all(name.startswith(f"lavita.baselines.{folder}") for name in others), path
        assert parts_of(names) - {"baselines"} <= FOR_METHODS, path


def test_folders_are_small():
    for folder in {path.parent for path, _, _ in files()}:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        assert count <= LARGEST_FOLDER, f"{folder}: {count} files"


@pytest.mark.parametrize("module", ["results.run_folder", "report.page", "audit.files", "suite.run", "commands.run"])
def test_launcher_records_report_and_file_checks_load_no_torch(module):
    """Asked of a fresh interpreter, since imports of imports count as well."""
    code = (
        f"import sys, lavita.{module}; print([name for name in ('torch', 'lightning', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
