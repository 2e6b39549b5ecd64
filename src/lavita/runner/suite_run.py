"""A whole run: plan, data, shared parts, one process a cell, tables. No torch in this process."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lavita.bench.attempts import new_attempt, remove_begun
from lavita.bench.ledger import read_record, write_record
from lavita.bench.lock import FolderLock
from lavita.bench.not_yet import not_yet
from lavita.bench.plan import write_config
from lavita.bench.run_folder import refuse_links, write_plan
from lavita.bench.seal import LOCK, PARTS, PLAN, seal
from lavita.bench.suite import CellConfig, load_suite, rows_of_suite
from lavita.bench.three_numbers import published_facts
from lavita.config import ConfigError
from lavita.registry import ROOT
from lavita.runner.decide import (
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
from lavita.runner.devices import default_workers
from lavita.runner.display import Display
from lavita.runner.executors import LOCAL, check_executor, executor_of, refuse_running
from lavita.runner.groups import Group, grouped
from lavita.runner.launch import Ended, Interrupted, Launcher
from lavita.runner.local import LocalExecutor
from lavita.runner.machine import is_of_the_machine, told
from lavita.runner.parts import CHECK, Shared, fit_shared
from lavita.runner.provenance import commit
from lavita.runner.record import first_record, first_record_of_samples
from lavita.runner.source import DataSource
from lavita.runner.tables import show_results, show_tables
from lavita.runner.task import Task
from lavita.runner.work import Work, shown

INTERRUPTED = 130  # exit status, as shells have it of a Ctrl-C


@dataclass(frozen=True)
class Options:
    """out, cache: folders, None for the usual ones. fresh: begin every cell anew; retry: run again what failed.

    workers None: as many cells at once as there are accelerators, or as the cores have room for. patience: seconds
    without a sign of life after which a process is ended as hung. samples: folders of clips made elsewhere, by the
    names of their rows. executor, slurm: what runs the cells, and what of Slurm is asked for. flags: what rows must say
    of themselves, by their names. publishable: the tables are marked so, and only a clean commit makes them.
    """

    out: Path | None = None
    cache: Path | None = None
    fresh: bool = False
    retry: bool = False
    workers: int | None = None
    patience: float = 3600.0
    executor: str = LOCAL
    slurm: Sequence[str] = ()
    samples: Mapping[str, Path] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    publishable: bool = False


@dataclass(frozen=True)
class Job:
    """A cell of the plan, with what it shares, what its numbers are made from, and what becomes of it."""

    title: str
    cell: CellConfig
    shared: Shared
    parts: Mapping[str, str]
    decision: Decision


def run_suite(cells: Sequence[CellConfig], options: Options) -> int:
    """Run the cells of a plan and write their tables.

    Returns 0 where every cell is ok and the audit passes, else 1; INTERRUPTED after a Ctrl-C or SIGTERM. Raises
    ValueError, OSError.
    """
    check_commit(options.publishable)
    check_executor(options.executor, options.slurm, cells)
    display = Display()
    try:
        cache = (options.cache or ROOT / "results" / "cache").resolve()
        groups = found_data(cells, cache, display)
        work = work_of(cells, groups[0].source, cache, options, display)
        with FolderLock(work.folder / LOCK, "run.py") as lock:
            if lock.taken_from:
                display.line(f"going on after {lock.taken_from}")
            refuse_links(work.folder)
            refuse_running(work.folder)
            clear(work.folder)
            return run_locked(work, groups, options)
    except (KeyboardInterrupt, Interrupted):
        display.end()
        display.line("interrupted; the same command goes on with what is not finished:")
        display.line(f"  python {shlex.join(sys.argv)}")
        return INTERRUPTED
    except OSError as error:
        if not is_of_the_machine(error):
            raise
        raise ValueError(f"{told(error)}; mend that, and the same command goes on: nothing is lost") from None
    finally:
        display.end()


def clear(run: Path) -> None:
    """Remove what runs that were killed have left unfinished of what a run itself writes."""
    for path in run.glob(".*.part"):
        path.unlink()
    for path in run.glob(f"{CHECK}*"):
        shutil.rmtree(path)
    for part in PARTS:
        remove_begun(run / part)


def work_of(cells: Sequence[CellConfig], source: DataSource, cache: Path, options: Options, display: Display) -> Work:
    """Where the run writes and what it starts processes with. Raises ConfigError, OSError."""
    suite, tier, threads = cells[0].suite, cells[0].tier, cells[0].compute.threads
    folder = (options.out or ROOT / "results" / f"{suite}-{tier}-{source.name}").resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file, wanted a folder")
    folder.mkdir(parents=True, exist_ok=True)
    local = options.executor == LOCAL
    here_at_once = default_workers(threads, cells[0].compute.devices)
    workers = min(options.workers or (here_at_once if local else len(cells)), len(cells))
    where = "" if local else " as jobs of Slurm"
    display.line(
        f"{suite}, tier {tier}, {source.label}: {len(cells)} cells, {workers} at a time{where}, {threads} threads "
        f"each; results in {shown(folder)}"
    )
    here = LocalExecutor(workers if local else here_at_once, Launcher(options.patience), display)
    executor = executor_of(options.executor, options.slurm, folder, options.workers, here, display)
    return Work(folder, cache, executor, here, display)


def run_locked(work: Work, groups: Sequence[Group], options: Options) -> int:
    """Shared parts, cells, tables; 0 where every cell is ok and the audit passes, else 1."""
    try:
        bad = run_cells(work, fit_shared(work, groups), options)
    except (KeyboardInterrupt, Interrupted):
        work.display.end()
        if (work.folder / PLAN).is_file():
            show_tables(work.folder, work.display)
        raise
    return 1 if not show_results(work.folder, work.display) or bad else 0


def found_data(cells: Sequence[CellConfig], cache: Path, display: Display) -> list[Group]:
    """The groups of the cells with their data; each video that is left out is said once, with its reason."""
    channel = display.channel("data")
    try:
        groups = grouped(
            cells,
            cache,
            lambda done, total: channel.show(dict(kind="progress", stage="checked", done=done, total=total)),
        )
    finally:
        channel.close()
        display.end()
    found = [group.source.catalogue for group in groups]
    for note in dict.fromkeys(f"{catalogue.root}/{note}" for catalogue in found for note in catalogue.notes):
        display.line(f"  left out: {note}")
    return groups


def run_cells(work: Work, shared: Sequence[Shared], options: Options) -> int:
    """Run what is not finished, saying of each cell why; returns how many are not ok."""
    jobs = planned(work, shared, options)
    every = [job.cell for job in jobs]
    made_elsewhere = {name: replace(every[0], method=name, choice="", seed=0) for name in options.samples}
    marks = {job.cell.cell: identity(job.parts) for job in jobs}
    plan = plan_of(shared, marks, [cell.cell for cell in made_elsewhere.values()])
    write_plan(work.folder, plan | {"publishable": options.publishable})
    by_folder = {}
    for job in jobs:
        if job.decision.action == FINISHED and "files" not in read_record(job.decision.folder):
            seal(job.decision.folder)  # its run was killed just before
        if job.decision.why:
            work.display.line(f"{job.title}: {job.decision.why}")
        if job.decision.action not in (FINISHED, LEAVE):
            by_folder[queue(work, job, options.flags)] = job

    def done(task: Task, ended: Ended) -> None:
        record = read_record(task.folder)
        reason = record.get("reason", "")
        work.display.line(f"{task.title}: {record['status']}" + (f": {reason}" if reason else ""))

    work.executor.run([task_of(job, folder) for folder, job in by_folder.items()], done)
    bad = sum(job.decision.action == LEAVE for job in jobs)
    bad += sum(read_record(folder)["status"] != "ok" for folder in by_folder)
    for name, cell in made_elsewhere.items():
        bad += not run_samples(work, shared[0], cell, options.samples[name], options.fresh)
    return bad


def planned(work: Work, shared: Sequence[Shared], options: Options) -> list[Job]:
    """Every cell with what becomes of it."""
    every = [(one, cell) for one in shared for cell in one.group.cells]
    jobs = []
    for number, (one, cell) in enumerate(every, start=1):
        parts = made_from(cell, one)
        decision = decide(work.folder / "cells", cell, parts, options.fresh, options.retry)
        jobs.append(Job(f"[{number}/{len(every)}] {cell.cell}", cell, one, parts, decision))
    return jobs


def queue(work: Work, job: Job, flags: Mapping[str, str]) -> Path:
    """The folder of a cell that is to run, its record saying so: a new attempt, or the one that is gone on with."""
    if job.decision.action != BEGIN:
        folder = job.decision.folder
        record = read_record(folder) | {"status": "queued", "reason": "", "config": asdict(job.cell)}
        record.pop("files", None)  # it is not sealed any more
        write_config(job.cell, folder / "config.yaml")  # the same, but for where things lie now
        write_record(folder, record)
        return folder
    record = first_record(job.cell, job.shared, identity(job.parts)) | {"flag": flags.get(job.cell.label, "")}
    record |= {"status": "queued", "made_from": dict(job.parts), "why": job.decision.why}
    return new_attempt(work.folder / "cells", job.cell.cell, lambda folder: begin(folder, job.cell, record))


def begin(folder: Path, cell: CellConfig, record: Mapping[str, Any]) -> None:
    """The configuration and the first record of an attempt."""
    write_config(cell, folder / "config.yaml")
    write_record(folder, dict(record))


def task_of(job: Job, folder: Path) -> Task:
    """The process of a cell."""
    arguments = (str(folder), str(job.shared.folder))
    prefix = f"{job.cell.cell}: "
    compute = job.cell.compute
    return Task(
        job.title,
        prefix,
        folder,
        "lavita.runner.cell",
        arguments,
        compute.threads,
        compute.devices,
        compute.nodes,
    )


def plan_of(shared: Sequence[Shared], marks: Mapping[str, str], made_elsewhere: Sequence[str]) -> dict[str, Any]:
    """run.json: what stands in the tables, in which order, and what the suite says of itself; marks: identities."""
    first = shared[0].group.cells[0]
    suite = load_suite(first.suite)
    rows = rows_of_suite(suite, first.tier)
    cells = {
        cell.cell: {"label": cell.label, "identity": marks[cell.cell]} for one in shared for cell in one.group.cells
    }
    return {
        "suite": first.suite,
        "tier": first.tier,
        "title": suite.title,
        "order": [row.label for row in rows],
        "varied": sorted({section for row in rows for section in row.changes}),
        "compares_rows": suite.rows is not None,
        "not_yet": not_yet() if suite.rows is None else [],
        "cells": cells | {name: {"label": name.rpartition("-s")[0], "identity": ""} for name in made_elsewhere},
        "comparisons": sorted({one.values["comparison"] for one in shared}),
        "published": published_facts({cell.method for one in shared for cell in one.group.cells}, suite.dataset),
    }


def run_samples(work: Work, shared: Shared, cell: CellConfig, path: Path, fresh: bool) -> bool:
    """Score a folder of clips made elsewhere by the protocol of the first cells; True where that went well."""
    parts = samples_made_from(path, shared)
    if not fresh and samples_scored(work.folder / "cells", cell.cell, parts):
        work.display.line(f"clips of {cell.method}: scored before: same clips, code, data, feature network, protocol")
        return True
    record = first_record_of_samples(cell, shared) | {"status": "queued", "made_from": parts}
    folder = new_attempt(work.folder / "cells", cell.cell, lambda folder: begin(folder, cell, record))
    title, arguments = f"clips of {cell.method}", (str(folder), str(shared.folder), str(path))
    work.executor.run([Task(title, "", folder, "lavita.runner.samples", arguments, cell.compute.threads)])
    record = read_record(folder)
    work.display.line(f"{title}: {record['status']}: {record['reason']}")
    return record["status"] == "ok"


def check_commit(publishable: bool) -> None:
    """Raise ConfigError where a table is to be published and the code is not a clean commit."""
    head, dirty = commit()
    if publishable and dirty != "false":
        state = "has uncommitted changes" if dirty == "true" else "is in no repository that git can read"
        raise ConfigError(f"--publishable: the code at commit {head[:12]} {state}; commit it first")
