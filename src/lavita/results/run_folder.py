"""A results folder as its files say it: plan, shared artifacts, the records that count and those that do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavita.files import require_inside
from lavita.results.attempts import PARTS, PLAN, attempts, digest_of, part_of
from lavita.results.published import Known, PublishedFacts
from lavita.results.records import RECORD, Record, SharedRecord, read_record
from lavita.results.shared import SHARED, SharedArtifacts, read_shared
from lavita.results.typed_json import from_json, read_values, to_json, write_values


@dataclass(frozen=True)
class PlannedRun:
    """A run that stands in the tables; identity: of the attempt that counts, "" of external samples."""

    label: str
    identity: str


@dataclass(frozen=True)
class AbsentSystem:
    """A system that is no method yet. name: as configs/methods would have it; source: the paper's address; left_out:
    why it takes no part at all, "" where it is to come.
    """

    name: str
    title: str
    source: str
    left_out: str = ""


@dataclass(frozen=True)
class RunPlan:
    """run.json. order: labels of the suite's rows; varied: sections that rows vary by name; own_resolution: labels of
    the rows that are trained and scored at a resolution of their own, in tables of their own; compares_rows: whether
    the suite compares choices of one method, each with the first, and not methods; not_yet: systems that are no method
    yet; cells: its runs by name; comparisons: hashes of settings whose rows may stand in these tables; published:
    numbers that stand beside ours; publishable: whether the tables may be published.
    """

    suite: str
    tier: str
    title: str
    order: tuple[str, ...]
    compares_rows: bool
    cells: dict[str, PlannedRun]
    comparisons: tuple[str, ...]
    varied: tuple[str, ...] = ()
    own_resolution: tuple[str, ...] = ()
    not_yet: tuple[AbsentSystem, ...] = ()
    published: PublishedFacts = PublishedFacts((), Known({}, {}, {}, {}))
    publishable: bool = False

    def place(self, label: str) -> int:
        """Where a row stands in the table; what the suite no longer knows comes last."""
        return self.order.index(label) if label in self.order else len(self.order)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: its folder's name below cells/, its record, and, where it does not count, why."""

    name: str
    record: Record
    left_out: str = ""


@dataclass(frozen=True)
class SharedFolder:
    """A folder below shared/: its record, and what lies in it."""

    record: SharedRecord
    artifacts: SharedArtifacts


@dataclass(frozen=True)
class RunFolder:
    """shared: by folder name below shared/; attempts: those that stand in the tables, in their order; others: the
    rest.
    """

    path: Path
    plan: RunPlan
    shared: dict[str, SharedFolder]
    attempts: list[Attempt]
    others: list[Attempt]
    digest: str

    @property
    def records(self) -> list[Record]:
        """The records that the tables are made from, in the order of the rows."""
        return [attempt.record for attempt in self.attempts]

    @property
    def reader_notes(self) -> dict[str, str]:
        """What a reader must know who meets a row, by its name."""
        return {one.label: one.card.reader_note for one in self.records if one.card and one.card.reader_note}

    @property
    def used_shared(self) -> dict[str, SharedFolder]:
        """The shared artifacts of the runs that count, in the order of the rows."""
        names = dict.fromkeys(record.shared for record in self.records)
        return {name: self.shared[name] for name in names if name in self.shared}

    @property
    def used_protocols(self) -> list[SharedFolder]:
        """Those of them whose protocols differ, one each."""
        return list({one.artifacts.protocol_hash: one for one in self.used_shared.values()}.values())

    def folder_of(self, attempt: Attempt) -> Path:
        """Where an attempt lies."""
        return self.path / "cells" / attempt.name

    def shared_folder(self, name: str) -> Path:
        """Where shared artifacts lie."""
        return self.path / "shared" / name


def write_plan(run: Path, plan: RunPlan) -> None:
    """run.json, whole."""
    write_values(run / PLAN, to_json(plan))


def read_plan(run: Path) -> RunPlan:
    """The plan of a results folder. Raises ValueError, one line naming file and key, for one that can't be read."""
    path = run / PLAN
    if not path.is_file():
        raise ValueError(f"{run}: no {PLAN}, so this is no results folder of run.py")
    return from_json(RunPlan, read_values(path, "a plan"), str(path))


def read_run(run: Path) -> RunFolder:
    """Read a results folder. Raises ValueError naming what is not there or can't be read."""
    plan = read_plan(run)
    refuse_links(run)
    shared = {
        path.parent.name: SharedFolder(record, read_shared(path.parent))
        for path in sorted((run / "shared").glob(f"*/{SHARED}"))
        if (record := read_record(path.parent, SharedRecord)) is not None
    }
    names = dict.fromkeys(part_of(path.parent)[0] for path in sorted((run / "cells").glob(f"*/{RECORD}")))
    chosen: list[Attempt] = []
    others: list[Attempt] = []
    for name in names:
        kept, left = counted(name, every_attempt(run, name), plan)
        chosen += kept
        others += left
    chosen.sort(key=lambda one: (plan.place(one.record.label), one.record.row.seed or 0))
    return RunFolder(run, plan, shared, chosen, others, digest_of(run))


def refuse_links(run: Path) -> None:
    """Raise ValueError where a part of a results folder is a link: what it points to lies elsewhere."""
    for kind in PARTS:
        require_inside(run, kind, f"{run}: the folder of its parts")
        for path in (run / kind).glob("*"):
            require_inside(path.parent, path.name, f"{path.parent}: a part")
            for name in (RECORD, SHARED):
                require_inside(path, name, f"{path}: what is read of it")


def every_attempt(run: Path, name: str) -> list[Attempt]:
    """The attempts at a run, oldest first."""
    found: list[Attempt] = []
    for path in attempts(run / "cells", name):
        record = read_record(path)
        if record is not None:
            require_inside(run / "shared", record.shared, f"{path / RECORD}: shared")
            found.append(Attempt(path.name, record))
    return found


def counted(name: str, tries: list[Attempt], plan: RunPlan) -> tuple[list[Attempt], list[Attempt]]:
    """The attempt at a run that stands in the tables, if any, and the others with why they do not.

    The newest that completed counts, among those of the planned identity (configuration, code, data, weights,
    protocol); where none did, the newest. A run that is not planned counts if it completed under a setting that the
    plan compares.
    """
    planned = plan.cells.get(name)
    fitting = [
        one for one in tries
        if (one.record.identity == planned.identity if planned
            else one.record.status == "ok" and one.record.comparison in plan.comparisons)
    ]  # fmt: skip
    good = [one for one in fitting if one.record.status == "ok"]
    candidates = good or fitting
    chosen = candidates[-1] if candidates else None
    others = [
        Attempt(one.name, one.record, why_not(one, chosen, fitting)) for one in tries if one is not chosen
    ]  # fmt: skip
    return ([chosen] if chosen else []), others


def why_not(one: Attempt, chosen: Attempt | None, fitting: list[Attempt]) -> str:
    """Why an attempt does not stand in the tables."""
    if not any(one is fit for fit in fitting):
        return "made under another setting"
    if one.record.status != "ok":
        return f"{one.record.status}{': ' if one.record.reason else ''}{one.record.reason}"
    return f"superseded by {chosen.name}" if chosen else "not planned"
