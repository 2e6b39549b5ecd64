"""One cell in its own process: build, sample untrained, train, save, sample, score, record."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lavita.config.compose import Experiment
from lavita.config.plan import read_config
from lavita.config.schema import BUDGET_UNITS
from lavita.data.catalogue import Catalogue
from lavita.data.clips import real_windows
from lavita.data.find import usable_catalogue
from lavita.executors.heartbeat import HEARTBEAT, Heartbeat, emit, progress, read_heartbeat, start_heartbeat
from lavita.executors.process import begin, is_of_the_machine, told
from lavita.experiment.devices import together
from lavita.experiment.scoring import Scorer, reconstruction_scores
from lavita.experiment.train import HELDOUT_CLIPS, Spent, check_spent, stage_data, start_network, train
from lavita.files import remove_parts
from lavita.lock import FolderLock
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, load_suite_codec
from lavita.methods.checkpoints import read_state, save
from lavita.results.digest import LOCK, PROGRESS
from lavita.results.provenance import hardware, peak_bytes, versions
from lavita.results.records import BudgetRecord, BudgetSpent, Record, Session, read_record, write_record
from lavita.results.resume_store import ResumeStore
from lavita.results.shared import SharedArtifacts, read_shared
from lavita.sampling.generate import Conditions, Generated, conditions_of, drop_parts, generate, save_samples
from lavita.training import checkpoint, distributed
from lavita.training.budget import OverBudget
from lavita.training.callbacks import Diverged
from lavita.training.checkpoint import Stopped
from lavita.training.stage import TrainedStage


def begin_session(record: Record, progress: Path) -> tuple[Session, ...]:
    """The sessions of a record, the last one closed by its last heartbeat, and a new one for this process."""
    before = record.sessions
    if before and before[-1].ended == "":
        before = (*before[:-1], closed(before[-1], read_heartbeat(progress / HEARTBEAT), "killed"))
    new = Session(
        host=platform.node(),
        process=os.getpid(),
        job=slurm_job(os.environ),
        hardware=hardware(),
        versions=versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return (*before, new)


def slurm_job(environ: Mapping[str, str]) -> str:
    """The id by which scancel knows this process's job; "" outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID", "")


def end_session(sessions: tuple[Session, ...], progress: Path, pulse: Heartbeat, ended: str) -> tuple[Session, ...]:
    """The same with the last one closed; ended: ok, or the status with which it was."""
    last = read_heartbeat(progress / HEARTBEAT) or {}
    return (*sessions[:-1], closed(sessions[-1], last | measured(pulse), ended))


def measured(pulse: Heartbeat) -> dict[str, Any]:
    """What this process has taken so far."""
    return {"seconds": pulse.seconds, "peak_bytes": peak_bytes()}


def closed(one: Session, last: Mapping[str, Any] | None, ended: str) -> Session:
    """A session with how it ended, and the last heartbeat that is known of it."""
    known = {key: last[key] for key in ("stage", "done", "seconds", "peak_bytes") if key in last} if last else {}
    return replace(one, **known, ended=ended)


def seconds_of(sessions: Sequence[Session]) -> float:
    """Seconds of all sessions, work that was lost with a kill and done again included."""
    return sum(one.seconds for one in sessions)


def said_once(sessions: Sequence[Session], key: str) -> str:
    """What the sessions say under a key, each thing once."""
    return " then ".join(dict.fromkeys(str(getattr(one, key)) for one in sessions))


STATUS_OF = {Diverged: "diverged", OverBudget: "over_budget", Stopped: "interrupted"}


@contextmanager
def session(folder: Path) -> Iterator[ResumeStore]:
    """Work on an attempt in this process: gives what it keeps to resume from. However the work ends, the record has it;
    what it kept is removed by `tidy` once the record says ok.
    """
    progress = folder / PROGRESS
    progress.mkdir(parents=True, exist_ok=True)
    with FolderLock(progress / LOCK, "the process of a cell"):
        yield from locked_session(folder, progress)


def locked_session(folder: Path, progress: Path) -> Iterator[ResumeStore]:
    """A session of a process that has the attempt for itself."""
    remove_parts(folder)
    record = read_record(folder)
    sessions = begin_session(record, progress)
    pulse = start_heartbeat(progress / HEARTBEAT)
    write_record(folder, replace(record, status="running", reason="", sessions=sessions))
    pulse.beat("start", 0)
    kept = ResumeStore(progress)
    ended = "failed"
    try:
        yield kept
        ended = "ok"
    except BaseException as error:
        ended = status_of(error)
        raise
    finally:
        for name in kept.damaged:
            emit("note", text=f"{name}: damaged, made again")
        record = read_record(folder)
        write_record(folder, replace(record, sessions=end_session(record.sessions, progress, pulse, ended)))


