"""The runs of a suite: which are finished, resumed or begun and why, their processes, and the plan for the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lavita.config.compose import Experiment, load_method, load_suite, own_resolution, rows_of_suite
from lavita.config.plan import write_config
from lavita.executors.base import Task, Work
from lavita.executors.process import HANG_SECONDS, Ended
from lavita.executors.slurm_options import LOCAL
from lavita.report.published import not_yet
from lavita.report.reproduction import published_facts
from lavita.results.attempts import finalize_record, new_attempt
from lavita.results.records import Record, read_record, write_record
from lavita.results.rows import label_of
from lavita.results.run_folder import PlannedRun, RunPlan, write_plan
from lavita.suite.artifacts import GroupArtifacts
from lavita.suite.decide import (
    BEGIN,
    FINISHED,
    LEAVE,
    Decision,
    decide,
    identity,
    made_from,
    samples_made_from,
    samples_scored,
)
from lavita.suite.record import first_record, first_record_of_samples


@dataclass(frozen=True)
class Options:
    """out, cache: folders, None for the usual ones. fresh: begin every run anew; retry: run again what failed.

    workers None: as many runs at once as there are accelerators, or as the cores have room for. hang_timeout:
    seconds without a heartbeat after which a process is ended as hung. samples: folders of external samples, by the
    names of their rows. executor, slurm: what starts the runs, and Slurm's options. flags: what rows must say
    of themselves, by their names. publishable: the tables are marked so, and only a clean commit makes them.
    """

    out: Path | None = None
    cache: Path | None = None
    fresh: bool = False
    retry: bool = False
    workers: int | None = None
    hang_timeout: float = HANG_SECONDS
    executor: str = LOCAL
    slurm: Sequence[str] = ()
    samples: Mapping[str, Path] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    publishable: bool = False


@dataclass(frozen=True)
class Job:
    """A planned run: its configuration, shared artifacts, hashes of its inputs, and the decision about it."""

    title: str
    experiment: Experiment
    shared: GroupArtifacts
    parts: Mapping[str, str]
    decision: Decision


def run_experiments(work: Work, shared: Sequence[GroupArtifacts], options: Options) -> int:
    """Run what is not finished, saying of each run why; returns how many are not ok."""
    jobs = planned(work, shared, options)
    every = [job.experiment for job in jobs]
    external = {name: replace(every[0], method=name, choice="", seed=0) for name in options.samples}
    marks = {job.experiment.cell: identity(job.parts) for job in jobs}
    write_plan(work.folder, plan_of(shared, marks, [one.cell for one in external.values()], options.publishable))
    by_folder = {}
    for job in jobs:
        if job.decision.action == FINISHED and read_record(job.decision.folder).files is None:
            finalize_record(job.decision.folder)  # its run was killed just before
        if job.decision.why:
            work.display.line(f"{job.title}: {job.decision.why}")
        if job.decision.action not in (FINISHED, LEAVE):
            by_folder[queue(work, job, options.flags)] = job

    def done(task: Task, ended: Ended) -> str:
        record = read_record(task.folder)
        return f"{task.title}: {record.status}" + (f": {record.reason}" if record.reason else "")

    # What costs most begins first: begun last, it would run alone for long while the other cores wait.
    longest_first = sorted(by_folder.items(), key=lambda one: -one[1].shared.flops.get(one[1].experiment.label, 0.0))
    work.executor.run([task_of(job, folder) for folder, job in longest_first], done)
    bad = sum(job.decision.action == LEAVE for job in jobs)
    bad += sum(read_record(folder).status != "ok" for folder in by_folder)
    for name, experiment in external.items():
        bad += not run_samples(work, shared[0], experiment, options.samples[name], options.fresh)
    return bad


def planned(work: Work, shared: Sequence[GroupArtifacts], options: Options) -> list[Job]:
    """Every run with what becomes of it."""
    every = [(one, experiment) for one in shared for experiment in one.group.experiments]
    jobs = []
    for number, (one, experiment) in enumerate(every, start=1):
        parts = made_from(experiment, one)
        decision = decide(work.folder / "cells", experiment, parts, options.fresh, options.retry)
        jobs.append(Job(f"[{number}/{len(every)}] {experiment.cell}", experiment, one, parts, decision))
    return jobs


def queue(work: Work, job: Job, flags: Mapping[str, str]) -> Path:
    """The folder of a run that is to start, its record saying so: a new attempt, or the one that is resumed."""
    if job.decision.action != BEGIN:
        folder = job.decision.folder
        record = read_record(folder)
        write_config(job.experiment, folder / "config.yaml")  # the same, but for where things lie now
        write_record(folder, replace(record, status="queued", reason="", config=asdict(job.experiment), files=None))
        return folder
    record = replace(
        first_record(job.experiment, job.shared, identity(job.parts)),
        status="queued",
        flag=flags.get(job.experiment.label, ""),
        made_from=dict(job.parts),
        why=job.decision.why,
    )
    return new_attempt(work.folder / "cells", job.experiment.cell, lambda folder: begin(folder, job.experiment, record))


def begin(folder: Path, experiment: Experiment, record: Record) -> None:
    """The configuration and the first record of an attempt."""
    write_config(experiment, folder / "config.yaml")
    write_record(folder, record)


def task_of(job: Job, folder: Path) -> Task:
    """The process of a run."""
    arguments = (str(folder), str(job.shared.folder))
    prefix = f"{job.experiment.cell}: "
    compute = job.experiment.compute
    return Task(
        job.title,
        prefix,
        folder,
        "lavita.experiment.run",
        arguments,
        compute.threads,
        compute.devices,
        compute.nodes,
    )


def plan_of(
    shared: Sequence[GroupArtifacts], marks: Mapping[str, str], external: Sequence[str], publishable: bool
) -> RunPlan:
    """What stands in the tables, in which order, and what the suite says of itself; marks: identities."""
    first = shared[0].group.experiments[0]
    suite = load_suite(first.suite)
    every = [experiment for one in shared for experiment in one.group.experiments]
    rows = rows_of_suite(suite, first.tier, {experiment.method for experiment in every})
    runs = {experiment.cell: PlannedRun(experiment.label, marks[experiment.cell]) for experiment in every}
    return RunPlan(
        suite=first.suite,
        tier=first.tier,
        title=suite.title,
        order=tuple(row.label for row in rows),
        varied=tuple(sorted({section for row in rows for section in row.changes})),
        own_resolution=tuple(dict.fromkeys(one.label for one in every if has_own_resolution(one))),
        compares_rows=suite.rows is not None,
        not_yet=tuple(not_yet()) if suite.rows is None else (),
        cells=runs | {name: PlannedRun(label_of(name), "") for name in external},
        comparisons=tuple(sorted({one.values.comparison for one in shared})),
        published=published_facts({experiment.method for experiment in every}, suite.dataset),
        publishable=publishable,
    )


def has_own_resolution(experiment: Experiment) -> bool:
    """Whether a run is at the resolution that its method sets for the tier, whatever the others' is."""
    method = load_method(experiment.method)
    return experiment.data.resolution in {own_resolution(method, experiment.tier, kind) for kind in (False, True)}


def run_samples(work: Work, shared: GroupArtifacts, experiment: Experiment, path: Path, fresh: bool) -> bool:
    """Score a folder of external samples by the protocol of the first runs; True where that completed."""
    parts = samples_made_from(path, shared)
    if not fresh and samples_scored(work.folder / "cells", experiment.cell, parts):
        work.display.line(
            f"clips of {experiment.method}: scored before: same clips, code, data, feature network, protocol"
        )
        return True
    record = replace(first_record_of_samples(experiment, shared), status="queued", made_from=parts)
    folder = new_attempt(work.folder / "cells", experiment.cell, lambda folder: begin(folder, experiment, record))
    title, arguments = f"clips of {experiment.method}", (str(folder), str(shared.folder), str(path))
    work.executor.run([Task(title, "", folder, "lavita.experiment.samples", arguments, experiment.compute.threads)])
    record = read_record(folder)
    work.display.line(f"{title}: {record.status}: {record.reason}")
    return record.status == "ok"
