"""shared.json: what all runs of a group share, where it lies and what it is; videos.csv: what it was made from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavita.config.protocol import Protocol
from lavita.files import atomic_write_text, require_inside
from lavita.results.records import StageRecord
from lavita.results.rows import csv_text
from lavita.results.scores import Score
from lavita.results.typed_json import from_json, read_values, to_json, write_values

SHARED, VIDEOS = "shared.json", "videos.csv"
VIDEO_COLUMNS = ("video_id", "group", "split", "sha256", "used")
PATHS = ("real", "extractor", "codec")  # lie in the folder and are written as names below it


@dataclass(frozen=True)
class Sensitivity:
    """How far real clips lie from other real clips, and from corrupted ones. rows: mean Frechet distance over the
    splits, by what half A is compared with; low, high: the least and greatest over the splits; n: clips per side;
    informative: whether the metric is sensitive to every corruption at this n (not whether any row is good); verdict:
    to which it is, and by how much, in a sentence; inception: mean and standard deviation over the splits of the
    inception score of all real clips, None without classes.
    """

    rows: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    n: int
    informative: bool
    verdict: str
    inception: tuple[float, float] | None = None


@dataclass(frozen=True)
class SharedArtifacts:
    """Autoencoder, feature network and real features that the runs of a group share.

    real, splits: .npz with the features of the protocol's real clips, and of windows of each split; real_videos: how
    many videos the former come from. extractor: file of the in-domain network, None where the protocol names others;
    extractor_name, extractor_hash: of the network of distances. codec: folder of the autoencoder that the suite
    trained, None where it was not; codec_hash: sha256 of its weights; codec_stage, codec_scores: what it cost, what it
    loses. latents, latents_stage: folder of the latent cache and what it cost, None without one. cache: where what runs
    share was looked for. classes: indices with training videos. protocol_used: with the networks' hashes, protocol_name
    and protocol_hash: as rows have it. sanity, sanity_text: what the metric is sensitive to, as values and as Markdown.
    comparison: a hash of what the rows of one table share.
    """

    cache: Path
    num_classes: int | None
    class_names: tuple[str, ...]
    classes: tuple[int, ...]
    codec_hash: str
    extractor_name: str
    extractor_hash: str
    protocol_used: Protocol
    protocol_name: str
    protocol_hash: str
    real: Path
    real_videos: int
    sanity: Sensitivity
    sanity_text: str
    splits: dict[str, Path]
    codec: Path | None = None
    codec_stage: StageRecord | None = None
    codec_scores: tuple[Score, ...] = ()
    latents: Path | None = None
    latents_stage: StageRecord | None = None
    extractor: Path | None = None
    comparison: str = ""


def write_shared(folder: Path, shared: SharedArtifacts) -> None:
    """shared.json, whole; paths as names below folder, so that the folder may be moved."""
    names: dict[str, Any] = {key: Path(path.name) for key in PATHS if (path := getattr(shared, key))}
    names["splits"] = {split: Path(path.name) for split, path in shared.splits.items()}
    write_values(folder / SHARED, to_json(replace(shared, **names)), sort=False)  # splits have an order


def read_shared(folder: Path) -> SharedArtifacts:
    """What `write_shared` wrote, with paths in the folder as it lies now.

    Raises ValueError, one line naming file and key, for a path out of it and for a value of another type.
    """
    path = folder / SHARED
    values = read_values(path, "the list of shared artifacts")
    paths: dict[str, Any] = {key: str(inside(path, key, values[key])) for key in PATHS if values.get(key) is not None}
    splits = values.get("splits")
    if isinstance(splits, Mapping):
        paths |= {"splits": {split: str(inside(path, str(split), name)) for split, name in splits.items()}}
    return from_json(SharedArtifacts, values | paths, str(path))


def inside(path: Path, key: str, name: object) -> Path:
    """The path of a file beside shared.json. Raises ValueError for one elsewhere."""
    return require_inside(path.parent, name, f"{path}: {key}")


def write_videos(folder: Path, lines: Iterable[Sequence[str]]) -> None:
    """videos.csv: every video that the fingerprint covers, and whether clips were made from it (true or false)."""
    atomic_write_text(folder / VIDEOS, csv_text([list(VIDEO_COLUMNS), *map(list, lines)]))


def read_videos(folder: Path) -> Iterator[dict[str, str]]:
    """The lines of videos.csv by column. Raises ValueError for other columns."""
    with (folder / VIDEOS).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != VIDEO_COLUMNS:
            raise ValueError(f"{folder / VIDEOS}: columns {reader.fieldnames}, wanted {', '.join(VIDEO_COLUMNS)}")
        yield from reader
