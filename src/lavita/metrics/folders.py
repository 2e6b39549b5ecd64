"""Two sets of clips scored under one protocol or several at once: networks, clips, features, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lavita.config.compose import load_yaml, read_protocol
from lavita.config.protocol import Protocol
from lavita.config.schema import ConfigError
from lavita.metrics.clips import ClipItem, array_items, clip_items, names_are_unique, picks, spread_picks
from lavita.metrics.extract import Job, Networks, extract
from lavita.metrics.features.base import Extractor, FrameExtractor
from lavita.metrics.features.frame_encoders import load_frame_encoder
from lavita.metrics.features.load import load_extractor
from lavita.metrics.folder_record import Comparison, compared
from lavita.metrics.resampling import FEWEST_CLIPS
from lavita.metrics.sanity import Sensitivity
from lavita.metrics.table import METRICS, selectable

Clips = Path | np.ndarray
SPLIT_TIMES = 4  # clips of a split whose features are extracted, at most so many times the real ones that are scored


@dataclass(frozen=True)
class Options:
    """What evaluate.py is asked for. real, generated: a folder, .npz, .npy, or an array uint8 (N, F, H, W, 3); splits:
    real clips of train and heldout, where given; protocols: by name; clips, extractor: derive from each; weights: files
    by name of their network; metrics None: fvd, kvd, and is where its network is at hand.
    """

    real: Clips
    generated: Clips
    splits: dict[str, Clips]
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


def evaluate(options: Options, say: Callable[[str], None]) -> tuple[list[Comparison], list[str]]:
    """Score under every protocol; returns what came out and a line for each score that could not be made.

    Raises ValueError for folders, clips or protocols that can't be used.
    """
    for name in options.protocols:  # a wrong value costs no look at the clips
        derived_by_clips(name, options.clips, options.changes)
    sides = {True: listed(options.real, say), False: listed(options.generated, say)}
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
            job.sensitivity = Sensitivity(job.networks.real) if job.networks.real else None
        extract(sides[real], jobs[side], real, options.workers, partial(counted, say, side))
    for split, path in options.splits.items():
        items = listed(path, say)
        jobs[split] = [split_job(one, items) for one in prepared]
        extract(items, jobs[split], True, options.workers, partial(counted, say, split))
    paths = {"real": options.real, "generated": options.generated, **options.splits}
    results = [
        compared(one.protocol, one.networks, {side: jobs[side][number] for side in jobs}, paths, one.failed)
        for number, one in enumerate(prepared)
    ]
    reasons += [f"{one.protocol.name}: {why}" for one in prepared for why in one.failed]
    return results, reasons


def counted(say: Callable[[str], None], kind: str, done: int, total: int) -> None:
    """A line of progress now and then."""
    if done == total or done % max(1, total // 10) == 0:
        say(f"{kind} clips {done}/{total}")


def listed(path: Clips, say: Callable[[str], None]) -> list[ClipItem]:
    if isinstance(path, np.ndarray):
        return array_items(path)
    items = clip_items(path, say)
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
    """A protocol with its networks, ready to run; failed: scores that can't be, and why."""

    protocol: Protocol
    networks: Networks
    failed: list[str]


def prepare(options: Options, name: str, loader: Loader, sides: dict[bool, list[ClipItem]]) -> Prepared:
    """Derive the protocol, load its networks, and see whether there are clips enough. Raises NotScored, ConfigError."""
    protocol = derived_by_clips(name, options.clips, options.changes)
    arrays = {METRICS[name].array for name in options.metrics or selectable()}
    failed: list[str] = []
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
        networks = Networks(*pair, class_network(options, protocol, loader, failed))
    if "probabilities" not in arrays:
        networks = replace(networks, classes=None)
    elif networks.classes is None and not failed and options.metrics:
        failed.append(f"is: extractor {options.extractor} gives no class probabilities")
    if "features" not in arrays:
        networks = replace(networks, real=None, generated=None)
    if networks.real is None and networks.classes is None:
        raise NotScored("; ".join(failed) or f"extractor {options.extractor} gives neither features nor classes")
    networks = replace(networks, frames=loader.frame_encoder())
    hashes = [network.weights_hash if network else None for network in (networks.real, networks.classes)]
    prepared = Prepared(protocol.with_weights(*hashes), networks, failed)
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
    protocol = read_protocol(name, changes)
    for side in ("n_real", "n_generated"):
        if getattr(protocol, side) < FEWEST_CLIPS:
            raise ConfigError(
                f"protocol.{side}: got {getattr(protocol, side)}, wanted at least {FEWEST_CLIPS}: a score has an "
                "interval from halves of the clips"
            )
    return protocol


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


def class_network(options: Options, protocol: Protocol, loader: Loader, failed: list[str]) -> Extractor | None:
    """The network of IS; where it can't be had, `failed` says why, if IS was asked for by name."""
    if options.metrics is not None and "is" not in options.metrics:
        return None
    offline = options.offline or options.metrics is None
    try:
        return Loader(replace(options, offline=offline)).load(protocol.is_extractor, None)
    except NotScored as error:
        if options.metrics is not None:
            failed.append(f"is: {error}")
        return None


def split_job(one: Prepared, items: Sequence[ClipItem]) -> Job:
    """The pass over the clips of a split: features for distances only."""
    chosen = spread_picks(items, one.protocol, SPLIT_TIMES * one.protocol.n_real)
    if len(chosen) < 2:
        raise ValueError(f"protocol {one.protocol.name}: a split gives {len(chosen)} clips, wanted at least 2")
    return Job(one.protocol, Networks(one.networks.real, None, None), chosen)