def tidy(folder: Path) -> None:
    """Remove what an attempt kept to resume from: it is finished."""
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def status_of(error: BaseException) -> str:
    """The status of a cell that an exception ended."""
    if is_of_the_machine(error):
        return "interrupted"
    return next((name for kind, name in STATUS_OF.items() if isinstance(error, kind)), "failed")


def reason_of(error: BaseException, folder: str) -> str:
    """One line for the record of an attempt; folder: its own, where an error of the machine names no file."""
    if isinstance(error, Stopped):
        return str(error)
    if is_of_the_machine(error):
        return told(error, folder)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def main(folder: Path, shared_folder: Path) -> None:
    """Run the cell of a folder, or resume it, and complete its record."""
    cell = read_config(folder / "config.yaml")
    with together(cell.compute, folder):
        if not distributed.is_first():
            work(cell, folder, shared_folder, ResumeStore(folder / PROGRESS))
            return
        with session(folder) as kept:
            work(cell, folder, shared_folder, kept)
        finish(folder, cell)


def work(cell: Experiment, folder: Path, shared_folder: Path, kept: ResumeStore) -> None:
    """What is done in one session, by every process of the cell: build, sample untrained, train, sample, score."""
    shared = read_shared(shared_folder)
    distributed.start_group()
    device = torch.device("cuda", distributed.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    catalogue = usable_catalogue(cell, cell.data.root, shared.cache)
    codec = load_suite_codec(cell.codec, shared.codec)
    method = build_method(cell, shared.num_classes, codec).to(device).eval()
    if cell.pretraining.checkpoint:
        source = read_record(folder).external_weights["pretraining.checkpoint"]
        start_network(method, read_state(cell.pretraining.checkpoint), source, folder)
    scorer = Scorer(shared, cell, str(device)) if distributed.is_first() else None

    given = conditions_of(cell, catalogue)
    scores = score_method(method, cell, scorer, shared.classes, "untrained", folder / "untrained", given, kept)
    spent = train(method, cell, catalogue, shared, folder, kept)
    method.to(device)  # the trainer leaves a module on the CPU
    scores += score_method(method, cell, scorer, shared.classes, "train", folder / "samples", given, kept)
    if distributed.is_first():
        weights_hash = save_method(method, cell, shared, folder)
        scores += first_stage_scores(method, cell, catalogue, scorer, shared, folder / "autoencoder.gif", kept)
        complete(folder, method, cell, spent, scores, weights_hash, "" if given is None else given.remark)


def score_method(
    method: VideoMethod,
    cell: Experiment,
    scorer: Scorer | None,
    classes: Sequence[int],
    stage: str,
    out: Path,
    given: Conditions | None,
    kept: ResumeStore,
) -> list[dict[str, Any]]:
    """Sample the protocol's clips, keep them without loss, and score them; one entry a metric.

    Every process samples its part; scorer None: another one scores.
    """
    name = "sample" if stage == "train" else "sample untrained"
    remark = None if given is None else given.remark

    def sample() -> Generated:
        report = partial(progress, name)
        return generate(method, cell.sampling, cell.protocol.n_generated, 0, classes, report, given, kept, name)

    def make() -> list[dict[str, Any]]:
        made = sample()
        if out.is_dir():
            shutil.rmtree(out)  # of a process that was killed while it wrote them
        save_samples(out, made.clips, made.seeds, made.labels, cell, keep_clips=stage == "train", condition=remark)
        common = {"stage": stage, "sampling_seconds_per_clip": made.seconds / len(made.clips)}
        scored = scorer.score(made.clips, out.with_suffix(".npz"), stage == "train", kept, f"score of {name}")
        return [score | common for score in scored]

    if scorer is None:
        if kept.load_value(f"scores of {name}") is None:
            sample()
        return []
    scores = kept.get_or_compute(f"scores of {name}", make)
    for parts in (name, f"score of {name}"):
        drop_parts(kept, parts)
    return scores


def first_stage_scores(
    method: VideoMethod,
    cell: Experiment,
    catalogue: Catalogue,
    scorer: Scorer,
    shared: SharedArtifacts,
    picture: Path,
    kept: ResumeStore,
) -> list[dict[str, Any]]:
    """What the method's own first stage loses, or else (measured once a run) what the suite's codec loses."""
    codec = method.first_stage()
    if codec is None:
        return shared.codec_scores
    p = cell.protocol
    windows = real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)
    heldout = stage_data(cell, catalogue, cell.seed, TrainedStage(cell.train, 0), 0, 0).heldout_batch(HELDOUT_CLIPS)
    video = heldout["video"].to(method.device)
    return kept.get_or_compute(
        "scores of the first stage",
        lambda: reconstruction_scores(codec, "autoencoder", video, windows, scorer, method.perceptual_score, picture),
    )


