"""A whole run: plan, data, shared parts, one process a cell, tables. No torch in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lavita.bench.ledger import COLUMNS, RECORD, read_record, rows_of, write_record, write_rows, write_whole
from lavita.bench.plan import code_hash, config_hash, deviations, make_plan, write_config
from lavita.bench.suite import CellConfig, methods_of
from lavita.bench.table import markdown, write_tables
from lavita.config import ConfigError
from lavita.registry import ROOT
from lavita.runner.launch import Display, run_process
from lavita.runner.provenance import commit, hardware, versions
from lavita.runner.source import DataSource, find_data


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes, and what it found."""

    cells: list[CellConfig]
    source: DataSource
    folder: Path
    cache: Path

    def cell_folder(self, cell: CellConfig) -> Path:
        return self.folder / "cells" / cell.cell


def run_suite(
    suite: str,
    tier: str,
    methods: Sequence[str] | None,
    seeds: Sequence[int],
    overrides: Sequence[str],
    out: Path | None,
    cache: Path | None,
    fresh: bool,
) -> int:
    """Run a suite and write its tables; returns 0 where every cell is ok, else 1. Raises ValueError, OSError."""
    cells = make_plan(suite, tier, methods, seeds, overrides)
    cache = (cache or ROOT / "results" / "cache").resolve()
    source = find_data(cells[0], cache)
    cells = [replace(cell, data=replace(cell.data, root=str(source.catalogue.root))) for cell in cells]
    folder = (out or ROOT / "results" / f"{suite}-{tier}-{source.name}").resolve()
    run = Run(cells, source, folder, cache)
    check_out_folder(folder)
    display = Display()
    try:
        display.line(f"{suite}, tier {tier}, {source.label}: {len(cells)} cells, results in {shown(folder)}")
        shared = fit_shared(run, display)
        bad = run_cells(run, shared, fresh, display)
        make_tables(run, shared, display)
    except KeyboardInterrupt:
        display.end()
        display.line("interrupted; the same command goes on with the cells that are not finished")
        return 1
    finally:
        display.end()
    return 1 if bad else 0


def shown(path: Path) -> str:
    """A path as short as can be: relative to the checkout where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def fit_shared(run: Run, display: Display) -> dict[str, Any]:
    """Codec, extractor and real features, in a process of their own. Raises ValueError where they can't be had."""
    folder = run.folder / "shared"
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"cells": [asdict(cell) for cell in run.cells], "cache": str(run.cache)}
    write_whole(folder / "spec.json", json.dumps(spec, indent=1) + "\n")
    display.start("shared parts: codec, extractor, real clips")
    ended = run_process("lavita.runner.shared", [str(folder)], folder / "log.txt", display.show)
    display.end()
    if ended.code != 0:
        raise ValueError(f"{ended.reason} (log: {shown(folder / 'log.txt')})")
    return json.loads((folder / "shared.json").read_text())


