"""Writing and reading of what evaluate.py keeps of a comparison; its scores again from stored features alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lavita.config.protocol import Protocol
from lavita.data.catalogue import SPLITS
from lavita.files import atomic_write_text, check_writable_folder, require_inside, sha256_of
from lavita.metrics.distances import inception_score
from lavita.metrics.evaluate import metric_names, networks_of, scores_of
from lavita.metrics.extract import ExtractedFeatures, Job, Networks, load_arrays, save_arrays
from lavita.metrics.features.base import FrameExtractor
from lavita.metrics.sanity import sanity_text
from lavita.metrics.table import NetworkId, parse_key
from lavita.results import provenance
from lavita.results.rows import Row, score_columns, shown, write_rows
from lavita.results.scores import Score

RECORD, ROWS, FILES = "record.json", "rows.csv", ("real.npz", "generated.npz")


@dataclass(frozen=True)
class Comparison:
    """What came out of two sets of clips under one protocol.

    record: all that is known of it but for the scores, as plain values; sides: the stored arrays by side (real,
    generated, and where given train, heldout), empty where only the record was read.
    """

    record: dict[str, Any]
    scores: list[Score]
    sides: dict[str, dict[str, np.ndarray]]

    def to_json(self) -> dict[str, Any]:
        """The record as it is stored. The networks stand in its protocol once, not in every score."""
        scores = [replace(score, extractor=None, extractor_hash=None).to_json() for score in self.scores]
        return self.record | {"scores": scores}

    def networks(self) -> dict[str, NetworkId]:
        """The feature networks, by the array that they give."""
        return networks_of(Protocol.from_dict(self.record["protocol"]), self.record.get("frame_encoder"))


def compared(
    protocol: Protocol,
    networks: Networks,
    jobs: dict[str, Job],
    paths: dict[str, Path | np.ndarray],
    failed: list[str],
) -> Comparison:
    """The comparison under one protocol. jobs, paths: by side (real, generated, and where given train, heldout)."""
    sides = {side: job.features.arrays() for side, job in jobs.items()}
    facts = {side: side_facts(name_of(side, paths[side]), job.features) for side, job in jobs.items()}
    encoder = None if networks.frames is None else encoder_facts(networks.frames)
    named = networks_of(protocol, encoder)
    at_hand = {"features": networks.generated, "probabilities": networks.classes, "frame_features": networks.frames}
    head, dirty = provenance.commit()
    record = {
        "protocol": protocol.to_dict(),
        "protocol_described": protocol.described(),
        "protocol_hash": protocol.hash(),
        "real": facts["real"],
        "generated": facts["generated"],
        "splits": {split: facts[split] for split in SPLITS if split in facts},
        "sanity": sanity_facts(protocol, jobs["real"]),
        "metric_names": metric_names(protocol, {key: named[key] for key, one in at_hand.items() if one is not None}),
        "frame_encoder": encoder,
        "failed": failed,
        "commit": head,
        "dirty": dirty,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Comparison(record, scores_of(protocol, sides, named, real_alone=True), sides)


def sanity_facts(protocol: Protocol, job: Job) -> dict[str, Any] | None:
    """How sensitive the distance is to corruptions of the real clips, as numbers and as text; None where it was not
    asked.
    """
    if job.sensitivity is None or len(job.sensitivity.real) < 4:
        return None
    rows = job.features.probabilities
    splits = min(protocol.is_splits, len(rows))
    score = inception_score(np.stack(rows), splits, protocol.is_shuffle_seed) if rows else None
    report = job.sensitivity.report(ddof=protocol.ddof, inception=score)
    return asdict(report) | {"text": sanity_text(report)}


def encoder_facts(encoder: FrameExtractor) -> dict[str, str]:
    return {"name": encoder.name, "weights_hash": encoder.weights_hash}


def name_of(side: str, path: Path | np.ndarray) -> str:
    """A side by its own name, never by where it lies on a machine; an array has none and is called by its side."""
    return side if isinstance(path, np.ndarray) else path.resolve().name


def side_facts(name: str, side: ExtractedFeatures) -> dict[str, Any]:
    return {"name": name, "num_clips": len(side.names), "clips_sha256": side.fingerprint()}


SIDES = ("real", "generated", *SPLITS)
WRITTEN = {RECORD, ROWS, *(f"{side}.npz" for side in SIDES)}  # of one protocol


def check_results_folder(folder: Path, sides: dict[str, Path | np.ndarray], protocols: Sequence[str]) -> None:
    """Raise ValueError, before anything is decoded, unless results can be written: into a folder that is new or empty,
    or holds a comparison of the same two names under the same protocols, which is then made anew.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out: {folder} is a file, wanted a folder")
    there = [path for path in (folder.iterdir() if folder.is_dir() else ()) if not path.name.startswith(".")]
    records = records_in(folder)
    own = {path for one in records for path in one.parent.iterdir() if path.name in WRITTEN}
    places = {one.parent for one in records} | {folder / ROWS if folder / RECORD not in records else folder}
    foreign = [path for path in there if path not in own | places]
    if foreign or (there and not records):
        named = sorted(path.name for path in foreign or there)[0]
        raise ValueError(f"--out: {folder} holds {named}, which evaluate did not write; give another folder")
    names = {side: name_of(side, sides[side]) for side in ("real", "generated")}
    for path in records:
        earlier = read_record_file(path)
        known = {side: earlier[side]["name"] for side in names}
        if known != names or earlier["protocol"]["name"].partition("[")[0] not in protocols:
            raise ValueError(
                f"--out: {folder} holds the comparison of {known['generated']} with {known['real']} under "
                f"{earlier['protocol']['name']}; give another folder"
            )
    check_writable_folder(folder, "--out")


