"""A whole run: plan, data, shared parts, one process a cell, tables. No torch in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavita.bench.attempts import attempts, new_attempt
from lavita.bench.ledger import read_record, write_record
from lavita.bench.not_yet import not_yet
from lavita.bench.plan import code_hash, config_hash, write_config
from lavita.bench.run_folder import write_plan
from lavita.bench.seal import seal
from lavita.bench.suite import CellConfig, load_suite, rows_of_suite
from lavita.bench.three_numbers import published_facts
from lavita.config import ConfigError
from lavita.registry import ROOT
from lavita.runner.devices import default_workers, environment_of
from lavita.runner.display import Display
from lavita.runner.groups import Group, grouped
from lavita.runner.launch import Interrupted, Launcher
from lavita.runner.parts import Shared, fit_shared
from lavita.runner.provenance import commit
from lavita.runner.record import first_record, first_record_of_samples
from lavita.runner.tables import show_results
from lavita.runner.work import Work, shown


@dataclass(frozen=True)
class Job:
    """A cell to run: where it stands among all, its group with what that shares, and the attempt's folder."""

    title: str
    cell: CellConfig
    shared: Shared
    folder: Path


def run_suite(
    cells: Sequence[CellConfig],
    out: Path | None,
    cache: Path | None,
    fresh: bool,
    workers: int | None,
    samples: Mapping[str, Path],
    flags: Mapping[str, str],
    publishable: bool,
) -> int:
    """Run the cells of a plan and write their tables; returns 0 where every cell is ok, else 1.

    samples: folders of clips made elsewhere, by the names of their rows. flags: what rows must say of themselves, by
    their names. workers None: as many cells at once as there are accelerators, or as the cores have room for.
    publishable: the tables are marked so, and only a clean commit makes them. Raises ValueError, OSError.
    """
    suite, tier = cells[0].suite, cells[0].tier
    check_commit(publishable)
    cache = (cache or ROOT / "results" / "cache").resolve()
    display = Display()
    groups = found_data(cells, cache, display)
    source = groups[0].source
    folder = (out or ROOT / "results" / f"{suite}-{tier}-{source.name}").resolve()
    check_out_folder(folder)
    workers = min(workers or default_workers(cells[0].compute.threads), len(cells))
    work = Work(folder, cache, workers, Launcher(), display)
    try:
        display.line(
            f"{suite}, tier {tier}, {source.label}: {len(cells)} cells, {workers} at a time, "
            f"{cells[0].compute.threads} threads each; results in {shown(folder)}"
        )
        shared = fit_shared(work, groups)
        bad = run_cells(work, shared, fresh, flags, samples, publishable)
        bad += not show_results(folder, display)
    except (KeyboardInterrupt, Interrupted):
        display.end()
        display.line("interrupted; the same command goes on with the cells that are not finished")
        return 1
    finally:
        display.end()
    return 1 if bad else 0


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


