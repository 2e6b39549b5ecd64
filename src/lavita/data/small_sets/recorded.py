"""configs/small_sets -> which small real sets there are, what each is made from, and the hashes of its frames."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from lavita.config.plain_yaml import read_yaml
from lavita.config.registry import CONFIGS
from lavita.config.schema import ConfigError, one_of, read

FOLDER = CONFIGS / "small_sets"


@dataclass(frozen=True)
class RecordedVideo:
    """The columns of configs/small_sets/<name>.csv, one row per video.

    path: of the file or frame folder, below the root; frames: how many; rgb_sha256: of the frames before they are
    written, uint8 (F, H, W, 3) RGB; decoded_sha256: of what the written video decodes to (cutting.decoded_sha256);
    source, source_bytes, source_sha256: the published file that it is cut from, below the set's address.
    """

    path: str
    frames: int
    rgb_sha256: str
    decoded_sha256: str
    source: str
    source_bytes: int
    source_sha256: str


@dataclass(frozen=True)
class SmallSet:
    """The keys of configs/small_sets/<name>.yaml.

    dataset: in whose layout it is; address: where the sources lie, at a commit, with the last slash; by: who published
    them; holds: a word on what they are; tree, unpacked_bytes, terms, how_to_get: as in configs/sources.
    """

    name: str
    dataset: str
    address: str
    by: str
    holds: str
    tree: tuple[str, ...]
    unpacked_bytes: int
    terms: str
    how_to_get: str

    def videos(self) -> list[RecordedVideo]:
        """The rows of configs/small_sets/<name>.csv; those of one source stand in the order in which it shows them."""
        with open(FOLDER / f"{self.name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        whole = ("frames", "source_bytes")
        typed = [row | {key: int(row[key]) for key in whole} for row in rows]
        return [read(RecordedVideo, row, f"{self.name}.csv[{number}]") for number, row in enumerate(typed)]


def small_set_names() -> tuple[str, ...]:
    """The small sets that have a file in configs/small_sets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read_small_set(name: str) -> SmallSet:
    """Read configs/small_sets/<name>.yaml. Raises ValueError for an unknown set, ConfigError for a wrong key."""
    one_of("small set", name, small_set_names())
    path = FOLDER / f"{name}.yaml"
    found = read(SmallSet, read_yaml(path), path.name)
    if found.name != name:
        raise ConfigError(f"{path.name}.name: got {found.name!r}, wanted {name!r}")
    return found
