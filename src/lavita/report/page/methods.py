"""A card per method: the authors' settings and what differs, samplers, stages, cost, what was not released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavita.report.charts import SPEED_COLUMNS, speed_texts
from lavita.report.page.text import Block, Cell, Table, prose, slug, table
from lavita.results.records import MethodCard, Record
from lavita.results.rows import shown
from lavita.results.run_folder import RunFolder

EXTERNAL = "External samples: how the method was trained and sampled is not audited."
SHARED = ("train", "sampling")  # sections that every method has
SETTINGS = (*SHARED, "model")
OPEN = ("Paper", "Source, commit, licence", "What was released and what was missing")  # of a README: what is shown
FOLDED = ("What differs here and why", "Author settings")  # and what is folded


@dataclass(frozen=True)
class Texts:
    """What the README of a method says, by heading. same_as: the card that holds the same, "" where this one does."""

    open: tuple[tuple[str, list[Block]], ...] = ()
    folded: tuple[tuple[str, list[Block]], ...] = ()
    same_as: str = ""
    same_as_name: str = ""


@dataclass(frozen=True)
class Settings:
    """differing: those that are not the authors' own, None where all are; same: the others, in words."""

    differing: Table | None
    same: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """name: what links to it; missing: why there are no settings and texts; stages: None where none are recorded."""

    name: str
    title: str
    missing: str
    facts: tuple[tuple[str, str], ...]
    stages: Table | None
    settings: Settings | None
    texts: Texts | None


def cards_of(run: RunFolder) -> list[Card]:
    """A card for each method of the tables, over its seeds."""
    printed: dict[str, str] = {}
    return [card(label, records, printed) for label, records in by_label(run).items()]


def by_label(run: RunFolder) -> dict[str, list[Record]]:
    """The records of each method."""
    found: dict[str, list[Record]] = {}
    for record in run.records:
        found.setdefault(record.label, []).append(record)
    return found


def settings_matrix(run: RunFolder) -> Table | None:
    """Every training and sampling setting of all rows beside each other, as published and as here."""
    known = {label: records[0] for label, records in by_label(run).items() if records[0].card}
    if not known:
        return None
    names = list(
        dict.fromkeys(f"{part}.{key}" for one in known.values() for part in SHARED for key in one.config[part])
    )
    lines = [(Cell(name, "name"), *[side_by_side(record, name) for record in known.values()]) for name in names]
    caption = (
        "Training and sampling settings of every row. An arrow leads from the authors’ value to the one used here; one "
        "value alone is both."
    )
    return table(caption, ("setting", *known), lines, "Settings of all rows", "settings")


def side_by_side(record: Record, name: str) -> Cell:
    """A setting's value here and, where it differs, the published one before it."""
    part, _, key = name.partition(".")
    here = plain(record.config[part].get(key, "not a setting of it"))
    return Cell(here, before=plain(record.card.authors.get(name)) if name in changes(record) else None)


def changes(record: Record) -> dict[str, str]:
    """By setting, "published -> here" of those that are not the authors' own."""
    return dict(line.partition(": ")[::2] for line in record.deviations)


def plain(value: Any) -> str:
    """A value of a setting, as people write it."""
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def card(label: str, records: Sequence[Record], printed: dict[str, str]) -> Card:
    """One method; printed: the texts that an earlier card holds, with its label, so that none is printed twice."""
    record, known = records[0], records[0].card
    return Card(
        name=f"card-{slug(label)}",
        title=f"{label}: {known.title}" if known else label,
        missing="" if known else EXTERNAL,
        facts=tuple(facts(records)),
        stages=stages_table(label, records),
        settings=settings(label, record, known) if known else None,
        texts=texts(label, known.about, printed) if known else None,
    )


def facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The lines of a card that are one value."""
    record = records[0]
    known, sampling, row = record.card, record.config["sampling"], record.row
    failed = [f"{one.cell}: {one.status}, {one.reason or 'no reason'}" for one in records if one.status != "ok"]
    found = [("Status", "; ".join(failed) or "ok")]
    if known:
        found.append(("Provenance", known.provenance))
        sampler = (
            f"{sampling['sampler']}, {sampling['steps']} steps, eta {sampling['eta']:g}, guidance "
            f"{sampling['guidance']:g}, task {sampling['task']}; weights: the last of training, averaged (EMA) where "
            "the method averages"
        )
        found.append(("Sampler", sampler))
    found.append(("Training seeds", ", ".join(str(one.row.seed) for one in records)))
    if row.params_trained:
        trained, total = row.params_trained / 1e6, (row.params_total or 0) / 1e6
        found.append(("Parameters", f"{trained:.2f} M trained, {total:.2f} M in all"))
    if known:
        external = [f"{key}: {name}" for key, name in record.external_weights.items()]
        if row.external_bytes:
            external.append(f"{row.external_bytes / 2**20:.1f} MiB in all")
        found.append(("External weights", "; ".join(external) or "none"))
    declared = [f"{key}: {said}" for key, said in record.declared.items()]
    if declared:
        found.append(("Declared by the method", "; ".join(declared)))
    start = record.starting_weights
    if start:
        found.append(("Initialised from", f"{len(start.taken)} tensors of {start.source}"))
    return found


def stages_table(label: str, records: Sequence[Record]) -> Table | None:
    """What each stage spent of the budget."""
    lines = []
    for record in records:
        budget = sum(stage.clips for stage in record.stages)
        for stage in record.stages:
            trainer = "the suite, charged in full" if stage.charged else "the method"
            share = f"{100 * stage.clips / budget:.1f} %"
            lines.append((stage.name, str(record.row.seed), f"{stage.clips:,}", share, shown(stage.seconds),
                          *speed_texts(stage), shown(stage.flops * 1e-12), trainer))  # fmt: skip
    columns = ("stage", "seed", "clips", "share of the clips", "seconds", *SPEED_COLUMNS, "TFLOPs", "trained by")
    return table("Stages, in the order of training.", columns, lines, f"Stages of {label}", "stages") if lines else None


def settings(label: str, record: Record, known: MethodCard) -> Settings:
    """Every setting of a method: those that differ from the authors', and the others."""
    authors, why, config = known.authors, known.why, record.config
    here = {f"{section}.{key}": value for section in SETTINGS for key, value in config[section].items()}
    said, lines = changes(record), []
    for name, change in said.items():
        before, _, after = change.partition(" -> ")
        lines.append((Cell(name, "name"), plain(before), plain(after), why.get(name, "")))
    same = tuple(f"{name} {plain(value)}" for name, value in here.items() if name not in said and name in authors)
    columns, title = ("setting", "authors", "here", "source"), f"Settings of {label} that differ"
    return Settings(table("Settings that differ.", columns, lines, title, "settings") if lines else None, same)


def texts(label: str, about: Mapping[str, str], printed: dict[str, str]) -> Texts:
    """What the method's README says; a text that stands in an earlier card is named, not repeated."""
    if not about:
        return Texts()
    key = "\n".join(f"{heading}\n{about[heading]}" for heading in sorted(about))
    if key in printed:
        return Texts(same_as=printed[key], same_as_name=f"card-{slug(printed[key])}")
    printed[key] = label
    return Texts(
        open=tuple((heading, prose(about[heading], heading)) for heading in OPEN if heading in about),
        folded=tuple(
            (heading, prose(about[heading], f"{heading} of {label}")) for heading in FOLDED if heading in about
        ),
    )
