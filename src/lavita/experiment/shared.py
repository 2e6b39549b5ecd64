"""What all runs of a group share, fitted once for each data fingerprint: autoencoder, extractor, real clips."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
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
from lavita.experiment.budget import check_budget, meta_flops
from lavita.experiment.machine import device_memory
from lavita.experiment.peaks import Memory
from lavita.experiment.preflight import check_disk, check_machine
from lavita.experiment.shared_codec import external_codec, fill_cache, fit_codec, fitted, key_of
from lavita.experiment.shared_features import FeatureCache, codec_scores, real_clips, split_features
from lavita.experiment.stage_data import StageData
from lavita.methods.checkpoint_files import hash_of, read_published
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.in_domain import InDomainExtractor, save_in_domain
from lavita.metrics.features.in_domain_training import fit_in_domain
from lavita.metrics.features.load import load_extractors
from lavita.metrics.features.published import FitSetting, find_published
from lavita.metrics.features.stretches import Stretches, read_stretches
from lavita.metrics.resampling import FEWEST_CLIPS
from lavita.metrics.sanity import sanity_text
from lavita.results.identity import hash_of_sources, package_files
from lavita.results.shared import SharedArtifacts, read_shared, write_shared, write_videos
from lavita.training import checkpoint, distributed
from lavita.training.arithmetic import arithmetic
from lavita.training.checkpoint import Stopped
from lavita.training.stage import StagePlan

# Kernel distances and sanity rows compare halves of two clips.


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


def training_flops(experiments: list[Experiment], num_classes: int | None) -> dict[str, float]:
    """FLOPs of the training of a run, by the name of its row; 0 where they are not known: the compute budget is in
    seconds, or a method's own code fails, which its run then says.
    """
    found = {}
    for one in {experiment.label: experiment for experiment in experiments}.values():
        flops_per_clip = meta_flops(one.data, one.data.latent_cache)
        try:
            found[one.label] = sum(
                flops_per_clip(stage.module) * float((limit.clips or 0) / stage.module.clip_cost)
                for stage, limit in check_budget(one, num_classes)
            )
        except Exception:
            found[one.label] = 0.0
    return found


def external_hashes(experiments: list[Experiment]) -> dict[str, str]:
    """sha256 of every file of external weights that some run uses. Raises ValueError before anything is trained."""
    for path in sorted({one.pretraining.checkpoint for one in experiments} - {None}):
        read_published(path)
    paths = sorted({path for one in experiments for path in one.external_weights.values()})
    found = {}
    for number, path in enumerate(paths, start=1):
        found[path] = hash_of(path)
        progress("external weights", number, len(paths))
    return found


def main(spec_file: Path, folder: Path) -> Result:
    """Fit or find all shared artifacts and write shared.json, whose paths are names below folder.

    The result has the sha256 of every file of external weights that some run uses, and what training costs. With
    "reuse" in the specification folder is finished: only what must hold for these runs is checked, and nothing counted;
    raises Stale where the artifacts were made from other weights.
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
        return Result("ok", external=external)  # its runs were begun before, in an order that was good then
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
    return Result("ok", external=external, flops=training_flops(experiments, num_classes))


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
    """The file of the in-domain feature network: the published one where that was fitted to this data, else trained
    where it is not cached; None where the protocol has others.
    """
    p, setting = experiment.protocol, fit_setting(experiment, num_classes)
    if "embedded" not in (p.extractor, p.is_extractor):
        return None
    known = find_published(catalogue.split("train"), setting, partial(checked_progress, "extractor's videos"))
    if known is not None:
        known.copy_to(out)
        emit(Note(f"extractor: {known.name}'s, as published (sha256 {known.sha256[:12]})"))
    else:
        key = key_of(
            catalogue.fingerprint, *astuple(setting), hash_of_sources(package_files("metrics", "data")),
            distributed.own_device().type,
        )  # fmt: skip
        found = (cache / f"extractor-{key}").is_dir()
        folder = fitted(cache, f"extractor-{key}", partial(train_extractor, setting, catalogue))
        shutil.copytree(folder, out, dirs_exist_ok=True)
        emit(Note(f"extractor {'taken from the cache' if found else 'trained'}"))
    return out / "extractor.safetensors"


def fit_setting(experiment: Experiment, num_classes: int | None) -> FitSetting:
    """What decides a fit of the in-domain feature network beside the videos."""
    p = experiment.protocol
    steps, flip = experiment.extractor.steps, bool(experiment.data.flip)
    return FitSetting(p.frames, p.real_interval, p.resolution, flip, steps, num_classes)


def train_extractor(setting: FitSetting, catalogue: Catalogue, folder: Path) -> None:
    """Train the in-domain feature network on stretches of the training videos. Raises Stopped where the process is
    asked to end: nothing of a training of minutes is kept.
    """
    stretches = read_stretches(
        catalogue.split("train"), setting.frames, setting.interval, setting.resolution,
        partial(checked_progress, "extractor's videos"),
    )  # fmt: skip
    emit(Note(f"extractor: {stretches.text()}"))
    extractor = trained(setting, stretches, partial(checked_progress, "extractor"), str(distributed.own_device()))
    save_in_domain(extractor, folder / "extractor.safetensors")


def trained(
    setting: FitSetting, stretches: Stretches, report: Callable[[int, int, float], None], device: str = "cpu"
) -> InDomainExtractor:
    """The in-domain feature network fitted to stretches; report(step, steps, loss) after every step."""
    return fit_in_domain(
        stretches.frames, setting.frames, setting.interval, stretches.labels() if setting.num_classes else None,
        setting.num_classes, flip=setting.flip, seed=0, steps=setting.steps, report=report, device=device,
    )  # fmt: skip


def checked_progress(stage: str, done: int, total: int, loss: float | None = None) -> None:
    """Say how far a stage is. Raises Stopped where the process is asked to end."""
    checkpoint.check()
    progress(stage, done, total, loss)


if __name__ == "__main__":
    end_with_parent()
    try:
        with arithmetic():
            result = main(Path(sys.argv[1]), Path(sys.argv[2]))
        emit(result)
    except Stale as error:
        emit(Result("stale", str(error)))
    except Stopped as error:
        emit(Result("interrupted", str(error)))
        raise SystemExit(1) from None
    except Exception as error:  # the starting process prints the one line; the log has the rest
        traceback.print_exc()
        emit(Result("failed", str(error).strip() or type(error).__name__))
        raise SystemExit(1) from None
