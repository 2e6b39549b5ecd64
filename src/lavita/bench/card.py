"""The card of a method: what its files and its folder's README say of it, kept in each record of its cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavita.bench.plan import deviations
from lavita.bench.suite import PURSE, CellConfig, MethodSpec, load_method, load_suite, load_yaml, rows_of_suite
from lavita.registry import BUILT_IN, ROOT, implementation_folder

SECTIONS = (
    "Paper",
    "Source, commit, licence",
    "What was released and what was missing",
    "What differs here and why",
    "Author settings",
)
COMMAND_LINE = "the command line"


def card_of(cell: CellConfig) -> dict[str, Any]:
    """What a reader must know of a cell's method, as plain values.

    title, provenance: of configs/methods. about: the README's sections by heading (SECTIONS), as Markdown; {} where the
    folder has none. authors: the published value of every setting, by "section.key". why: for each that differs, by the
    same name, where its value here comes from.
    """
    method = load_method(cell.method)
    of_dataset = method.datasets.get(cell.data.dataset) or {}
    authors = {
        f"{section}.{key}": value
        for section in (*PURSE, "model")
        for key, value in (getattr(method, section) | (of_dataset.get(section) or {})).items()
        if key not in cell.weight_files
    }
    changed = [line.partition(": ")[0] for line in deviations(cell)]
    return {
        "title": method.title,
        "provenance": method.provenance,
        "about": sections_of(readme(method.implementation)),
        "authors": authors,
        "why": origins(cell, method, changed),
    }


def readme(implementation: str) -> Path:
    """The file that says in prose what was released, what was not, and what differs."""
    if implementation == BUILT_IN:
        return ROOT / "docs" / "lavita.md"
    return implementation_folder(implementation) / "README.md"


def sections_of(path: Path) -> dict[str, str]:
    """The sections of a README by heading, those of SECTIONS that it has."""
    if not path.is_file():
        return {}
    found = dict(
        (part.partition("\n")[0].strip(), part.partition("\n")[2].strip())
        for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    )
    return {heading: found[heading] for heading in SECTIONS if heading in found}


def origins(cell: CellConfig, method: MethodSpec, names: Sequence[str]) -> dict[str, str]:
    """Where values that are not the authors' come from: the last of the layers that set each, as they are composed."""
    suite = load_suite(cell.suite)
    row = next((row for row in rows_of_suite(suite, cell.tier) if row.label == cell.label), None)
    layers = [
        (row.changes if row else {}, f"the row {cell.label} of suite {cell.suite}"),
        (suite.tiers.get(cell.tier) or {}, f"suite {cell.suite} at tier {cell.tier}, the same for every row"),
        ({"sampling": {"guidance": suite.guidance}}, f"suite {cell.suite}, the same for every row"),
        (load_yaml("tiers", cell.tier), f"tier {cell.tier}, one rule for every method"),
        (method.tiers.get(cell.tier) or {}, f"the method's size at tier {cell.tier}"),
    ]
    return {name: next((said for values, said in layers if sets(values, cell, name)), COMMAND_LINE) for name in names}


def sets(values: Mapping[str, Any], cell: CellConfig, name: str) -> bool:
    """Whether a layer sets "section.key" (or a whole section) to the value that the cell has."""
    section, _, key = name.partition(".")
    given, here = values.get(section), getattr(cell, section, None)
    if not isinstance(given, Mapping):
        return False
    value = here.get(key) if isinstance(here, Mapping) else getattr(here, key, None)
    return not key or (key in given and str(given[key]) == str(value))
