"""What evaluate.py keeps of a comparison: record, features and rows; and the numbers again from these alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lavita.config.protocol import Protocol
from lavita.data.catalogue import SPLITS
from lavita.files import atomic_write_text, require_inside, sha256_of
from lavita.metrics.distances import inception_score
from lavita.metrics.evaluate import scores_of
from lavita.metrics.extract import ExtractedFeatures, Job, Networks, save_arrays
from lavita.metrics.features.base import FrameExtractor
from lavita.metrics.features.load import KNOWN
from lavita.metrics.sanity import sanity_text
from lavita.metrics.torchmetrics import metric_key
from lavita.results import provenance
from lavita.results.rows import COLUMNS, Row, write_rows

RECORD, ROWS, FILES = "record.json", "rows.csv", ("real.npz", "generated.npz")
STANDARD = {"fvd": "i3d", "kvd": "i3d", "is": "c3d"}


@dataclass
class Scored:
    """What came out under one protocol: its record, and the arrays of its sides (real, generated, train, heldout)."""

    record: dict[str, Any]
    sides: dict[str, dict[str, np.ndarray]]


def scored(
    protocol: Protocol, networks: Networks, jobs: dict[str, Job], paths: dict[str, Path], not_made: list[str]
) -> Scored:
    """The record of one protocol. jobs, paths: by side (real, generated, and where given train, heldout)."""
    sides = {side: job.described.arrays() for side, job in jobs.items()}
    splits = {side: arrays for side, arrays in sides.items() if side in SPLITS}
    facts = {side: side_facts(paths[side], job.described) for side, job in jobs.items()}
    names = metric_names(protocol, networks)
    head, dirty = provenance.commit()
    record = {
        "protocol": protocol.to_dict(),
        "protocol_described": protocol.described(),
        "protocol_hash": protocol.hash(),
        "real": facts["real"],
        "generated": facts["generated"],
        "splits": {split: facts[split] for split in splits},
        "sanity": sanity_facts(protocol, jobs["real"]),
        "metric_names": names,
        "frame_encoder": None if networks.frames is None else encoder_facts(networks.frames),
        "scores": scores_of(protocol, sides["real"], sides["generated"], names, splits),
        "not_made": not_made,
        "commit": head,
        "dirty": dirty,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Scored(record, sides)


def sanity_facts(protocol: Protocol, job: Job) -> dict[str, Any] | None:
    """What the distance can see of changes to the real clips, as numbers and as text; None where it was not asked."""
    if job.sight is None or len(job.sight.real) < 4:
        return None
    rows = job.described.probabilities
    splits = min(protocol.is_splits, len(rows))
    score = inception_score(np.stack(rows), splits, protocol.is_shuffle_seed) if rows else None
    report = job.sight.report(ddof=protocol.ddof, inception=score)
    return asdict(report) | {"text": sanity_text(report)}


def encoder_facts(encoder: FrameExtractor) -> dict[str, str]:
    return {"name": encoder.name, "weights_hash": encoder.weights_hash}


def side_facts(path: Path, side: ExtractedFeatures) -> dict[str, Any]:
    """A side by its own name, never by where it lies on a machine."""
    return {"name": path.resolve().name, "num_clips": len(side.names), "clips_sha256": side.fingerprint()}


def metric_names(protocol: Protocol, networks: Networks) -> dict[str, str]:
    """Full metric names by short one; the feature network stands in them unless it is the recorded standard one."""
    found = {}
    for metric, standard in STANDARD.items():
        network = networks.classes if metric == "is" else networks.generated
        if network is not None:
            known = (standard, KNOWN[standard].git_blob)
            found[metric] = metric_key(
                metric, network.name, protocol.n_generated, protocol.frames, network.weights_hash, known
            )
    if networks.generated is not None:
        g, known = networks.generated, (STANDARD["fvd"], KNOWN[STANDARD["fvd"]].git_blob)
        facts = (g.name, protocol.n_generated, protocol.frames, g.weights_hash)
        found |= {f"fvd-{split}": metric_key("fvd", *facts, known, split) for split in SPLITS}
        found["memorisation"] = metric_key("memorisation", *facts, known)
    if networks.frames is not None:
        found["fid"] = metric_key(
            "fid", networks.frames.name, protocol.n_generated, protocol.frames, standard=("", None)
        )
    return found


def write_results(folder: Path, results: Sequence[Scored]) -> None:
    """record.json, real.npz, generated.npz and rows.csv: in the folder itself for one protocol, else in one below it
    for each, with the rows of all in the folder's own rows.csv."""
    for one in results:
        place = folder if len(results) == 1 else folder / folder_name(one.record["protocol"]["name"])
        place.mkdir(parents=True, exist_ok=True)
        hashes = {f"{side}.npz": save_arrays(place / f"{side}.npz", arrays) for side, arrays in one.sides.items()}
        atomic_write_text(place / RECORD, json.dumps(one.record | {"files": hashes}, indent=1, sort_keys=True) + "\n")
        write_rows(place / ROWS, rows_of_record(one.record))
    if len(results) > 1:
        write_rows(folder / ROWS, [row for one in results for row in rows_of_record(one.record)])


