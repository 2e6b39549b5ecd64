"""Cells that share data, codec, extractor and protocol: what they share is fitted once for all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lavita.config.compose import Experiment
from lavita.data.find import DataSource, find_data
from lavita.data.scan import Report
from lavita.results.identity import DATA_ELSEWHERE


@dataclass(frozen=True)
class Group:
    """Cells with the same shared artifacts, which lie in shared/<key>/ of the results folder."""

    key: str
    cells: list[Experiment]
    source: DataSource


def group_key(cell: Experiment) -> str:
    """A short hash of all that decides the shared artifacts; where the data lies has no part in it."""
    data = {key: value for key, value in asdict(cell.data).items() if key not in DATA_ELSEWHERE}
    parts = [cell.suite, cell.tier, cell.conditioning, data]
    parts += [asdict(part) for part in (cell.budget, cell.codec, cell.extractor, cell.weights, cell.protocol)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def grouped(cells: Sequence[Experiment], cache: Path, report: Report | None = None) -> list[Group]:
    """The groups in the order of their first cells, with the data of each found. Raises ValueError, OSError."""
    by_key: dict[str, list[Experiment]] = {}
    for cell in cells:
        by_key.setdefault(group_key(cell), []).append(cell)
    groups = []
    for key, members in by_key.items():
        source = find_data(members[0], cache, report)
        root = str(source.catalogue.root)
        members = [replace(cell, data=replace(cell.data, root=root)) for cell in members]
        groups.append(Group(key, members, source))
    return groups
