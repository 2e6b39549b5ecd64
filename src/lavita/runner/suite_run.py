"""A whole run: plan, data, shared parts, one process a cell, tables. No torch in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lavita.bench.ledger import read_record, write_record
from lavita.bench.plan import code_hash, config_hash, write_config
from lavita.bench.suite import CellConfig
from lavita.config import ConfigError
from lavita.registry import ROOT
from lavita.runner.devices import default_workers, environment_of
from lavita.runner.display import Display
from lavita.runner.groups import Group, grouped
from lavita.runner.launch import Interrupted, Launcher
from lavita.runner.record import first_record, first_record_of_samples
from lavita.runner.tables import make_tables
from lavita.whole import write_whole


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes, what it starts processes with, and where it says how far it is."""

    groups: list[Group]
    folder: Path
    cache: Path
    workers: int
    flags: Mapping[str, str]
    launcher: Launcher
    display: Display

    def cell_folder(self, cell: CellConfig) -> Path:
        return self.folder / "cells" / cell.cell

    def shared_folder(self, group: Group) -> Path:
        return self.folder / "shared" / group.key

    def in_turn(self, tasks: Sequence[Callable[[int], Any]]) -> list[Any]:
        """Results of the tasks in their order, `workers` at a time; each is told which worker runs it."""
        free: SimpleQueue[int] = SimpleQueue()
        for worker in range(self.workers):
            free.put(worker)

        def call(task: Callable[[int], Any]) -> Any:
            worker = free.get()
            try:
                return task(worker)
            finally:
                free.put(worker)

        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(call, task) for task in tasks]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                self.launcher.stop()
                raise


def run_suite(
    cells: Sequence[CellConfig],
    out: Path | None,
    cache: Path | None,
    fresh: bool,
    workers: int | None,
    samples: Mapping[str, Path],
    flags: Mapping[str, str],
) -> int:
    """Run the cells of a plan and write their tables; returns 0 where every cell is ok, else 1.

    samples: folders of clips made elsewhere, by the names of their rows. flags: what rows must say of themselves, by
    their names. workers None: as many cells at once as there
    are accelerators, or as the cores have room for.
    Raises ValueError, OSError.
    """
    suite, tier = cells[0].suite, cells[0].tier
    cache = (cache or ROOT / "results" / "cache").resolve()
    display = Display()
    groups = found_data(cells, cache, display)
    source = groups[0].source
    folder = (out or ROOT / "results" / f"{suite}-{tier}-{source.name}").resolve()
    check_out_folder(folder)
    workers = min(workers or default_workers(cells[0].compute.threads), len(cells))
    run = Run(groups, folder, cache, workers, flags, Launcher(), display)
    try:
        run.display.line(
            f"{suite}, tier {tier}, {source.label}: {len(cells)} cells, {workers} at a time, "
            f"{cells[0].compute.threads} threads each; results in {shown(folder)}"
        )
        shared = dict(zip((group.key for group in groups), fit_shared(run), strict=True))
        bad = run_cells(run, shared, fresh)
        bad += run_samples(run, shared[groups[0].key], samples)
        make_tables(run.folder, groups, shared, run.display, [f"{name}-s0" for name in samples])
    except (KeyboardInterrupt, Interrupted):
        run.display.end()
        run.display.line("interrupted; the same command goes on with the cells that are not finished")
        return 1
    finally:
        run.display.end()
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


def shown(path: Path) -> str:
    """A path as short as can be: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def fit_shared(run: Run) -> list[dict[str, Any]]:
    """Codec, extractor and real features of every group. Raises ValueError where they can't be had."""

    def fit(group: Group, worker: int) -> dict[str, Any]:
        folder = run.shared_folder(group)
        folder.mkdir(parents=True, exist_ok=True)
        spec = {"cells": [asdict(cell) for cell in group.cells], "cache": str(run.cache)}
        write_whole(folder / "spec.json", json.dumps(spec, indent=1) + "\n")
        of = "" if len(run.groups) == 1 else f" of {', '.join(dict.fromkeys(cell.label for cell in group.cells))}"
        channel = run.display.channel(f"shared parts: codec, extractor, real clips{of}")
        environment = environment_of(worker, group.cells[0].compute.threads)
        ended = run.launcher.run("lavita.runner.shared", [str(folder)], folder / "log.txt", channel.show, environment)
        channel.close()
        if ended.code != 0:
            raise ValueError(f"{ended.reason} (log: {shown(folder / 'log.txt')})")
        return json.loads((folder / "shared.json").read_text())

    return run.in_turn([lambda worker, group=group: fit(group, worker) for group in run.groups])


