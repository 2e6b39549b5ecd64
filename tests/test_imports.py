"""Who may import whom, read from the source: the two data paths stay in one direction."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FREE = {"shape", "config", "registry", "inside", "plain_yaml", "whole", "kept", "lock"}
ALLOWED = {
    "diffusion": {"diffusion"},
    "data": {"data"},
    "models": {"models"},
    "codec": {"codec", "diffusion", "train"},  # the suite's codec is trained as a stage like any other
    "train": {"train", "data", "codec", "diffusion", "models"},
    "score": {"score", "data"},
    "bench": {"bench", "score"},
}
BASELINE = {"diffusion", "codec", "train", "models", "checkpoints"}


def imported(path: Path) -> set[str]:
    """Second part of every `lavita.x` import in a file, and the name of other packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        found |= {name.split(".")[1] if name.startswith("lavita.") else name.split(".")[0] for name in names}
    return found


OURS = {path.stem if path.is_file() else path.name for path in (ROOT / "src" / "lavita").iterdir()}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages(package):
    files = sorted((ROOT / "src" / "lavita" / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) & OURS <= ALLOWED[package] | FREE, path.name


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "baselines").glob("*/module.py")))
def test_baselines(folder):
    for path in (ROOT / "baselines" / folder).glob("*.py"):
        found = imported(path)
        assert found & OURS <= BASELINE | FREE, path.name
        assert "baselines" not in found, path.name


def test_bench_needs_no_torch():
    for path in (ROOT / "src" / "lavita" / "bench").rglob("*.py"):
        assert not imported(path) & {"torch", "lightning", "diffusers"}, path.name
