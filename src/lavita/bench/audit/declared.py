"""Is everything said that a reader must know: outside help, deviations, the checkpoint, the code, each row's start?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lavita.bench.audit.compare import ALL, short
from lavita.bench.audit.settings import audited
from lavita.bench.audit_line import FAIL, NOT_APPLICABLE, PASS, AuditLine
from lavita.bench.plan import cell_from_dict, deviations
from lavita.bench.run_folder import Attempt, RunFolder
from lavita.registry import names_in
from lavita.whole import sha256_of

CHECKPOINT = "checkpoint.safetensors"
COMMIT = "code is a commit"
PARAMETER_TOLERANCE = 0.05


def declared_lines(run: RunFolder) -> Iterator[AuditLine]:
    """The lines of every row, and of the plan."""
    for one in run.cells:
        if one.record["identity"] and one.record["status"] == "ok":
            yield outside_line(one)
            yield deviations_line(one.record)
            yield checkpoint_line(run, one)
            yield untrained_line(one.record)
    yield from commit_lines(run, strict=False)
    yield from size_lines(run)
    yield from plan_lines(run)


def outside_line(one: Attempt) -> AuditLine:
    """Weights from outside are named by their hashes, and no closed row has any."""
    check, record = "outside weights declared", one.record
    cell, names = cell_from_dict(record["config"]), record["outside"]
    used = cell.outside | ({"codec.path": str(cell.codec.path)} if cell.codec.kind == "kl" else {})
    undeclared = sorted(set(used) - set(names))
    if undeclared:
        key = undeclared[0]
        return AuditLine(check, cell.cell, FAIL, f"{key} is {short(used[key], 60)}, but the record declares none")
    gone = sorted(set(names) - set(used))
    if gone:
        return AuditLine(check, cell.cell, FAIL, f"{gone[0]} is declared, but the configuration has none")
    row = record["row"]
    if row["external_bytes"] > 0 and cell.division == "closed":
        return AuditLine(check, cell.cell, FAIL, f"{row['external_bytes']} bytes from outside in a closed row")
    started = record.get("initialised")
    if started and not (cell.pretraining.method or cell.pretraining.checkpoint):
        return AuditLine(check, cell.cell, FAIL, f"started from {started['source']}, but its configuration has no such")
    return AuditLine(check, cell.cell, PASS, "; ".join(names.values()) or "none used")


def deviations_line(record: Mapping[str, Any]) -> AuditLine:
    """Each value that is not the authors' own is listed."""
    check, cell = "deviations listed", cell_from_dict(record["config"])
    if cell.method not in names_in("methods"):
        return AuditLine(check, cell.cell, NOT_APPLICABLE, f"method {cell.method} is not of this repository")
    wanted, listed = deviations(cell), record["deviations"]
    missing = [item for item in wanted if item not in listed]
    stray = [item for item in listed if item not in wanted]
    if missing or stray:
        text = f"{missing[0]} is not listed" if missing else f"{stray[0]} is listed, but not so configured"
        return AuditLine(check, cell.cell, FAIL, text)
    return AuditLine(check, cell.cell, PASS, f"{len(listed)} of them")


def checkpoint_line(run: RunFolder, one: Attempt) -> AuditLine:
    """The weights that were scored are the last average at the end of the budget: the only ones that are kept."""
    check, folder, record = "last average at budget end", run.path / "cells" / one.name, one.record
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if found != [CHECKPOINT]:
        return AuditLine(check, record["cell"], FAIL, f"weights {', '.join(found) or 'none'}, but wanted {CHECKPOINT}")
    mark = sha256_of(folder / CHECKPOINT)
    if mark != record["row"]["weights_hash"]:
        text = f"{CHECKPOINT} has sha256 {mark[:16]}, but the row {record['row']['weights_hash'][:16]}"
        return AuditLine(check, record["cell"], FAIL, text)
    return AuditLine(check, record["cell"], PASS, f"sha256 {mark[:16]}")


def untrained_line(record: Mapping[str, Any]) -> AuditLine:
    """Every score of the trained method stands beside that of its own start, where that has one."""
    of = {
        stage: {score["metric"] for score in record["scores"] if score["stage"] == stage}
        for stage in ("train", "untrained")
    }
    missing = sorted(
        name for name in of["train"] - of["untrained"] if name.split("_")[0] in ("fvd", "kvd", "is", "fid")
    )
    text = f"{missing[0]} has no untrained value" if missing else f"{len(of['untrained'])} scores of the start"
    return AuditLine(
        "untrained start in the table", record["cell"], FAIL if missing or not of["untrained"] else PASS, text
    )


def commit_lines(run: RunFolder, strict: bool) -> Iterator[AuditLine]:
    """A line a row that this suite made; a table to be published is strict in any case."""
    for record in audited(run).values():
        yield commit_line(record, strict or bool(run.plan.get("publishable")))


def commit_line(record: Mapping[str, Any], strict: bool) -> AuditLine:
    """The code is a commit; changes beside it fail only where the table is to be published."""
    row = record["row"]
    dirty = {"true": " with uncommitted changes", "false": "", "unknown": ", unknown whether changed"}[row["dirty"]]
    verdict = FAIL if strict and (row["dirty"] != "false" or row["commit"] == "unknown") else PASS
    text = f"commit {row['commit'][:12]}{dirty}"
    return AuditLine(COMMIT, record["cell"], verdict, text + (", but wanted a clean one" if verdict == FAIL else ""))


def size_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Rows that were to be as large as another method are so within 5 %, or flagged."""
    check, records = "parameters within tolerance or flagged", audited(run)
    matched = {cell: record["config"]["model"].get("match_params") for cell, record in records.items()}
    matched = {cell: name for cell, name in matched.items() if name}
    for cell, name in matched.items():
        record = records[cell]
        base = next((r for r in records.values() if r["config"]["method"] == name), None)
        if base is None:
            yield AuditLine(check, cell, NOT_APPLICABLE, f"{name} is no row of this run")
            continue
        ours, theirs = record["row"]["params_trained"], base["row"]["params_trained"]
        fine = abs(ours / theirs - 1) <= PARAMETER_TOLERANCE or bool(record["flag"])
        yield AuditLine(check, cell, PASS if fine else FAIL, f"{ours} trained, {theirs} of {name}")
    if not matched:
        yield AuditLine(check, ALL, NOT_APPLICABLE, "no row was matched in size (model.match_params)")


def plan_lines(run: RunFolder) -> Iterator[AuditLine]:
    """Every planned row is in the table, with a reason where it has no score."""
    check = "every planned row is there"
    there = {record["cell"]: record for record in run.records}
    missing = sorted(set(run.plan["cells"]) - set(there))
    for cell in missing:
        yield AuditLine(check, cell, FAIL, "planned, but without a record")
    for cell, record in there.items():
        if record["status"] != "ok" and not record["reason"] and record["status"] not in ("queued", "running"):
            yield AuditLine(check, cell, FAIL, f"status {record['status']}, but no reason")
    if not missing:
        yield AuditLine(check, ALL, PASS, f"{len(run.plan['cells'])} planned, {len(there)} in the tables")