def identity(cell: CellConfig, group: Group, shared: dict[str, Any]) -> str:
    """A hash of everything that decides a cell's numbers: configuration, code, data, codec, extractor, protocol."""
    parts = [config_hash(cell), code_hash(cell), group.source.catalogue.fingerprint]
    parts += [shared["codec_hash"] or "", shared["extractor_hash"], shared["protocol_hash"]]
    parts += [f"{key} {shared['outside'][path]}" for key, path in cell.outside.items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run_cells(run: Run, shared: dict[str, dict[str, Any]], fresh: bool) -> int:
    """Run what is not finished; returns how many cells are not ok."""
    every = [(group, cell) for group in run.groups for cell in group.cells]

    def one(index: int, group: Group, cell: CellConfig, worker: int) -> bool:
        title = f"[{index + 1}/{len(every)}] {cell.cell}"
        mark = identity(cell, group, shared[group.key])
        old = read_record(run.cell_folder(cell))
        if old and old["status"] == "ok" and old["identity"] == mark and not fresh:
            run.display.line(f"{title}: finished before with the same code, configuration, data and protocol")
            return True
        if old and old["status"] == "ok" and not fresh:
            run.display.line(f"{title}: run again, its code, configuration, data, codec or protocol has changed")
        status, reason = run_cell(run, group, cell, shared[group.key], mark, title, worker)
        run.display.line(f"{title}: {status}" + (f": {reason}" if reason else ""))
        return status == "ok"

    tasks = [
        lambda worker, index=index, group=group, cell=cell: one(index, group, cell, worker)
        for index, (group, cell) in enumerate(every)
    ]
    return run.in_turn(tasks).count(False)


def run_cell(
    run: Run, group: Group, cell: CellConfig, shared: dict[str, Any], mark: str, title: str, worker: int
) -> tuple[str, str]:
    """One cell in its own process; returns status and reason."""
    folder = run.cell_folder(cell)
    record = first_record(cell, group, shared, mark) | {"flag": run.flags.get(cell.label, "")}
    begin(folder, cell, record)
    arguments = [str(folder), str(run.shared_folder(group))]
    return run_recorded(run, cell, "lavita.runner.cell", arguments, record, title, worker)


def begin(folder: Path, cell: CellConfig, record: dict[str, Any]) -> None:
    """An empty folder of a cell with its configuration and first record."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_config(cell, folder / "config.yaml")
    write_record(folder, record)


def run_samples(run: Run, shared: dict[str, Any], samples: Mapping[str, Path]) -> int:
    """Score folders of clips made elsewhere, by the protocol of the first cells; returns how many are not ok."""
    group, bad = run.groups[0], 0
    for name, path in samples.items():
        cell = replace(group.cells[0], method=name, choice="", seed=0)
        record = first_record_of_samples(cell, group, shared)
        begin(run.cell_folder(cell), cell, record)
        arguments = [str(run.cell_folder(cell)), str(run.shared_folder(group)), str(path)]
        status, reason = run_recorded(run, cell, "lavita.runner.samples", arguments, record, f"clips of {name}", 0)
        run.display.line(f"clips of {name}: {status}: {reason}")
        bad += status != "ok"
    return bad


def run_recorded(
    run: Run, cell: CellConfig, module: str, arguments: list[str], record: dict[str, Any], title: str, worker: int
) -> tuple[str, str]:
    """A process that completes the record of its cell; whatever becomes of it, the record says so."""
    folder = run.cell_folder(cell)
    channel = run.display.channel(title)
    channel.prefix = f"{cell.cell}: " if run.workers > 1 else ""
    environment = environment_of(worker, cell.compute.threads)
    try:
        ended = run.launcher.run(module, arguments, folder / "log.txt", channel.show, environment)
    except Interrupted:
        write_record(folder, record | {"status": "interrupted", "reason": "interrupted from the keyboard"})
        raise
    finally:
        channel.close()
    result = ended.result or {}
    if ended.code == 0 and result.get("status") == "ok":
        record = read_record(folder)
        return record["status"], record.get("reason", "")
    status = result.get("status", "failed")
    write_record(folder, record | {"status": status, "reason": ended.reason})
    return status, ended.reason


def check_out_folder(folder: Path) -> None:
    """Raise ConfigError where the results folder is a file."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file, wanted a folder")