def save_method(method: VideoMethod, cell: Experiment, shared: SharedArtifacts, folder: Path) -> str:
    """The method's weights (averaged) with all that rebuilds it; returns the file's sha256."""
    external = cell.codec.kind == "kl"
    state = {key: value for key, value in method.state_dict().items() if not (external and key.startswith("codec."))}
    # Sampling needs no file that only training read.
    model = cell.model | dict.fromkeys(cell.weight_files)
    config = {
        "cell": asdict(cell) | {"data": asdict(cell.data) | {"root": None}, "model": model},
        "num_classes": shared.num_classes,
        "class_names": shared.class_names,
        "classes": shared.classes,
    }
    path = folder / "checkpoint.safetensors"
    save(path, state, config)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def complete(
    folder: Path,
    method: VideoMethod,
    cell: Experiment,
    spent: Spent,
    scores: list[dict[str, Any]],
    weights_hash: str,
    remark: str,
) -> None:
    """Put into the record what was spent and what came out; it is finished by `finish`."""
    record = read_record(folder)
    trainable = {id(p): p for stage in method.stages() for p in stage.module.trained_parameters()}
    # Fixed tables are parameters without gradient; a frozen codec has weights too, and they count.
    fixed = {id(p) for name, p in method.named_parameters() if name.rpartition(".")[2] in FIXED_TABLES}
    # A discriminator is trained but no part of what samples: it counts too.
    everything = trainable | {id(p): p for p in method.parameters() if id(p) not in fixed}
    row = replace(
        record.row,
        clips_seen=int(spent.total("clips")),
        train_flops=int(spent.total("flops")),
        params_trained=count(trainable.values()),
        params_total=count(everything.values()),
        external_bytes=external_bytes(cell, method),
        weights_hash=weights_hash,
    )
    declared = dict(method.declared) | record.external_weights
    said = [record.flag, remark, *(f"{name}: {text}" for name, text in declared.items())]
    totals = {unit: spent.total(unit) for unit in BUDGET_UNITS}
    record = replace(
        record,
        row=row,
        declared=declared,
        remark="; ".join(part for part in said if part),
        scores=scores,
        stages=tuple(spent.stages),
        heldout_losses=tuple(spent.heldout_losses),
        budget=BudgetRecord(cell.budget.currency, cell.budget.asked, BudgetSpent(**totals)),
    )
    write_record(folder, record)
    check_spent(cell, totals, spent)


def finish(folder: Path, cell: Experiment) -> None:
    """Mark the record ok, with what all sessions took together."""
    record = read_record(folder)
    sessions = record.sessions
    seconds = seconds_of(sessions)
    row = replace(
        record.row,
        wall_seconds=seconds,
        accelerator_seconds=seconds * cell.compute.processes if torch.cuda.is_available() else 0.0,
        peak_bytes=max(one.peak_bytes for one in sessions),
        hardware=said_once(sessions, "hardware"),
        versions=said_once(sessions, "versions"),
    )
    write_record(folder, replace(record, status="ok", reason=record.remark, remark="", row=row))
    tidy(folder)


def external_bytes(cell: Experiment, method: VideoMethod) -> int:
    """Size of the weights that came from outside the run: the given codec, and every file that a cell names."""
    codec = count(method.codec.parameters()) * 4 if cell.codec.kind == "kl" and not method.owns_first_stage else 0
    return codec + sum(Path(path).stat().st_size for path in set(cell.outside.values()))


FIXED_TABLES = {"pos_embed", "temp_embed", "time_embed"}


if __name__ == "__main__":
    begin()
    checkpoint.listen()
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
        emit("result", status="ok", reason="")
    except Exception as error:  # whatever it is, the record must say so and the other cells must run
        traceback.print_exc()
        emit("result", status=status_of(error), reason=reason_of(error, sys.argv[1]))
        raise SystemExit(1) from None