def records_in(folder: Path) -> list[Path]:
    """The records of a results folder: its own, or those of its protocols' folders."""
    own = folder / RECORD
    return [own] if own.is_file() else sorted(folder.glob(f"*/{RECORD}"))


def read_record_file(path: Path) -> dict[str, Any]:
    """A record as it is stored. Raises ValueError for a file that is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        Protocol.from_dict(record["protocol"])
        for side in ("real", "generated"):
            if not all(isinstance(record[side][key], str) for key in ("name", "clips_sha256")):
                raise TypeError(f"{side} without name and clips_sha256")
        return record
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a folder that evaluate.py --out wrote") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a record of evaluate.py ({type(error).__name__}: {error})") from None


def same_comparison(record: dict[str, Any], folder: Path) -> bool:
    """Whether a folder holds no comparison yet, or that of the same clips under the same protocol."""
    if not (folder / RECORD).is_file():
        return True
    earlier = read_record_file(folder / RECORD)
    sides = all(earlier[side]["clips_sha256"] == record[side]["clips_sha256"] for side in ("real", "generated"))
    return sides and earlier.get("protocol_hash") == record["protocol_hash"]


def write_results(folder: Path, results: Sequence[Comparison]) -> Path:
    """record.json, real.npz, generated.npz and rows.csv: in the folder itself for one protocol, else in one below it
    for each, with the rows of all in the folder's own rows.csv. Returns the folder: where another comparison lies in
    it, of clips with the same names, the first of <folder>.2, <folder>.3, ... that has none.
    """
    wanted, number = folder, 1
    while not all(same_comparison(one.record, place_of(folder, one, len(results))) for one in results):
        number += 1
        folder = wanted.with_name(f"{wanted.name}.{number}")
    for one in results:
        place = place_of(folder, one, len(results))
        place.mkdir(parents=True, exist_ok=True)
        hashes = {f"{side}.npz": save_arrays(place / f"{side}.npz", arrays) for side, arrays in one.sides.items()}
        atomic_write_text(
            place / RECORD, json.dumps(one.to_json() | {"files": hashes}, indent=1, sort_keys=True) + "\n"
        )
        write_rows(place / ROWS, rows_of(one))
    if len(results) > 1:
        write_rows(folder / ROWS, [row for one in results for row in rows_of(one)])
    return folder


def place_of(folder: Path, one: Comparison, number: int) -> Path:
    """Where one of so many comparisons lies in a results folder."""
    return folder if number == 1 else folder / folder_name(one.record["protocol"]["name"])


def folder_name(protocol: str) -> str:
    """A protocol's name as a folder."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in protocol).strip("_")


def rows_of(one: Comparison) -> list[Row]:
    """Tidy rows; real clips scored by themselves stand under stage real."""
    record = one.record
    p = record["protocol"]
    common = {
        "cell": record["generated"]["name"],
        "method": record["generated"]["name"],
        "dataset": f"{record['real']['name']} ({record['real']['num_clips']} clips)",
        "data_fingerprint": record["real"]["clips_sha256"],
        "division": "open",
        "n_real": p["n_real"],
        "n_generated": p["n_generated"],
        "protocol": p["name"],
        "protocol_hash": record["protocol_hash"],
        "status": "ok",
        "reason": "training not audited",
    }
    common |= {key: record[key] for key in ("commit", "dirty", "hardware", "versions", "started_at")}
    row = Row(**common)
    return [replace(row, **score_columns(score)) for score in one.scores]


def recomputed(folder: Path) -> tuple[list[Comparison], list[str]]:
    """The comparisons of a folder, one for each protocol, as `recomputed_one` gives them. Raises ValueError."""
    made = [recomputed_one(path.parent) for path in records_in(folder) or [folder / RECORD]]
    several = len(made) > 1
    lines = [f"{one.record['protocol']['name']}: {line}" if several else line for one, each in made for line in each]
    return [one for one, _ in made], lines


