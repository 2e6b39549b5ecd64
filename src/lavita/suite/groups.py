"""Runs that share data, autoencoder, extractor and protocol: what they share is fitted once for all of them."""

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
    """Runs with the same shared artifacts, which lie in shared/<key>/ of the results folder."""

    key: str
    cells: list[Experiment]
    source: DataSource


def group_key(experiment: Experiment) -> str:
    """A short hash of all that decides the shared artifacts; where the data lies has no part in it."""
    e = experiment
    data = {key: value for key, value in asdict(e.data).items() if key not in DATA_ELSEWHERE}
    parts = [e.suite, e.tier, e.conditioning, data]
    parts += [asdict(part) for part in (e.budget, e.codec, e.extractor, e.weights, e.protocol)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def grouped(experiments: Sequence[Experiment], cache: Path, report: Report | None = None) -> list[Group]:
    """The groups in the order of their first runs, with the data of each found. Raises ValueError, OSError."""
    by_key: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_key.setdefault(group_key(experiment), []).append(experiment)
    groups = []
    for key, members in by_key.items():
        source = find_data(members[0].data, members[0].suite, members[0].tier, cache, report)
        root = str(source.catalogue.root)
        members = [replace(one, data=replace(one.data, root=root)) for one in members]
        groups.append(Group(key, members, source))
    return groups
