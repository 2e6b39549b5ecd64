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
from lavita.executors.heartbeat import Plan, Result, emit, progress
from lavita.executors.process import end_with_parent
from lavita.executors.ranks import together
from lavita.experiment.completion import complete, finish, save_method
from lavita.experiment.reconstruction import PARTS, FirstStage, reconstruction_scores
from lavita.experiment.scoring import Scorer
from lavita.experiment.sessions import reason_of, session, status_of
from lavita.experiment.setup import Setup, set_up
from lavita.experiment.train import HELDOUT_CLIPS, train
from lavita.experiment.untrained import STAGE, at_its_start, known_zeros, shared_key, untrained_scores
from lavita.results.attempts import PROGRESS
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.sampling.generate import Generated, drop_parts, generate, save_samples
from lavita.training import checkpoint, distributed
from lavita.training.arithmetic import arithmetic
from lavita.training.fit import free_memory
from lavita.training.stage import TrainedStage


def main(folder: Path, shared_folder: Path) -> None:
    """Begin the run of a folder, or resume it, and complete its record."""
    experiment = read_config(folder / "config.yaml")
    with arithmetic(experiment.compute.deterministic) as said, together(experiment.compute, folder):
        if not distributed.is_first():
            work(set_up(experiment, folder, shared_folder), folder, ResumeStore(folder / PROGRESS))
            return
        with session(folder, said) as store:
            work(set_up(experiment, folder, shared_folder), folder, store)
        finish(folder, experiment.compute.processes)


def work(setup: Setup, folder: Path, store: ResumeStore) -> None:
    """What is done in one session, by every process of the run: sample untrained, train, sample, score."""
    scorer = Scorer(setup.shared, setup.experiment, str(setup.device)) if distributed.is_first() else None
    if scorer is not None:
        emit(plan_of(setup))
    out, key = folder / STAGE, shared_key(setup)

    def score(at_start: Setup) -> list[Score]:
        zeros = key is not None
        with known_zeros(getattr(at_start.method, "network", None), zeros):
            return score_method(at_start, scorer, STAGE, out, store, timed=not zeros)

    untrained = untrained_scores(setup, out, store, score, key, wait=False)
    free_memory()
    spent = train(setup, folder, store)
    if untrained is None:  # another run was making them
        untrained = untrained_scores(at_its_start(setup), out, store, score, key, wait=True)
    setup.method.to(setup.device)  # the trainer leaves a module on the CPU
    scores = untrained + score_method(setup, scorer, "train", folder / "samples", store)
    for task in setup.method.tasks_beside(setup.experiment.sampling):
        scores += score_method(with_task(setup, task), scorer, task, folder / task, store)
    if scorer is not None:
        weights_hash = save_method(setup, folder)
        scores += first_stage_scores(setup, scorer, folder / "autoencoder.gif", store)
        complete(folder, setup, spent, scores, weights_hash)


def with_task(setup: Setup, task: str) -> Setup:
    """The same run, whose clips are made by another task from noise alone."""
    e = setup.experiment
    return replace(setup, experiment=replace(e, sampling=replace(e.sampling, task=task)))


def plan_of(setup: Setup) -> Plan:
    """The stages of a run by the names under which they say how far they are, with their clips and FLOPs."""
    sampling, clips = setup.experiment.sampling, float(setup.experiment.protocol.n_generated)
    names = ["sample untrained", "sample", *(f"sample {task}" for task in setup.method.tasks_beside(sampling))]
    before, *rest = ({name: clips, f"score of {name}": clips} for name in names)
    after = {name: count for one in rest for name, count in one.items()}
    trained = {plan.name: None if end.clips is None else float(end.clips) for plan, end in setup.stages}
    facts = setup.data.facts
    costs = {plan.name: facts[plan.name].flops_per_clip / plan.module.clip_cost for plan, _ in setup.stages}
    last = facts[setup.stages[-1][0].name]
    forward = (last.flops_per_clip - (last.encoding_flops or 0)) / 3 / setup.method.examples_per_clip  # backward is two
    sampled = forward * setup.method.evaluations(sampling) * (2 if sampling.guidance != 1 else 1)
    costs = {name: float(cost) for name, cost in costs.items()}
    costs |= {name: 0.0 if name.startswith("score") else sampled for name in (*before, *after)}
    return Plan(before | trained | after, costs)


def score_method(
    setup: Setup, scorer: Scorer | None, stage: str, out: Path, store: ResumeStore, timed: bool = True
) -> list[Score]:
    """Sample the protocol's clips, keep them without loss, and score them; one score per metric.

    Every process samples its part; scorer None: another one scores. timed: the scores say how long sampling took.
    """
    name = "sample" if stage == "train" else f"sample {stage}"
    experiment, conditions = setup.experiment, setup.conditions
    sampling, remark = experiment.sampling, None if conditions is None else conditions.remark

    def sample() -> Generated:
        report = partial(progress, name)
        clips, classes = experiment.protocol.n_generated, setup.shared.classes
        compiled = experiment.compute.compile
        return generate(setup.method, sampling, clips, 0, classes, report, conditions, store, name, compiled)

    def make() -> list[dict[str, Any]]:
        made = sample()
        if out.is_dir():
            shutil.rmtree(out)  # of a process that was killed while it wrote them
        save_samples(out, made, experiment.method, experiment.cell, sampling, stage == "train", condition=remark)
        seconds = made.seconds / len(made.clips) if timed else None
        scored = scorer.score(made.clips, out.with_suffix(".npz"), stage == "train", store, f"score of {name}", stage)
        return [replace(score, sampling_seconds_per_clip=seconds).to_json() for score in scored]

    known = distributed.from_first(lambda: store.load_value(f"scores of {name}") is not None)
    if scorer is None:
        if not known:
            sample()
        distributed.from_first(lambda: None)  # until the clips are scored
        return []
    scores = store.get_or_compute(f"scores of {name}", make)
    distributed.from_first(lambda: None)  # the others may go on
    for parts in (name, f"score of {name}"):
        drop_parts(store, parts)
    return [Score.from_json(score) for score in scores]


def first_stage_scores(setup: Setup, scorer: Scorer, picture: Path, store: ResumeStore) -> list[Score]:
    """What the suite's autoencoder (measured once a suite), where the method works on its latents, and a first stage of
    the method's own lose; nothing of a method in pixels.
    """
    method, experiment = setup.method, setup.experiment
    shared = [] if method.owns_first_stage else list(setup.shared.codec_scores)
    codec = method.first_stage()
    if codec is None:
        return shared
    p, catalogue = experiment.protocol, setup.data.catalogue
    windows = real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)
    heldout = setup.data.clips(TrainedStage(experiment.train, 0), 0, 0).heldout_batch(HELDOUT_CLIPS)
    first = FirstStage(codec, setup.device, "autoencoder", method.perceptual_score)

    def make() -> list[dict[str, Any]]:
        scores = reconstruction_scores(first, heldout["video"], windows, scorer, picture, store)
        return [score.to_json() for score in scores]

    found = store.get_or_compute("scores of the first stage", make)
    drop_parts(store, PARTS)
    return shared + [Score.from_json(score) for score in found]


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
