"""What all runs of a group share, fitted once for each data fingerprint: autoencoder, extractor, real clips."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lavita.config.compose import Experiment
from lavita.config.plan import experiment_from_dict
from lavita.config.protocol import Protocol
from lavita.data.catalogue import SPLITS, Catalogue, VideoEntry
from lavita.data.clips import centre_crop_resize, load_window, real_windows, spread_windows
from lavita.data.find import usable_catalogue
from lavita.data.video import read_frames
from lavita.executors.heartbeat import Note, Result, emit, progress
from lavita.executors.process import end_with_parent
from lavita.experiment.budget import check_budget
from lavita.experiment.shared_codec import codec_scores, external_codec, fill_cache, fit_codec, fitted, key_of
from lavita.experiment.stage_data import StageData
from lavita.files import sha256_of
from lavita.methods.checkpoints import read_state
from lavita.metrics.distances import inception_score
from lavita.metrics.extract import save_arrays
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.load import load_extractors
from lavita.metrics.sanity import SanityReport, Sensitivity, sanity_text
from lavita.results.identity import hash_of_sources, package_files
from lavita.results.shared import Sensitivity as SensitivityRecord
from lavita.results.shared import (
    SharedArtifacts,
    read_shared,
    write_shared,
    write_videos,
)
from lavita.training.checkpoint import Stopped


def check_experiments(
    experiments: list[Experiment], catalogue: Catalogue, num_classes: int | None
) -> list[tuple[VideoEntry, int]]:
    """The protocol's windows. Raises ValueError for whatever would end a run later: a wrong path costs no minute."""
    first, p = experiments[0], experiments[0].protocol
    if first.conditioning == "class" and num_classes is None:
        raise ValueError(f"suite {first.suite} is class-conditional, but {first.data.dataset} has no classes")
    for one in experiments:
        source = StageData(one.data, one.compute, catalogue, one.seed, one.method)
        for stage, _ in check_budget(one, num_classes):
            # A batch that does not go into its passes, a video too short for what the stage reads.
            source.clips(stage.module, 0, 0)
    return real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)


def external_hashes(experiments: list[Experiment]) -> dict[str, str]:
    """sha256 of every file of external weights that some run uses. Raises ValueError before anything is trained."""
    for path in sorted({one.pretraining.checkpoint for one in experiments} - {None}):
        read_state(path)
    paths = {path for one in experiments for path in one.external_weights.values()}
    return {path: sha256_of(Path(path)) for path in sorted(paths)}


GRID_CLIPS = 16
MEMORY_TIMES = 4  # windows of a split whose features are taken, at most so many times those that are scored
STRETCH_SPANS = 4  # of each training video, at most so many clips' spans, so that memory stays bounded


def main(spec_file: Path, folder: Path) -> dict[str, str]:
    """Fit or find all shared artifacts and write shared.json, whose paths are names below folder.

    Returns the sha256 of every file of external weights that some run uses. With "reuse" in the specification folder is
    finished: only what must hold for these runs is checked; raises Stale where the artifacts were made from other
    weights.
    """
    spec = json.loads(spec_file.read_text())
    experiments = [experiment_from_dict(values) for values in spec["experiments"]]
    experiment, cache = experiments[0], Path(spec["cache"])
    catalogue = usable_catalogue(experiment.data, experiment.data.root, cache)
    num_classes = len(catalogue.class_names) or None
    windows = check_experiments(experiments, catalogue, num_classes)
    external = external_hashes(experiments)
    if spec["reuse"]:
        check_weights(experiment, catalogue, read_shared(folder), cache)
        return external
    codec = fit_codec(experiment, catalogue, cache, folder)
    latents, latents_stage = fill_cache(experiment, catalogue, codec.folder, codec.hash, cache)
    extractor = fit_extractor(experiment, catalogue, cache, num_classes, folder)
    networks = networks_of(experiment, extractor)
    protocol = with_weights_of(experiment.protocol, networks)
    real = real_clips(experiment.protocol, networks, windows, num_classes, folder)
    shared = SharedArtifacts(
        cache=cache,
        num_classes=num_classes,
        class_names=tuple(catalogue.class_names),
        classes=tuple(sorted({v.class_index for v in catalogue.split("train") if v.class_index is not None})),
        codec=codec.folder,
        codec_hash=codec.hash,
        codec_stage=codec.stage,
        latents=latents,
        latents_stage=latents_stage,
        extractor=extractor,
        extractor_name=networks["distance"].name,
        extractor_hash=networks["distance"].weights_hash,
        protocol_used=protocol,
        protocol_hash=protocol.hash(),
        protocol_name=f"{experiment.protocol.name} ({len(windows)} windows of {real.videos} videos)",
        real=real.features,
        real_videos=real.videos,
        sanity=SensitivityRecord(**asdict(real.sensitivity)),
        sanity_text=sanity_text(real.sensitivity),
        splits=split_features(experiment.protocol, networks["distance"], catalogue, folder),
    )
    parts = [catalogue.fingerprint, experiment.suite, experiment.tier, str(experiment.budget)]
    parts += [shared.codec_hash, shared.extractor_hash, shared.protocol_hash]
    shared = replace(
        shared,
        codec_scores=codec_scores(experiment, catalogue, windows, shared, folder / "codec.gif"),
        comparison=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
    )
    videos = [(video, "true") for video in catalogue.videos] + [(video, "false") for video in catalogue.unused]
    write_videos(folder, [(v.video_id, v.group, v.split, v.sha256, used) for v, used in videos])
    write_shared(folder, shared)
    return external


