"""What is known about a data set before its files are seen: one flat YAML file each in configs/datasets."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "datasets"


@dataclass(frozen=True)
class DatasetFacts:
    """The keys of configs/datasets/<name>.yaml, all of them required.

    name, title: short and full name; layout: which reader in layouts.py; flip: mirrored in training as
    published; has_classes, num_classes: labels of the full set; homepage, how_to_get: where the data comes
    from; expected_tree: drawing of the folders; interval: frame interval as published; short_videos: error
    or skip; fold: of its own lists, null where it has none; frame_choice: exact or linspace; published_counts: videos
    of each split of the full set, as its source states them, with that source. published_videos: how many videos whole
    copies have, train and held-out together, empty where no number is fixed.
    """

    name: str
    title: str
    layout: str
    flip: bool
    has_classes: bool
    num_classes: int | None
    homepage: str
    how_to_get: str
    expected_tree: str
    interval: int
    short_videos: str
    fold: int | None
    frame_choice: str
    published_counts: str
    published_videos: list[int]


def dataset_names() -> tuple[str, ...]:
    """The data sets that have a file in configs/datasets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def dataset_facts(name: str) -> DatasetFacts:
    """Read configs/datasets/<name>.yaml. Raises ValueError for an unknown set and for an unknown or missing
    key.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in dataset_names():
        raise ValueError(f"got data set '{name}', known: {', '.join(dataset_names())}{_nearest(name, dataset_names())}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = [field.name for field in fields(DatasetFacts)]
    for key in values:
        if key not in known:
            raise ValueError(f"{path}: got key '{key}', known: {', '.join(known)}{_nearest(key, known)}")
    missing = [key for key in known if key not in values]
    if missing:
        raise ValueError(f"{path}: missing key '{missing[0]}', wanted: {', '.join(known)}")
    return DatasetFacts(**values)


def _nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
