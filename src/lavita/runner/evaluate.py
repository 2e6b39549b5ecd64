"""Two sets of clips scored under one protocol or several: features once, tables, and files to recompute them from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lavita.bench.ledger import COLUMNS, write_rows
from lavita.bench.suite import load_yaml
from lavita.config import ConfigError
from lavita.registry import names_in
from lavita.runner import provenance
from lavita.score.clip_items import ClipItem, clip_items, names_are_unique
from lavita.score.clip_view import picks, spread_picks
from lavita.score.compare import METRICS, scores_of
from lavita.score.described import Described, Job, Networks, describe, save_arrays
from lavita.score.extractors import Extractor, FrameExtractor
from lavita.score.frame_encoders import load_frame_encoder
from lavita.score.frames import file_hash
from lavita.score.inception import inception_score
from lavita.score.loading import KNOWN, load_extractor
from lavita.score.metrics import metric_key
from lavita.score.protocol import Protocol
from lavita.score.sanity import Sight, sanity_text
from lavita.whole import write_whole

RECORD, ROWS, FILES = "record.json", "rows.csv", ("real.npz", "generated.npz")
SPLIT_TIMES = 4  # clips of a split that are described, at most so many times the real ones that are scored
STANDARD = {"fvd": "i3d", "kvd": "i3d", "is": "c3d"}


@dataclass(frozen=True)
class Options:
    """What evaluate.py is asked for. splits: real clips of train and heldout, where given; protocols: by name; clips,
    extractor: derive from each; weights: files by name of their network; metrics None: fvd, kvd, and is where its
    network is at hand.
    """

    real: Path
    generated: Path
    splits: dict[str, Path]
    sanity: bool
    protocols: tuple[str, ...]
    clips: int | None
    extractor: str | None
    frame_encoder: Path | None
    changes: dict[str, Any]
    weights: dict[str, Path]
    metrics: tuple[str, ...] | None
    offline: bool
    device: str
    workers: int
    out: Path | None


class NotScored(ValueError):
    """A score that could not be made, and why."""


@dataclass
class Scored:
    """What came out under one protocol: its record, and the arrays of its sides (real, generated, train, heldout)."""

    record: dict[str, Any]
    sides: dict[str, dict[str, np.ndarray]]


def read_protocol(name: str, changes: dict[str, Any]) -> Protocol:
    """A preset with changes, under a name that says them. Raises ConfigError."""
    protocol = Protocol.from_dict(load_yaml("protocols", name) | {"name": name})
    return protocol.derive(**changes) if changes else protocol


def evaluate(options: Options, say: Callable[[str], None]) -> tuple[list[Scored], list[str]]:
    """Score under every protocol; returns what came out and a line for each score that could not be made.

    Raises ValueError for folders, clips or protocols that can't be used.
    """
    sides = {True: listed(options.real), False: listed(options.generated)}
    reasons, prepared = [], []
    networks = Loader(options)
    for name in options.protocols:
        try:
            prepared.append(prepare(options, name, networks, sides))
        except NotScored as error:
            reasons.append(f"{name}: {error}")
    jobs: dict[str, list[Job]] = {}
    for side, real in (("real", True), ("generated", False)):
        jobs[side] = [Job(one.protocol, one.networks, picks(sides[real], one.protocol, real)) for one in prepared]
        for job in jobs[side] if real and options.sanity else []:
            job.sight = Sight(job.networks.real) if job.networks.real else None
        describe(sides[real], jobs[side], real, options.workers, partial(counted, say, side))
    for split, path in options.splits.items():
        items = listed(path)
        jobs[split] = [split_job(one, items) for one in prepared]
        describe(items, jobs[split], True, options.workers, partial(counted, say, split))
    results = [scored(options, one, {side: jobs[side][number] for side in jobs}) for number, one in enumerate(prepared)]
    reasons += [f"{one.protocol.name}: {why}" for one in prepared for why in one.not_made]
    return results, reasons


def counted(say: Callable[[str], None], kind: str, done: int, total: int) -> None:
    """A line of progress now and then."""
    if done == total or done % max(1, total // 10) == 0:
        say(f"{kind} clips {done}/{total}")


def listed(path: Path) -> list[ClipItem]:
    items = clip_items(path)
    names_are_unique(items, path)
    return items


class Loader:
    """Loads each network once, whatever the number of protocols."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.known: dict[tuple[str, str | None], Extractor] = {}
        self.encoder: FrameExtractor | None = None

    def frame_encoder(self) -> FrameExtractor | None:
        """The network of the frame distance, where one was given. Raises NotScored."""
        if self.encoder is None and self.options.frame_encoder is not None:
            try:
                self.encoder = load_frame_encoder(self.options.frame_encoder, self.options.device)
            except (ValueError, OSError) as error:
                raise NotScored(f"fid: {' '.join(str(error).split())}") from None
        return self.encoder

    def load(self, name: str, preprocess: str | None) -> Extractor:
        """The network of a name or file. Raises NotScored where it can't be had, saying where it was looked for."""
        key = (name, preprocess)
        if key not in self.known:
            o = self.options
            try:
                self.known[key] = load_extractor(name, o.weights.get(name), o.device, preprocess, offline=o.offline)
            except (ValueError, OSError) as error:
                raise NotScored(" ".join(str(error).split())) from None
        return self.known[key]