class Stale(ValueError):
    """Artifacts that were fitted before can't serve these runs."""


def check_weights(experiment: Experiment, catalogue: Catalogue, shared: SharedArtifacts, cache: Path) -> None:
    """Raise Stale where an external autoencoder or feature network has other weights than then; ValueError
    for a latent cache that can't be used.
    """
    config, protocol = experiment.codec, experiment.protocol
    if config.kind != "suite" and external_codec(config).hash != shared.codec_hash:
        raise Stale("the autoencoder's weights are others")
    networks = networks_of(experiment, shared.extractor)
    if with_weights_of(protocol, networks).hash() != shared.protocol_hash:
        raise Stale("the feature networks' weights are others")
    # A cache that is whole is opened at once; one that is gone, or of something else, is filled or refused.
    latents, _ = fill_cache(experiment, catalogue, shared.codec, shared.codec_hash, cache)
    # Runs read both paths from the artifacts: a folder that was handed over may name any place.
    if shared.cache != cache or shared.latents != latents:
        raise Stale("they name another --cache")


def networks_of(experiment: Experiment, in_domain: Path | None) -> dict[str, Extractor]:
    """The feature networks of the protocol by their use, on the CPU; in_domain: the file of the one trained here."""
    return load_extractors(experiment.protocol, experiment.weights, in_domain, "cpu")


def with_weights_of(protocol: Protocol, networks: Mapping[str, Extractor]) -> Protocol:
    """The protocol with the hashes of its networks."""
    return protocol.with_weights(*(networks[use].weights_hash for use in ("distance", "classes")))


def fit_extractor(
    experiment: Experiment, catalogue: Catalogue, cache: Path, num_classes: int | None, out: Path
) -> Path | None:
    """The file of the in-domain feature network, trained where it is not cached; None where the protocol has others."""
    p, path = experiment.protocol, None
    if "embedded" in (p.extractor, p.is_extractor):
        key = key_of(
            catalogue.fingerprint, p.frames, p.real_interval, p.resolution, num_classes, experiment.data.flip,
            experiment.extractor.steps, hash_of_sources(package_files("metrics", "data")),
        )  # fmt: skip
        found = (cache / f"extractor-{key}").is_dir()
        train = partial(train_extractor, experiment, catalogue, num_classes)
        folder = fitted(cache, f"extractor-{key}", train)
        shutil.copytree(folder, out, dirs_exist_ok=True)
        path = out / "extractor.safetensors"
        emit(Note(f"extractor {'taken from the cache' if found else 'trained'}"))
    return path


