"""A results folder as its files say it: the plan, the shared parts, the records that count and those that do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavita.files import atomic_write_text, require_inside
from lavita.results.attempts import attempts, part_of
from lavita.results.digest import PARTS, PLAN, digest_of
from lavita.results.records import RECORD, read_record
from lavita.results.shared import SHARED, read_shared


@dataclass(frozen=True)
class Attempt:
    """One attempt at a cell: its folder's name below cells/, its record, and, where it does not count, why."""

    name: str
    record: dict[str, Any]
    left_out: str = ""


@dataclass(frozen=True)
class RunFolder:
    """plan: run.json (suite, tier, title, order of rows, planned cells); shared: by folder name below shared/, record
    and shared.json in one; cells: the attempts that stand in the tables, in their order; others: the rest.
    """

    path: Path
    plan: dict[str, Any]
    shared: dict[str, dict[str, Any]]
    cells: list[Attempt]
    others: list[Attempt]
    digest: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records that the tables are made from, in the order of the rows."""
        return [attempt.record for attempt in self.cells]

    @property
    def used_shared(self) -> dict[str, dict[str, Any]]:
        """The shared parts of the cells that count, in the order of the rows."""
        names = dict.fromkeys(record["shared"] for record in self.records)
        return {name: self.shared[name] for name in names if name in self.shared}


def write_plan(run: Path, plan: Mapping[str, Any]) -> None:
    """run.json, whole."""
    atomic_write_text(run / PLAN, json.dumps(plan, indent=1, sort_keys=True) + "\n")


def read_run(run: Path) -> RunFolder:
    """Read a results folder. Raises ValueError naming what is not there or can't be read."""
    if not (run / PLAN).is_file():
        raise ValueError(f"{run}: no {PLAN}, so this is no results folder of run.py")
    try:
        plan = json.loads((run / PLAN).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{run / PLAN}: can't be read ({error})") from None
    refuse_links(run)
    shared = {
        path.parent.name: read_shared(path.parent) | read_record(path.parent)
        for path in sorted((run / "shared").glob(f"*/{SHARED}"))
        if (path.parent / RECORD).is_file()
    }
    names = dict.fromkeys(part_of(path.parent)[0] for path in sorted((run / "cells").glob(f"*/{RECORD}")))
    cells: list[Attempt] = []
    others: list[Attempt] = []
    for name in names:
        kept, left = counted(name, every_attempt(run, name), plan)
        cells += kept
        others += left
    cells.sort(key=lambda one: (place(one.record["label"], plan["order"]), one.record["row"]["seed"]))
    return RunFolder(run, plan, shared, cells, others, digest_of(run))


def refuse_links(run: Path) -> None:
    """Raise ValueError where a part of a results folder is a link: what it points to lies elsewhere."""
    for kind in PARTS:
        require_inside(run, kind, f"{run}: the folder of its parts")
        for path in (run / kind).glob("*"):
            require_inside(path.parent, path.name, f"{path.parent}: a part")
            for name in (RECORD, SHARED):
                require_inside(path, name, f"{path}: what is read of it")


def every_attempt(run: Path, name: str) -> list[Attempt]:
    """The attempts at a cell, oldest first."""
    found = [(path, read_record(path)) for path in attempts(run / "cells", name)]
    for path, record in found:
        if record is not None:
            require_inside(run / "shared", record.get("shared"), f"{path / RECORD}: shared")
    return [Attempt(path.name, record) for path, record in found if record is not None]


def counted(name: str, tries: list[Attempt], plan: Mapping[str, Any]) -> tuple[list[Attempt], list[Attempt]]:
    """The attempt at a cell that stands in the tables, if any, and the others with why they do not.

    The newest that ended well counts, among those of the planned identity (configuration, code, data, weights,
    protocol); where none did, the newest. A cell that is not planned counts if it ended well under a setting that the
    plan compares.
    """
    planned = plan["cells"].get(name)
    fitting = [
        one for one in tries
        if (one.record["identity"] == planned["identity"] if planned
            else one.record["status"] == "ok" and one.record["comparison"] in plan["comparisons"])
    ]  # fmt: skip
    good = [one for one in fitting if one.record["status"] == "ok"]
    chosen = (good or fitting or [None])[-1]
    others = [
        Attempt(one.name, one.record, why_not(one, chosen, fitting)) for one in tries if one is not chosen
    ]  # fmt: skip
    return ([chosen] if chosen else []), others


def why_not(one: Attempt, chosen: Attempt | None, fitting: list[Attempt]) -> str:
    """Why an attempt does not stand in the tables."""
    if not any(one is fit for fit in fitting):
        return "made under another setting"
    if one.record["status"] != "ok":
        reason = one.record.get("reason", "")
        return f"{one.record['status']}{': ' if reason else ''}{reason}"
    return f"superseded by {chosen.name}" if chosen else "not planned"


def place(label: str, order: list[str]) -> int:
    """Where a row stands in the table; what the suite no longer knows comes last."""
    return order.index(label) if label in order else len(order)