@dataclass
class Prepared:
    """A protocol with its networks, ready to run; not_made: scores that can't be, and why."""

    protocol: Protocol
    networks: Networks
    not_made: list[str]


def prepare(options: Options, name: str, loader: Loader, sides: dict[bool, list[ClipItem]]) -> Prepared:
    """Derive the protocol, load its networks, and see whether there are clips enough. Raises NotScored, ConfigError."""
    protocol = derived_by_clips(name, options.clips, options.changes)
    wanted = options.metrics or METRICS
    not_made: list[str] = []
    if options.extractor is not None:
        network = loader.load(options.extractor, None)
        protocol = derived_by_extractor(protocol, network)
        distance = network if network.num_features else None
        networks = Networks(distance, distance, network if network.num_classes is not None else None)
    else:
        pair = [
            loader.load(protocol.extractor, usual(preprocess))
            for preprocess in (protocol.real_preprocess, protocol.generated_preprocess)
        ]
        check_recorded(protocol, pair[0])
        networks = Networks(*pair, class_network(options, protocol, loader, not_made))
    if "is" not in wanted:
        networks = replace(networks, classes=None)
    elif networks.classes is None and not not_made and options.metrics:
        not_made.append(f"is: extractor {options.extractor} gives no class probabilities")
    if not {"fvd", "kvd"} & set(wanted):
        networks = replace(networks, real=None, generated=None)
    if networks.real is None and networks.classes is None:
        raise NotScored("; ".join(not_made) or f"extractor {options.extractor} gives neither features nor classes")
    networks = replace(networks, frames=loader.frame_encoder())
    hashes = [network.weights_hash if network else None for network in (networks.real, networks.classes)]
    prepared = Prepared(protocol.with_weights(*hashes), networks, not_made)
    for real in (True, False):
        try:
            picks(sides[real], prepared.protocol, real)
        except ValueError as error:
            raise NotScored(str(error)) from None
    return prepared


def derived_by_clips(name: str, clips: int | None, changes: dict[str, Any]) -> Protocol:
    """The protocol for so many clips, which its name says; too few for the splits of IS are scored in one, said too."""
    if clips is not None:
        splits = changes.get("is_splits", load_yaml("protocols", name)["is_splits"])
        changes = changes | {"n": clips} | ({"is_splits": 1} if clips < splits else {})
    return read_protocol(name, changes)


def usual(preprocess: str) -> str | None:
    """The name that a network is loaded with: None for its own way."""
    return None if preprocess == "inside" else preprocess


def derived_by_extractor(protocol: Protocol, network: Extractor) -> Protocol:
    """The protocol with another network, which its name says."""
    changes: dict[str, Any] = {"extractor": network.name, "extractor_hash": None}
    changes |= {"is_extractor": network.name, "is_extractor_hash": None}
    changes |= dict.fromkeys(("real_preprocess", "generated_preprocess"), network.preprocess)
    derived = replace(protocol, **changes)
    return replace(derived, name=protocol.derive(extractor=network.name).name)


def check_recorded(protocol: Protocol, network: Extractor) -> None:
    """Raise NotScored where the protocol records another file than the one at hand."""
    if protocol.extractor_hash not in (None, network.weights_hash):
        raise NotScored(
            f"extractor {protocol.extractor}: the protocol records {protocol.extractor_hash[:12]}, the file at "
            f"hand has {network.weights_hash[:12]}; give the recorded file, or name this one with --extractor FILE"
        )


