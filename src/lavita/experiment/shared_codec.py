"""The autoencoder that all latent methods of a group share: trained or external, what it costs, what it loses."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavita.config.compose import Experiment
from lavita.config.schema import CodecConfig
from lavita.data.catalogue import Catalogue
from lavita.executors.heartbeat import Note, emit, progress_of_steps
from lavita.experiment.costs import StageFacts, stage_facts
from lavita.experiment.machine import device_memory
from lavita.experiment.peaks import HELDOUT_CLIPS
from lavita.experiment.stage_data import StageData, store_latents
from lavita.files import remove_parts, sha256_of
from lavita.lock import waiting_lock
from lavita.methods.build import codec_training_config, load_suite_codec
from lavita.results.attempts import PROGRESS
from lavita.results.devices import speed_of
from lavita.results.identity import hash_of_sources, package_files
from lavita.results.records import StageRecord
from lavita.results.resume_store import ResumeStore
from lavita.results.typed_json import from_json, read_values, to_json, write_values
from lavita.training.budget import Limit
from lavita.training.stage import inputs_of

STATISTICS_CLIPS = 64
STAGE = "stage.json"


def key_of(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def fitted(cache: Path, name: str, fit: Callable[[Path], None]) -> Path:
    """The folder cache/name, made by fit where it is not there; it has its name only when it is whole.

    fit gets a folder that holds what an earlier call had come to, where one was ended; of two runs at once the second
    waits.
    """
    folder, part = cache / name, cache / f".{name}.part"
    cache.mkdir(parents=True, exist_ok=True)
    with waiting_lock(cache / f".{name}.lock", lambda: emit(Note(f"another run fits {name}; waiting"))):
        if not folder.is_dir():
            part.mkdir(exist_ok=True)
            fit(part)
            remove_parts(part)
            part.rename(folder)
    return folder


@dataclass(frozen=True)
class SharedCodec:
    """folder: of the autoencoder that the suite trained, None where another is given; hash: sha256 of its weights;
    stage: what its training cost, which each latent method is charged.
    """

    folder: Path | None
    hash: str
    stage: StageRecord | None


def external_codec(config: CodecConfig) -> SharedCodec:
    """An autoencoder that is not trained here: loaded once, so that a missing one ends a suite before its first run."""
    digest = hashlib.sha256(config.kind.encode())
    for name, value in sorted(load_suite_codec(config, None).state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return SharedCodec(None, digest.hexdigest(), None)


def fit_codec(experiment: Experiment, catalogue: Catalogue, cache: Path, out: Path) -> SharedCodec:
    """The suite's autoencoder: a copy of it, its hash, and what it cost, which each latent method is charged."""
    if experiment.codec.kind != "suite":
        return external_codec(experiment.codec)
    d, train = experiment.data, codec_training_config(experiment.codec, experiment.train)
    key = key_of(
        catalogue.fingerprint, experiment.codec, train, d.frames, d.interval, d.resolution, d.flip,
        hash_of_sources(package_files("codecs", "training", "data", "diffusion")),
    )  # fmt: skip
    found = (cache / f"codec-{key}").is_dir()
    folder = fitted(cache, f"codec-{key}", lambda part: trained_codec(experiment, catalogue, part))
    stage = from_json(StageRecord, read_values(folder / STAGE, "a stage"), str(folder / STAGE))
    how = "taken from the cache" if found else "trained"
    emit(Note(f"codec {how}: {stage.clips} clips, {stage.seconds:.0f} s, PSNR {stage.psnr:.1f} dB"))
    weights = sha256_of(folder / "diffusion_pytorch_model.safetensors")
    shutil.copytree(folder, out / "codec", dirs_exist_ok=True)  # of a process that was requeued
    return SharedCodec(out / "codec", weights, stage)


def fill_cache(
    experiment: Experiment, catalogue: Catalogue, codec: Path | None, codec_hash: str, cache: Path
) -> tuple[Path | None, StageRecord | None]:
    """The stored moments of the training videos and what they cost; None twice where the configuration does not ask for
    them, or leaves it to the disk (auto) and that has no room.

    codec: its folder, None where it is external; codec_hash: of its weights.
    """
    e = experiment
    if not e.data.latent_cache:
        return None, None
    return store_latents(e.data, e.protocol, catalogue, e.codec, codec, codec_hash, cache)


def trained_codec(experiment: Experiment, catalogue: Catalogue, folder: Path) -> None:
    """Train the suite's autoencoder in a folder, where a process that was killed has not just done so."""
    if not (folder / STAGE).is_file():
        train_codec(experiment, catalogue, folder)
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def train_codec(experiment: Experiment, catalogue: Catalogue, folder: Path) -> None:
    """Train the suite's autoencoder on the training split and save it with what it cost and how well it does."""
    from lavita.codecs.kl import save_codec
    from lavita.codecs.training import CodecTraining, measured_codec
    from lavita.experiment.reconstruction import reconstructed
    from lavita.training.fit import fit_stage

    e = experiment
    # One process fits what all runs share, however many train one run.
    compute = replace(e.compute, devices=1, nodes=1, strategy="auto")
    clips, train = e.codec.clips, codec_training_config(e.codec, e.train)
    torch.manual_seed(0)
    module = CodecTraining(e.codec, train, seed=0)
    store = ResumeStore(folder / PROGRESS)
    kept = store.get_or_compute("facts", lambda: to_json(stage_facts(e.data, compute, module, device_memory())))
    facts = from_json(StageFacts, kept, "facts")
    source = StageData(e.data, compute, catalogue, 0, "codec", facts={module.stage_name: facts})
    data = source.clips(module, 0, clips)
    first = source.clips(module, 0, clips, whole=True)
    module.start(inputs_of(next(iter(first.train_dataloader())))["video"])
    heldout = data.heldout_batch(HELDOUT_CLIPS)
    done = fit_stage(
        module,
        data.train_dataloader(),
        Limit(clips),
        folder,
        heldout,
        progress_of_steps(train.batch_clips),
        source.compute_of(module),
        store,
        e.checkpoint,
    )
    batch = STATISTICS_CLIPS - STATISTICS_CLIPS % train.batch_clips or train.batch_clips
    statistics = source.clips(module, 0, batch, whole=True).train_dataloader()
    codec = measured_codec(module.autoencoder, statistics, "suite", clips)
    squares, device = 0, next(module.parameters()).device
    for before, after in reconstructed(codec, heldout["video"], device):
        squares += int(np.square(before.astype(np.int64) - after).sum())
    psnr = 10 * np.log10(255**2 / (squares / heldout["video"].numel()))
    save_codec(codec, folder)
    stage = StageRecord(
        "codec", clips, done.seconds, facts.flops_per_clip * clips, steps=done.steps, batch_clips=train.batch_clips,
        clip_cost="1", flops_per_clip=facts.flops_per_clip, passes=facts.passes, psnr=float(psnr),
        speed=speed_of(clips, facts.flops_per_clip * clips, done.seconds, "32-true"),
        compiled_blocks=done.compiled_blocks,
    )  # fmt: skip
    write_values(folder / STAGE, to_json(stage))  # last: where it is, all the rest is
