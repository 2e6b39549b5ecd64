"""What the suite asks of a method's files: a README with the fixed headings, imports that let a folder lie anywhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.baselines.test_readmes import HEADINGS
from tests.test_imports import FOR_METHODS, imported, parts_of

from .checks import require


def check_readme(folder: Path) -> None:
    """README.md has a title and the headings of all baselines, in order, with something under each."""
    path = folder / "README.md"
    require(path.is_file(), f"{folder.name}: no README.md; docs/template has one to copy")
    title, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = [section.splitlines()[0].strip() for section in sections]
    require(title.startswith("# "), "README.md: the first line must be a title, # NAME")
    require(found == HEADINGS, f"README.md: headings (##) are {found}, wanted {HEADINGS}")
    for section in sections:
        heading, _, text = section.partition("\n")
        require(len(text.split()) >= 10, f"README.md: say something under {heading!r}, ten words at least")


def check_imports(folder: Path) -> None:
    """Own files are imported relatively; of lavita only what a baseline may use; nothing of other methods."""
    files = sorted(folder.rglob("*.py"))
    own = {path.stem for path in files} | {folder.name, "plugins"}
    for path in files:
        where = path.relative_to(folder)
        names = imported(path, "relative.folder")
        found = {name.split(".")[0] for name in names}
        strange = sorted(parts_of(names) - FOR_METHODS - ({"parity"} if where.name == "parity.py" else set()))
        allowed = ", ".join(sorted(FOR_METHODS))
        require(not strange, f"{where}: imports lavita.{strange and strange[0]}; a method may use {allowed} of lavita")
        others = sorted(found & {"baselines", "benchmarks", "tests"})
        require(
            not others, f"{where}: imports {others and others[0]}; a method may not use another one, nor the commands"
        )
        absolute = sorted(found & own - {"lavita"})
        require(
            not absolute, f"{where}: imports {absolute and absolute[0]!r}; write from .NAME import ..., with the dot"
        )
        levels = [node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        require(
            max(levels, default=0) <= 1 + len(where.parts[1:]), f"{where}: imports from outside its folder with dots"
        )
