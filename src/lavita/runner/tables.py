"""Writes the generated tables of a results folder, audits it, puts all on one page, and shows what fits a terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lavita.bench.audit.files import REPORT
from lavita.bench.audit.run_audit import audit, fails_closed
from lavita.bench.audit_line import FAIL
from lavita.bench.cells import for_readers
from lavita.bench.pairs_note import sentence
from lavita.bench.report import report_html
from lavita.bench.run_folder import RunFolder, read_run
from lavita.bench.tables_of_run import TABLES, tables_of_run
from lavita.bench.write_table import markdown
from lavita.runner.display import Display
from lavita.runner.work import shown
from lavita.whole import write_whole


def show_results(folder: Path, display: Display) -> bool:
    """Tables, audit, page and, last, the digest of a results folder; False where the audit fails as audit.py has it."""
    run = show_tables(folder, display)
    lines = audit(run)
    write_whole(folder / REPORT, report_html(run, lines))
    failed = [line for line in lines if line.verdict == FAIL]
    for line in failed:
        display.line(f"audit: FAIL {line.check}: {line.where}: {line.text}")
    display.line(f"audit: {len(lines)} checks, {len(failed)} failed (python benchmarks/audit.py {shown(folder)})")
    display.line(f"all on one page: {shown(folder)}/{REPORT}")
    display.line(f"digest {run.digest}")
    return not fails_closed(run, lines)


def show_tables(folder: Path, display: Display) -> RunFolder:
    """Write every table of a results folder, and print what fits a terminal."""
    run = read_run(folder)
    tables = tables_of_run(run)
    for name in TABLES:
        if name in tables.texts:
            write_whole(folder / name, tables.texts[name])
        else:
            (folder / name).unlink(missing_ok=True)
    for facts, frame in tables.blocks:
        display.line("")
        if len(tables.blocks) > 1:
            display.line(facts)
        display.line(markdown(short(for_readers(frame, (), str))))
    for pair in tables.pairs:
        display.line(f"{pair.choice} against {pair.against}: {sentence(pair)}")
    files = ", ".join(name for name in TABLES if name in tables.texts)
    display.line(f"tables: {shown(folder)}/{files}; samples: cells/<cell>/samples.gif")
    for one in run.others:
        display.line(f"left out of the tables: {one.name}: {one.left_out}")
    return run


def short(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a terminal."""
    keep = [name for name in frame.columns if name.split("_")[0] in ("fvd", "is")]
    return frame[["method", "seed", "status", *keep, "clips", "wall (s)", "remark"]]
