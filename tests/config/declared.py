"""A distribution that declares a method, as pip would have installed it."""

from __future__ import annotations

import shutil
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[2] / "docs" / "template"


def install(site: Path, name: str = "mine", package: str = "their_package", entry: str | None = None) -> Path:
    """Put a copy of the template into a folder of packages, with the metadata that declare it; returns its folder.

    entry: the line of entry_points.txt where it is to be another than `name = package.name`.
    """
    folder = site / package / name
    shutil.copytree(TEMPLATE, folder)
    settings = folder / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", f": {name}\n"))
    (site / package / "__init__.py").touch()
    facts = site / f"{package}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[lavita.methods]\n{entry or f'{name} = {package}.{name}'}\n")
    return folder
