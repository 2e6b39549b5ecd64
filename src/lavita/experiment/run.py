"""The process of one run (method x seed): set up, sample untrained, train, save, sample, score, record."""

from __future__ import annotations

import shutil
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lavita.config.plan import read_config
from lavita.data.clips import real_windows
from lavita.executors.heartbeat import Result, emit, progress
from lavita.executors.process import end_with_parent
from lavita.experiment.completion import complete, finish, save_method
from lavita.experiment.devices import together
from lavita.experiment.scoring import Scorer, reconstruction_scores
from lavita.experiment.sessions import reason_of, session, status_of
from lavita.experiment.setup import Setup, set_up
from lavita.experiment.train import HELDOUT_CLIPS, train
from lavita.results.attempts import PROGRESS
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.sampling.generate import Generated, drop_parts, generate, save_samples
from lavita.training import checkpoint, distributed
from lavita.training.stage import TrainedStage


def main(folder: Path, shared_folder: Path) -> None:
    """Begin the run of a folder, or resume it, and complete its record."""
    experiment = read_config(folder / "config.yaml")
    with together(experiment.compute, folder):
        if not distributed.is_first():
            work(set_up(experiment, folder, shared_folder), folder, ResumeStore(folder / PROGRESS))
            return
        with session(folder) as store:
            work(set_up(experiment, folder, shared_folder), folder, store)
        finish(folder, experiment.compute.processes)


def work(setup: Setup, folder: Path, store: ResumeStore) -> None:
    """What is done in one session, by every process of the run: sample untrained, train, sample, score."""
    scorer = Scorer(setup.shared, setup.experiment, str(setup.device)) if distributed.is_first() else None
    scores = score_method(setup, scorer, "untrained", folder / "untrained", store)
    spent = train(setup, folder, store)
    setup.method.to(setup.device)  # the trainer leaves a module on the CPU
    scores += score_method(setup, scorer, "train", folder / "samples", store)
    if scorer is not None:
        weights_hash = save_method(setup, folder)
        scores += first_stage_scores(setup, scorer, folder / "autoencoder.gif", store)
        complete(folder, setup, spent, scores, weights_hash)


def score_method(setup: Setup, scorer: Scorer | None, stage: str, out: Path, store: ResumeStore) -> list[Score]:
    """Sample the protocol's clips, keep them without loss, and score them; one score per metric.

    Every process samples its part; scorer None: another one scores.
    """
    name = "sample" if stage == "train" else "sample untrained"
    experiment, conditions = setup.experiment, setup.conditions
    sampling, remark = experiment.sampling, None if conditions is None else conditions.remark

    def sample() -> Generated:
        report = partial(progress, name)
        clips, classes = experiment.protocol.n_generated, setup.shared.classes
        compile = experiment.compute.compile
        return generate(setup.method, sampling, clips, 0, classes, report, conditions, store, name, compile)

    def make() -> list[dict[str, Any]]:
        made = sample()
        if out.is_dir():
            shutil.rmtree(out)  # of a process that was killed while it wrote them
        save_samples(out, made, experiment.method, experiment.cell, sampling, stage == "train", condition=remark)
        seconds = made.seconds / len(made.clips)
        scored = scorer.score(made.clips, out.with_suffix(".npz"), stage == "train", store, f"score of {name}", stage)
        return [replace(score, sampling_seconds_per_clip=seconds).to_json() for score in scored]

    if scorer is None:
        if store.load_value(f"scores of {name}") is None:
            sample()
        return []
    scores = store.get_or_compute(f"scores of {name}", make)
    for parts in (name, f"score of {name}"):
        drop_parts(store, parts)
    return [Score.from_json(score) for score in scores]


def first_stage_scores(setup: Setup, scorer: Scorer, picture: Path, store: ResumeStore) -> list[Score]:
    """What the method's own first stage loses, or else (measured once a suite) what the suite's autoencoder loses."""
    method, experiment = setup.method, setup.experiment
    codec = method.first_stage()
    if codec is None:
        return list(setup.shared.codec_scores)
    p, catalogue = experiment.protocol, setup.data.catalogue
    windows = real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)
    heldout = setup.data.clips(TrainedStage(experiment.train, 0), 0, 0).heldout_batch(HELDOUT_CLIPS)
    video = heldout["video"].to(method.device)

    def make() -> list[dict[str, Any]]:
        scores = reconstruction_scores(codec, "autoencoder", video, windows, scorer, method.perceptual_score, picture)
        return [score.to_json() for score in scores]

    return [Score.from_json(score) for score in store.get_or_compute("scores of the first stage", make)]


if __name__ == "__main__":
    end_with_parent()
    checkpoint.listen()
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
        emit(Result("ok"))
    except Exception as error:  # whatever it is, the record must say so and the other runs continue
        traceback.print_exc()
        emit(Result(status_of(error), reason_of(error, sys.argv[1])))
        raise SystemExit(1) from None
