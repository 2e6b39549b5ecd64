"""What all runs of a group share, fitted once for each data fingerprint: autoencoder, extractor, real clips."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lavita.config.compose import Experiment
from lavita.config.plan import experiment_from_dict
from lavita.config.protocol import Protocol
from lavita.config.schema import AUTO
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.clips import real_windows
from lavita.data.find import usable_catalogue
from lavita.executors.heartbeat import Note, Result, emit, progress
from lavita.executors.process import end_with_parent
from lavita.experiment.budget import check_budget
from lavita.experiment.machine import device_memory
from lavita.experiment.peaks import Memory
from lavita.experiment.preflight import check_disk, check_machine
from lavita.experiment.shared_codec import external_codec, fill_cache, fit_codec, fitted, key_of
from lavita.experiment.shared_features import FeatureCache, codec_scores, real_clips, split_features
from lavita.experiment.stage_data import StageData
from lavita.files import sha256_of
from lavita.methods.checkpoints import read_state
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.load import load_extractors
from lavita.metrics.sanity import sanity_text
from lavita.results.identity import hash_of_sources, package_files
from lavita.results.shared import SharedArtifacts, read_shared, write_shared, write_videos
from lavita.training import checkpoint, distributed
from lavita.training.arithmetic import arithmetic
from lavita.training.checkpoint import Stopped
from lavita.training.stage import StagePlan

# Kernel distances and sanity rows compare halves of two clips.
FEWEST_CLIPS = 4


def check_experiments(
    experiments: list[Experiment],
    catalogue: Catalogue,
    num_classes: int | None,
    machine: tuple[Memory, Path] | None = None,
) -> list[tuple[VideoEntry, int]]:
    """The protocol's windows. machine: memory of the device that the runs are for, and the results folder; None where
    nobody asks whether they fit.

    Raises ValueError for whatever would end a run later: a wrong path costs no minute.
    """
    first, p = experiments[0], experiments[0].protocol
    if first.conditioning == "class" and num_classes is None:
        raise ValueError(f"suite {first.suite} is class-conditional, but {first.data.dataset} has no classes")
    for key in ("n_real", "n_generated"):
        if getattr(p, key) < FEWEST_CLIPS:
            raise ValueError(
                f"protocol.{key}: got {getattr(p, key)}, a run is scored with {FEWEST_CLIPS} clips or more"
            )
    fitting, methods = set(), []
    for one in experiments:
        source = StageData(one.data, one.compute, catalogue, one.seed, one.method)
        stages = [stage for stage, _ in check_budget(one, num_classes)]
        for stage in stages:
            # A batch that does not go into its passes, a video too short for what the stage reads.
            source.clips(stage.module, 0, 0)
        methods.append((one, stages[-1].module))
        if machine is not None and one.label not in fitting:
            check_fitting(one, stages, num_classes, machine[0])
            fitting.add(one.label)
    if machine is not None:
        check_disk(methods, machine[1])
    return real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)


def check_fitting(one: Experiment, stages: list[StagePlan], num_classes: int | None, memory: Memory) -> None:
    """Raise ValueError where a run does not fit the machine. A method whose own code fails is left to its own run,
    which says so in its row while the others go on.
    """
    try:
        check_machine(one, stages, num_classes, memory)
    except ValueError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()[:1]
        emit(Note(f"{one.label}: its memory could not be counted: {': '.join([type(error).__name__, *said])}"))


def reads_latents(experiment: Experiment, num_classes: int | None) -> bool:
    """Whether a run trains some stage from stored latents, where these are wanted at all."""
    return bool(experiment.data.latent_cache) and any(
        stage.module.reads_latents for stage, _ in check_budget(experiment, num_classes)
    )


def external_hashes(experiments: list[Experiment]) -> dict[str, str]:
    """sha256 of every file of external weights that some run uses. Raises ValueError before anything is trained."""
    for path in sorted({one.pretraining.checkpoint for one in experiments} - {None}):
        read_state(path)
    paths = sorted({path for one in experiments for path in one.external_weights.values()})
    found = {}
    for number, path in enumerate(paths, start=1):
        found[path] = sha256_of(Path(path))
        progress("external weights", number, len(paths))
    return found


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
    # What is only checked was checked when it was fitted; each run's own process asks its machine again.
    machine = None if spec["reuse"] else (device_memory(), folder.parents[1])
    windows = check_experiments(experiments, catalogue, num_classes, machine)
    external = external_hashes(experiments)
    if spec["reuse"]:
        check_weights(experiment, catalogue, read_shared(folder), cache)
        return external
    codec = fit_codec(experiment, catalogue, cache, folder)
    latents, latents_stage = None, None
    if any(reads_latents(one, num_classes) for one in experiments):
        latents, latents_stage = fill_cache(experiment, catalogue, codec.folder, codec.hash, cache)
    extractor = fit_extractor(experiment, catalogue, cache, num_classes, folder)
    device = distributed.own_device()
    networks = networks_of(experiment, extractor, str(device))
    protocol = with_weights_of(experiment.protocol, networks)
    features = FeatureCache.of(cache, catalogue, protocol, device)
    real = real_clips(experiment.protocol, networks, windows, num_classes, features, folder)
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
        sanity=real.sensitivity,
        sanity_text=sanity_text(real.sensitivity),
        splits=split_features(experiment.protocol, networks["distance"], catalogue, features, folder),
    )
    parts = [catalogue.fingerprint, experiment.suite, experiment.tier, str(experiment.budget)]
    parts += [shared.codec_hash, shared.extractor_hash, shared.protocol_hash]
    shared = replace(
        shared,
        codec_scores=codec_scores(experiment, catalogue, windows, shared, features, folder),
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
    networks = networks_of(experiment, shared.extractor, "cpu")  # for their hashes alone
    if with_weights_of(protocol, networks).hash() != shared.protocol_hash:
        raise Stale("the feature networks' weights are others")
    # A cache that is whole is opened at once; one that is gone, or of something else, is filled or refused. Runs that
    # were begun without one stay so, whatever room there is now.
    latents = None
    if shared.latents is not None or experiment.data.latent_cache != AUTO:
        latents, _ = fill_cache(experiment, catalogue, shared.codec, shared.codec_hash, cache)
    # Runs read both paths from the artifacts: a folder that was handed over may name any place.
    if shared.cache != cache or shared.latents != latents:
        raise Stale("they name another --cache")


def networks_of(experiment: Experiment, in_domain: Path | None, device: str) -> dict[str, Extractor]:
    """The feature networks of the protocol by their use; in_domain: the file of the one trained here."""
    return load_extractors(experiment.protocol, experiment.weights, in_domain, device)


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
            distributed.own_device().type,
        )  # fmt: skip
        found = (cache / f"extractor-{key}").is_dir()
        train = partial(train_extractor, experiment, catalogue, num_classes)
        folder = fitted(cache, f"extractor-{key}", train)
        shutil.copytree(folder, out, dirs_exist_ok=True)
        path = out / "extractor.safetensors"
        emit(Note(f"extractor {'taken from the cache' if found else 'trained'}"))
    return path


def train_extractor(experiment: Experiment, catalogue: Catalogue, num_classes: int | None, folder: Path) -> None:
    """Train the in-domain feature network on stretches of the training videos. Raises Stopped where the process is
    asked to end: nothing of a training of minutes is kept.
    """
    from lavita.metrics.features.in_domain import save_in_domain
    from lavita.metrics.features.in_domain_training import fit_in_domain
    from lavita.metrics.features.stretches import read_stretches

    def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
        checkpoint.check()
        progress(stage, done, total, loss)

    p = experiment.protocol
    stretches = read_stretches(
        catalogue.split("train"), p.frames, p.real_interval, p.resolution, partial(report, "extractor's videos")
    )
    emit(Note(f"extractor: {stretches.text()}"))
    extractor = fit_in_domain(
        stretches.frames, p.frames, p.real_interval, stretches.labels() if num_classes else None, num_classes,
        flip=experiment.data.flip, seed=0, steps=experiment.extractor.steps, report=partial(report, "extractor"),
        device=str(distributed.own_device()),
    )  # fmt: skip
    save_in_domain(extractor, folder / "extractor.safetensors")


if __name__ == "__main__":
    end_with_parent()
    try:
        with arithmetic():
            external = main(Path(sys.argv[1]), Path(sys.argv[2]))
        emit(Result("ok", external=external))
    except Stale as error:
        emit(Result("stale", str(error)))
    except Stopped as error:
        emit(Result("interrupted", str(error)))
        raise SystemExit(1) from None
    except Exception as error:  # the starting process prints the one line; the log has the rest
        traceback.print_exc()
        emit(Result("failed", str(error).strip() or type(error).__name__))
        raise SystemExit(1) from None