def identity(cell: CellConfig, shared: Shared) -> str:
    """A hash of everything that decides a cell's numbers: configuration, code, data, codec, extractor, protocol."""
    values = shared.values
    parts = [config_hash(cell), code_hash(cell), shared.group.source.catalogue.fingerprint]
    parts += [values["codec_hash"] or "", values["extractor_hash"], values["protocol_hash"]]
    parts += [f"{key} {values['outside'][path]}" for key, path in cell.outside.items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run_cells(
    work: Work,
    shared: Sequence[Shared],
    fresh: bool,
    flags: Mapping[str, str],
    samples: Mapping[str, Path],
    publishable: bool,
) -> int:
    """Run what is not finished; returns how many cells are not ok."""
    every = [(one, cell) for one in shared for cell in one.group.cells]
    made_elsewhere = {name: replace(every[0][1], method=name, choice="", seed=0) for name in samples}
    marks = {cell.cell: identity(cell, one) for one, cell in every}
    plan = plan_of(shared, marks, [cell.cell for cell in made_elsewhere.values()])
    write_plan(work.folder, plan | {"publishable": publishable})
    jobs = []
    for number, (one, cell) in enumerate(every, start=1):
        title, mark = f"[{number}/{len(every)}] {cell.cell}", marks[cell.cell]
        why = why_to_run(work, cell, mark, fresh)
        if why is None:
            work.display.line(f"{title}: finished before with the same code, configuration, data and protocol")
            continue
        if why:
            work.display.line(f"{title}: {why}")
        folder = queued_attempt(work, cell, mark) or new_attempt(work.folder / "cells", cell.cell)
        record = first_record(cell, one, mark) | {"flag": flags.get(cell.label, "")}
        begin(folder, cell, record)
        jobs.append(Job(title, cell, one, folder))
    ok = work.in_turn([lambda worker, job=job: run_cell(work, job, worker) for job in jobs])
    for name, cell in made_elsewhere.items():
        ok.append(run_samples(work, shared[0], cell, samples[name]))
    return ok.count(False)


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


def why_to_run(work: Work, cell: CellConfig, mark: str, fresh: bool) -> str | None:
    """Why a cell is run, '' where it never ended well; None where it is finished."""
    good = [
        record
        for record in map(read_record, attempts(work.folder / "cells", cell.cell))
        if record and record["status"] == "ok"
    ]
    if fresh:
        return "run again, as asked" if good else ""
    if any(record["identity"] == mark for record in good):
        return None
    return "run again, its code, configuration, data, codec or protocol has changed" if good else ""


def queued_attempt(work: Work, cell: CellConfig, mark: str) -> Path | None:
    """The last attempt, where it is the same and has not begun."""
    for folder in reversed(attempts(work.folder / "cells", cell.cell)):
        record = read_record(folder)
        return folder if record and record["status"] == "queued" and record["identity"] == mark else None
    return None


def begin(folder: Path, cell: CellConfig, record: dict[str, Any]) -> None:
    """The configuration and the first record of an attempt that waits for its turn."""
    write_config(cell, folder / "config.yaml")
    write_record(folder, record | {"status": "queued"})


def run_cell(work: Work, job: Job, worker: int) -> bool:
    """One cell in its own process; True where it ended well."""
    arguments = [str(job.folder), str(job.shared.folder)]
    status, reason = run_recorded(work, job.cell, job.folder, "lavita.runner.cell", arguments, job.title, worker)
    work.display.line(f"{job.title}: {status}" + (f": {reason}" if reason else ""))
    return status == "ok"


def run_samples(work: Work, shared: Shared, cell: CellConfig, path: Path) -> bool:
    """Score a folder of clips made elsewhere by the protocol of the first cells; True where that went well."""
    folder = new_attempt(work.folder / "cells", cell.cell)
    begin(folder, cell, first_record_of_samples(cell, shared))
    title, arguments = f"clips of {cell.method}", [str(folder), str(shared.folder), str(path)]
    status, reason = run_recorded(work, cell, folder, "lavita.runner.samples", arguments, title, 0)
    work.display.line(f"{title}: {status}: {reason}")
    return status == "ok"


def run_recorded(
    work: Work, cell: CellConfig, folder: Path, module: str, arguments: list[str], title: str, worker: int
) -> tuple[str, str]:
    """A process that completes the record of its cell; whatever becomes of it, the record says so and is sealed."""
    channel = work.display.channel(title)
    channel.prefix = f"{cell.cell}: " if work.workers > 1 else ""
    environment = environment_of(worker, cell.compute.threads)
    record = read_record(folder) | {"status": "running"}
    write_record(folder, record)
    try:
        ended = work.launcher.run(module, arguments, folder / "log.txt", channel.show, environment)
    except Interrupted:
        write_record(folder, record | {"status": "interrupted", "reason": "interrupted from the keyboard"})
        seal(folder)
        raise
    finally:
        channel.close()
    result = ended.result or {}
    if ended.code != 0 or result.get("status") != "ok":
        write_record(folder, record | {"status": result.get("status", "failed"), "reason": ended.reason})
    seal(folder)
    record = read_record(folder)
    return record["status"], record.get("reason", "")


def check_commit(publishable: bool) -> None:
    """Raise ConfigError where a table is to be published and the code is not a clean commit."""
    head, dirty = commit()
    if publishable and dirty != "false":
        state = "has uncommitted changes" if dirty == "true" else "is in no repository that git can read"
        raise ConfigError(f"--publishable: the code at commit {head[:12]} {state}; commit it first")


def check_out_folder(folder: Path) -> None:
    """Raise ConfigError where the results folder is a file."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file, wanted a folder")