def class_network(options: Options, protocol: Protocol, loader: Loader, not_made: list[str]) -> Extractor | None:
    """The network of IS; where it can't be had, not_made says why, if IS was asked for by name."""
    if options.metrics is not None and "is" not in options.metrics:
        return None
    offline = options.offline or options.metrics is None
    try:
        return Loader(replace(options, offline=offline)).load(protocol.is_extractor, None)
    except NotScored as error:
        if options.metrics is not None:
            not_made.append(f"is: {error}")
        return None


def split_job(one: Prepared, items: Sequence[ClipItem]) -> Job:
    """The pass over the clips of a split: features for distances only."""
    chosen = spread_picks(items, one.protocol, SPLIT_TIMES * one.protocol.n_real)
    if len(chosen) < 2:
        raise ValueError(f"protocol {one.protocol.name}: a split gives {len(chosen)} clips, wanted at least 2")
    return Job(one.protocol, Networks(one.networks.real, None, None), chosen)


def scored(options: Options, one: Prepared, jobs: dict[str, Job]) -> Scored:
    """The record of one protocol."""
    sides = {side: job.described.arrays() for side, job in jobs.items()}
    splits = {side: arrays for side, arrays in sides.items() if side in options.splits}
    names = metric_names(one.protocol, one.networks)
    head, dirty = provenance.commit()
    record = {
        "protocol": one.protocol.to_dict(),
        "protocol_described": one.protocol.described(),
        "protocol_hash": one.protocol.hash(),
        "real": side_facts(options.real, jobs["real"].described),
        "generated": side_facts(options.generated, jobs["generated"].described),
        "splits": {split: side_facts(path, jobs[split].described) for split, path in options.splits.items()},
        "sanity": sanity_facts(one.protocol, jobs["real"]),
        "metric_names": names,
        "frame_encoder": None if one.networks.frames is None else encoder_facts(one.networks.frames),
        "scores": scores_of(one.protocol, sides["real"], sides["generated"], names, splits),
        "not_made": one.not_made,
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


def side_facts(path: Path, side: Described) -> dict[str, Any]:
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
        found |= {f"fvd-{split}": metric_key("fvd", *facts, known, split) for split in ("train", "heldout")}
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
        write_whole(place / RECORD, json.dumps(one.record | {"files": hashes}, indent=1, sort_keys=True) + "\n")
        write_rows(place / ROWS, rows_of_record(one.record))
    if len(results) > 1:
        write_rows(folder / ROWS, [row for one in results for row in rows_of_record(one.record)])


def folder_name(protocol: str) -> str:
    """A protocol's name as a folder."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in protocol).strip("_")


def rows_of_record(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Tidy rows with the ledger's columns; real clips scored by themselves stand under stage real."""
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
        rows.append(common | {"extractor": name, "extractor_hash": mark} | own)
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
        if Path(name).name != name:
            raise ValueError(f"{path}: names a file {name!r} outside of its folder")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: is missing, the record names it")
        found = file_hash(folder / name)
        if found != wanted:
            raise ValueError(f"{folder / name}: has sha256 {found[:12]}, the record says {wanted[:12]}: it was changed")
        with np.load(folder / name, allow_pickle=False) as loaded:
            sides[name.removesuffix(".npz")] = {key: loaded[key] for key in loaded.files}
    splits = {side: arrays for side, arrays in sides.items() if side in ("train", "heldout")}
    scores = scores_of(protocol, sides["real"], sides["generated"], record["metric_names"], splits)
    before = {(score["metric"], score["stage"]): score for score in record["scores"]}
    differing = [
        f"{score['metric']} ({score['stage']}): {before.get((score['metric'], score['stage']), {}).get('value')} -> "
        f"{score['value']}"
        for score in scores
        if before.get((score["metric"], score["stage"]), {}).get("value") != score["value"]
    ]
    return record | {"scores": scores}, differing


def known_protocols() -> list[str]:
    return names_in("protocols")


def parsed_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """protocol.key=value overrides as changes. Raises ConfigError."""
    from omegaconf import OmegaConf

    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.startswith("protocol."):
            raise ConfigError(f"override {override!r}: wanted protocol.key=value, for example protocol.real_interval=6")
        changes |= OmegaConf.to_container(OmegaConf.from_dotlist([override]))["protocol"]
    return changes