def folder_name(protocol: str) -> str:
    """A protocol's name as a folder."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in protocol).strip("_")


def rows_of_record(record: dict[str, Any]) -> list[Row]:
    """Tidy rows; real clips scored by themselves stand under stage real."""
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
    rows = []
    for score in record["scores"]:
        name, mark = network_of(record, score)
        own = {key: score[key] for key in COLUMNS if key in score}
        rows.append(Row(**common | {"extractor": name, "extractor_hash": mark} | own))
    return rows


def network_of(record: dict[str, Any], score: dict[str, Any]) -> tuple[str, str]:
    """Name and hash of the network that a score was made with."""
    p, metric = record["protocol"], score["metric"].split("_")[0]
    if metric == "fid":
        return record["frame_encoder"]["name"], record["frame_encoder"]["weights_hash"]
    prefix = "is_" if metric == "is" else ""
    return p[f"{prefix}extractor"], p[f"{prefix}extractor_hash"] or ""


def recomputed(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The record of a folder with its scores computed anew from its features, and a line for each that differs.

    Raises ValueError for a folder without a record, and for a file that is not the one recorded.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {name: record["files"][name] for name in (*FILES, *sorted(set(record["files"]) - set(FILES)))}
        protocol = Protocol.from_dict(record["protocol"])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a folder that evaluate.py --out wrote") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a record of evaluate.py ({type(error).__name__}: {error})") from None
    sides = {}
    for name, wanted in files.items():
        require_inside(folder, name, f"{path}: a name in files")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: is missing, the record names it")
        found = sha256_of(folder / name)
        if found != wanted:
            raise ValueError(f"{folder / name}: has sha256 {found[:12]}, the record says {wanted[:12]}: it was changed")
        try:
            with np.load(folder / name, allow_pickle=False) as loaded:
                sides[name.removesuffix(".npz")] = {key: loaded[key] for key in loaded.files}
        except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder / name}: no arrays that can be read ({error})") from None
    splits = {side: arrays for side, arrays in sides.items() if side in SPLITS}
    scores = scores_of(protocol, sides["real"], sides["generated"], record["metric_names"], splits)
    before = {(score["metric"], score["stage"]): score for score in record["scores"]}
    differing = [
        f"{score['metric']} ({score['stage']}): {before.get((score['metric'], score['stage']), {}).get('value')} -> "
        f"{score['value']}"
        for score in scores
        if before.get((score["metric"], score["stage"]), {}).get("value") != score["value"]
    ]
    return record | {"scores": scores}, differing


HEADS = ("protocol", "hash", "score", "of", "value", "interval", "infinite clips", "real", "generated", "extractor")


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: every score under its protocol; below, the fields that a protocol's source does not specify."""
    rows = [HEADS, tuple("---" for _ in HEADS)]
    rows += [row for record in records for row in rows_of(record)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *unspecified(records), *interval_kinds(records), *remarks(records), *sanity(records)])


def rows_of(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """The scores of one record."""
    p, found = record["protocol"], []
    for score in record["scores"]:
        arrow = {True: "↓", False: "↑"}.get(score["lower_is_better"], "(1 = new)")
        name, mark = network_of(record, score)
        found.append(
            (
                p["name"],
                record["protocol_hash"],
                f"{score['metric']} {arrow}",
                score["stage"],
                f"{score['value']:.6g}",
                interval_text(score, "ci_low", "ci_high"),
                infinite_text(score),
                str(score.get("n_real", record["real"]["num_clips"])),
                str(record["generated"]["num_clips"]),
                f"{name} {mark[:12]}",
            )
        )
    return found


def interval_text(score: dict[str, Any], low: str, high: str) -> str:
    return f"{score[low]:.5g} to {score[high]:.5g}" if low in score else ""


def infinite_text(score: dict[str, Any]) -> str:
    """The score extrapolated to infinitely many clips, with its interval; marked where the line is no good fit."""
    if "extrapolated" not in score:
        return ""
    mark = " (?)" if "interval_remark" in score else ""
    return f"{score['extrapolated']:.5g} ({interval_text(score, 'extrapolated_low', 'extrapolated_high')}){mark}"


def unspecified(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a protocol whose source leaves something open: what, and our choice."""
    lines = []
    for record in records:
        p, described = record["protocol"], record["protocol_described"]
        if p["unspecified"]:
            lines.append(f"{p['name']}: " + "; ".join(f"{key} {described[key]}" for key in p["unspecified"]))
    return lines


def interval_kinds(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a kind of interval, with the metrics that have it."""
    kinds: dict[str, dict[str, None]] = {}
    for score in (score for record in records for score in record["scores"] if "ci_kind" in score):
        kinds.setdefault(score["ci_kind"], {})[score["metric"].split("_")[0]] = None
    return [f"interval of {', '.join(metrics)}: {kind}" for kind, metrics in kinds.items()]


def remarks(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line a score that the line in 1/n does not fit."""
    return [
        f"(?) {record['protocol']['name']}, {score['metric']}: {score['interval_remark']}"
        for record in records
        for score in record["scores"]
        if "interval_remark" in score
    ]


def sanity(records: Sequence[dict[str, Any]]) -> list[str]:
    """What each protocol's distance can see on these real clips."""
    return [
        f"\nWhat {record['protocol']['name']} can see on these real clips:\n\n{record['sanity']['text']}"
        for record in records
        if record.get("sanity")
    ]