def train_extractor(experiment: Experiment, catalogue: Catalogue, num_classes: int | None, folder: Path) -> None:
    """Train the in-domain feature network on stretches of the training videos."""
    from lavita.metrics.features.in_domain import save_in_domain
    from lavita.metrics.features.in_domain_training import fit_in_domain

    p, videos = experiment.protocol, catalogue.split("train")
    longest = STRETCH_SPANS * ((p.frames - 1) * p.real_interval + 1)
    stretches = [
        centre_crop_resize(read_frames(video.path, range(min(video.frames, longest))), p.resolution) for video in videos
    ]
    labels = [video.class_index for video in videos] if num_classes else None
    extractor = fit_in_domain(
        stretches, p.frames, p.real_interval, labels, num_classes, flip=experiment.data.flip, seed=0,
        steps=experiment.extractor.steps,
        report=lambda step, steps, loss: (
            progress("extractor", step, steps, loss) if step % 20 == 0 or step == steps else None
        ),
    )  # fmt: skip
    save_in_domain(extractor, folder / "extractor.safetensors")


@dataclass(frozen=True)
class RealClips:
    """features: the .npz of their features; videos: how many they come from; sensitivity: of the metric."""

    features: Path
    videos: int
    sensitivity: SanityReport


def real_clips(
    protocol: Protocol,
    networks: Mapping[str, Extractor],
    windows: Sequence[tuple[VideoEntry, int]],
    num_classes: int | None,
    folder: Path,
) -> RealClips:
    """Features of the protocol's real clips, a grid of the first of them, and the metric's sensitivity."""
    from lavita.data.clip_folder import write_grid, write_sprite

    p = protocol
    classes = networks["classes"] if num_classes and networks["classes"].num_classes else None
    sensitivity, first, probabilities = Sensitivity(networks["distance"]), [], []
    for number, (video, start) in enumerate(windows, start=1):
        clip = load_window(video, start, p.frames, p.real_interval, p.resolution)
        sensitivity.add(clip)
        if classes:
            probabilities.append(classes.probabilities(clip[None]).numpy()[0])
        if len(first) < GRID_CLIPS:
            first.append(clip)
        if number % 100 == 0 or number == len(windows):
            progress("real clips", number, len(windows))
    arrays = {
        "features": np.stack(sensitivity.real),
        "names": np.array([f"{v.video_id}@{start}" for v, start in windows]),
    }
    save_arrays(folder / "real.npz", arrays | ({"probabilities": np.stack(probabilities)} if classes else {}))
    write_grid(folder / "real.gif", np.stack(first), columns=4)
    write_sprite(folder, "real", np.stack(first))
    score = inception_score(np.stack(probabilities), p.is_splits, p.is_shuffle_seed) if classes else None
    report = sensitivity.report(ddof=p.ddof, inception=score)
    videos = len({video.video_id for video, _ in windows})
    return RealClips(folder / "real.npz", videos, report)


def split_features(protocol: Protocol, extractor: Extractor, catalogue: Catalogue, folder: Path) -> dict[str, Path]:
    """Features of windows of each split, spread evenly over its videos: what distances to train and to held-out clips
    are made from, and what a generated clip is compared with to see whether it was copied."""
    p = protocol
    for split in SPLITS:
        windows = spread_windows(catalogue, split, p.frames, p.real_interval, MEMORY_TIMES * p.n_real, p.clip_seed)
        rows = [
            extractor.features(load_window(video, start, p.frames, p.real_interval, p.resolution)[None]).numpy()
            for video, start in windows
        ]
        names = [f"{video.video_id}@{start}" for video, start in windows]
        features = np.concatenate(rows) if rows else np.zeros((0, extractor.num_features), np.float32)
        save_arrays(folder / f"{split}.npz", {"features": features, "names": np.array(names, dtype=str)})
    return {split: folder / f"{split}.npz" for split in SPLITS}


if __name__ == "__main__":
    end_with_parent()
    try:
        emit(Result("ok", external=main(Path(sys.argv[1]), Path(sys.argv[2]))))
    except Stale as error:
        emit(Result("stale", str(error)))
    except Stopped as error:
        emit(Result("interrupted", str(error)))
        raise SystemExit(1) from None
    except Exception as error:  # the starting process prints the one line; the log has the rest
        traceback.print_exc()
        emit(Result("failed", str(error).strip() or type(error).__name__))
        raise SystemExit(1) from None