def identity(cell: CellConfig, run: Run, shared: dict[str, Any]) -> str:
    """A hash of everything that decides a cell's numbers: configuration, code, data, codec, extractor, protocol."""
    parts = [config_hash(cell), code_hash(cell), run.source.catalogue.fingerprint]
    parts += [shared["codec_hash"] or "", shared["extractor_hash"], shared["protocol_hash"]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run_cells(run: Run, shared: dict[str, Any], fresh: bool, display: Display) -> int:
    """Run what is not finished, one after the other; returns how many cells are not ok."""
    bad = 0
    for index, cell in enumerate(run.cells):
        folder = run.cell_folder(cell)
        mark = identity(cell, run, shared)
        old = read_record(folder)
        title = f"[{index + 1}/{len(run.cells)}] {cell.cell}"
        if old and old["status"] == "ok" and old["identity"] == mark and not fresh:
            display.line(f"{title}: finished before with the same code, configuration, data and protocol")
            continue
        if old and old["status"] == "ok" and not fresh:
            display.line(f"{title}: run again, its code, configuration, data, codec or protocol has changed")
        display.start(title)
        status, reason = run_cell(cell, run, shared, mark, display)
        display.end()
        display.line(f"{title}: {status}" + (f": {reason}" if reason else ""))
        bad += status != "ok"
    return bad


def run_cell(cell: CellConfig, run: Run, shared: dict[str, Any], mark: str, display: Display) -> tuple[str, str]:
    """One cell in its own process; the record always ends up telling how it went."""
    folder = run.cell_folder(cell)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_config(cell, folder / "config.yaml")
    record = first_record(cell, run, shared, mark)
    write_record(folder, record)
    try:
        ended = run_process("lavita.runner.cell", [str(folder)], folder / "log.txt", display.show)
    except KeyboardInterrupt:
        write_record(folder, record | {"status": "interrupted", "reason": "interrupted from the keyboard"})
        raise
    result = ended.result or {}
    if ended.code == 0 and result.get("status") == "ok":
        record = read_record(folder)
        return record["status"], record.get("reason", "")
    status = result.get("status", "failed")
    write_record(folder, record | {"status": status, "reason": ended.reason})
    return status, ended.reason


def first_record(cell: CellConfig, run: Run, shared: dict[str, Any], mark: str) -> dict[str, Any]:
    """The record of a cell that is about to run: all that is known before."""
    head, dirty = commit()
    row = {
        "suite": cell.suite,
        "tier": cell.tier,
        "cell": cell.cell,
        "method": cell.method,
        "dataset": run.source.label,
        "data_fingerprint": run.source.catalogue.fingerprint,
        "division": "open" if cell.codec.kind == "kl" else "closed",
        "conditioning": cell.conditioning,
        "guidance": cell.sampling.guidance,
        "seed": cell.seed,
        "protocol": shared["protocol_name"],
        "protocol_hash": shared["protocol_hash"],
        "extractor": shared["extractor_name"],
        "extractor_hash": shared["extractor_hash"],
        "n_real": cell.protocol.n_real,
        "n_generated": cell.protocol.n_generated,
        "sampler": cell.sampling.sampler,
        "nfe": cell.sampling.num_steps,
        "config_hash": config_hash(cell),
        "commit": head,
        "dirty": dirty,
        "hardware": hardware(),
        "versions": versions(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {
        "cell": cell.cell,
        "status": "running",
        "reason": "",
        "identity": mark,
        "code_hash": code_hash(cell),
        "comparison": shared["comparison"],
        "config": asdict(cell),
        "deviations": deviations(cell),
        "row": {key: value for key, value in row.items() if key in COLUMNS},
        "scores": [],
    }


def make_tables(run: Run, shared: dict[str, Any], display: Display) -> None:
    """rows.csv, table.csv and table.md from every record of the folder that may stand beside this run's cells."""
    planned = [cell.cell for cell in run.cells]
    records, left_out = [], []
    for path in sorted((run.folder / "cells").glob(f"*/{RECORD}")):
        record = read_record(path.parent)
        same = record["comparison"] == shared["comparison"]
        if record["cell"] in planned or (same and record["status"] == "ok"):
            records.append(record)
        else:
            left_out.append(record["cell"])
    order = methods_of(run.cells[0].suite)
    records.sort(key=lambda record: (order.index(record["row"]["method"]), record["row"]["seed"]))
    rows = [row for record in records for row in rows_of(record)]
    write_rows(run.folder / "rows.csv", rows)
    frame = write_tables(run.folder, rows, order, notes_of(records, shared, left_out))
    display.line("")
    display.line(markdown(short(frame)))
    display.line(f"tables: {shown(run.folder)}/rows.csv, table.csv, table.md; samples: cells/<cell>/samples.gif")
    if left_out:
        display.line(f"left out of the tables, made under another setting: {', '.join(left_out)}")


def short(frame):
    """The columns that fit a terminal."""
    keep = [name for name in frame.columns if name.split("_")[0] in ("fvd", "is")]
    return frame[["method", "seed", "status", *keep, "clips", "wall (s)", "remark"]]


def notes_of(records: list[dict[str, Any]], shared: dict[str, Any], left_out: list[str]) -> dict[str, str]:
    """What stands below the table: what the metric can see, deviations, stages, held-out losses."""
    notes = {"What this metric can see": shared["sanity_text"]}
    lines = []
    for record in records:
        stages = ", ".join(f"{stage['name']} {stage['clips']}" for stage in record.get("stages", []))
        loss = record.get("heldout_losses") or []
        ends = f"; held-out loss {loss[0][1]:.4g} -> {loss[-1][1]:.4g}" if loss else ""
        lines.append(f"* {record['cell']}: clips by stage: {stages or 'none'}{ends}")
    notes["Stages"] = "\n".join(lines)
    changed = [f"* {record['cell']}: " + "; ".join(record["deviations"]) for record in records]
    notes["Deviations from the authors' settings"] = "\n".join(changed)
    if left_out:
        notes["Left out"] = "Made under another setting: " + ", ".join(left_out)
    return notes


def check_out_folder(folder: Path) -> None:
    """Raise ConfigError where the results folder is a file."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file, wanted a folder")