def recomputed_one(folder: Path) -> tuple[Comparison, list[str]]:
    """The comparison of a folder with its scores computed anew from its features, and a line for each that differs.

    Raises ValueError for a folder without a record, and for a file that is not the one recorded.
    """
    path = folder / RECORD
    record = read_record_file(path)
    try:
        files = {name: record["files"][name] for name in (*FILES, *sorted(set(record["files"]) - set(FILES)))}
        protocol = Protocol.from_dict(record["protocol"])
        scores = [Score.from_json(score) for score in record.pop("scores")]
        networks = networks_of(protocol, record.get("frame_encoder"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a record of evaluate.py ({type(error).__name__}: {error})") from None
    sides = {name.removesuffix(".npz"): recorded_arrays(folder, name, wanted) for name, wanted in files.items()}
    made = Comparison(record, scores_of(protocol, sides, networks, real_alone=True), sides)
    before = {(score.metric, score.stage): score.value for score in scores}
    differing = [
        f"{score.metric} ({score.stage}): {before.get((score.metric, score.stage))} -> {score.value}"
        for score in made.scores
        if before.get((score.metric, score.stage)) != score.value
    ]
    return made, differing


def recorded_arrays(folder: Path, name: str, wanted: str) -> dict[str, np.ndarray]:
    """The arrays of a file that a record names. wanted: its sha256. Raises ValueError for a file that is not there, is
    another, or holds no arrays.
    """
    path = require_inside(folder, name, f"{folder / RECORD}: a name in files")
    if not path.is_file():
        raise ValueError(f"{path}: is missing, the record names it")
    found = sha256_of(path)
    if found != wanted:
        raise ValueError(f"{path}: has sha256 {found[:12]}, the record says {wanted[:12]}: it was changed")
    try:
        return load_arrays(path)
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no arrays that can be read ({error})") from None


HEADS = ("protocol", "hash", "score", "of", "value", "interval", "infinite clips", "real", "generated", "extractor")


def table(results: Sequence[Comparison]) -> str:
    """Markdown: every score under its protocol; below, the fields that a protocol's source does not specify."""
    rows = [HEADS, tuple("---" for _ in HEADS)]
    rows += [line_of(one, score) for one in results for score in one.scores]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    records = [one.record for one in results]
    return "\n".join([*lines, "", *unspecified(records), *interval_kinds(results), *remarks(results), *sanity(records)])


def line_of(one: Comparison, score: Score) -> tuple[str, ...]:
    """A score as a line of the table."""
    record, key = one.record, parse_key(score.metric)
    return (
        record["protocol"]["name"],
        record["protocol_hash"],
        f"{score.metric} {key.row.heading}".rstrip(),
        score.stage,
        shown(score.value, 6),
        interval_text(score.ci_low, score.ci_high),
        infinite_text(score),
        str(record["real"]["num_clips"] if score.n_real is None else score.n_real),
        str(record["generated"]["num_clips"]),
        f"{score.extractor} {(score.extractor_hash or '')[:12]}",
    )


def interval_text(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{shown(low, 5)} to {shown(high, 5)}"


def infinite_text(score: Score) -> str:
    """The score in the limit of infinite samples, with its interval; marked where the line is no good fit."""
    if score.extrapolated is None:
        return ""
    mark = " (?)" if score.interval_remark else ""
    return f"{shown(score.extrapolated, 5)} ({interval_text(score.extrapolated_low, score.extrapolated_high)}){mark}"


def unspecified(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a protocol whose source leaves something open: what, and our choice."""
    lines = []
    for record in records:
        p, described = record["protocol"], record["protocol_described"]
        if p["unspecified"]:
            lines.append(f"{p['name']}: " + "; ".join(f"{key} {described[key]}" for key in p["unspecified"]))
    return lines


def interval_kinds(results: Sequence[Comparison]) -> list[str]:
    """A line a kind of interval, with the metrics that have it."""
    kinds: dict[str, dict[str, None]] = {}
    for score in (score for one in results for score in one.scores if score.ci_kind):
        kinds.setdefault(score.ci_kind, {})[parse_key(score.metric).row.name] = None
    return [f"interval of {', '.join(metrics)}: {kind}" for kind, metrics in kinds.items()]


def remarks(results: Sequence[Comparison]) -> list[str]:
    """One line per score that the line in 1/n does not fit."""
    return [
        f"(?) {one.record['protocol']['name']}, {score.metric}: {score.interval_remark}"
        for one in results
        for score in one.scores
        if score.interval_remark
    ]


def sanity(records: Sequence[dict[str, Any]]) -> list[str]:
    """What each protocol's distance is sensitive to on these real clips."""
    return [
        f"\nWhat {record['protocol']['name']} is sensitive to on these real clips:\n\n{record['sanity']['text']}"
        for record in records
        if record.get("sanity")
    ]
