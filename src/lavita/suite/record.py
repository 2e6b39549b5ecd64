"""The record of a cell before it runs: all that is known by then."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lavita.config.compose import (
    TIER_SECTIONS,
    Experiment,
    MethodSpec,
    load_method,
    load_suite,
    load_yaml,
    rows_of_suite,
)
from lavita.config.plan import deviations
from lavita.config.registry import implementation_folder, names_in
from lavita.results.identity import code_hash, config_hash
from lavita.results.provenance import commit, hardware, versions
from lavita.results.records import MethodCard, Record
from lavita.results.rows import Row
from lavita.suite.artifacts import GroupArtifacts

SECTIONS = (
    "Paper",
    "Source, commit, licence",
    "What was released and what was missing",
    "What differs here and why",
    "Author settings",
)
COMMAND_LINE = "the command line"


def card_of(cell: Experiment) -> MethodCard:
    """What a reader must know of a cell's method; about: the README's sections that stand in SECTIONS, {} where the
    folder has none.
    """
    method = load_method(cell.method)
    of_dataset = method.datasets.get(cell.data.dataset) or {}
    authors = {
        f"{section}.{key}": value
        for section in (*TIER_SECTIONS, "model")
        for key, value in (getattr(method, section) | (of_dataset.get(section) or {})).items()
        if key not in cell.weight_files
    }
    changed = [line.partition(": ")[0] for line in deviations(cell)]
    return MethodCard(
        title=method.title,
        provenance=method.provenance,
        about=sections_of(readme(method.implementation)),
        authors=authors,
        why=origins(cell, method, changed),
    )


def readme(implementation: str) -> Path:
    """The file that says in prose what was released, what was not, and what differs."""
    return implementation_folder(implementation) / "README.md"


def sections_of(path: Path) -> dict[str, str]:
    """The sections of a README by heading, those of SECTIONS that it has."""
    if not path.is_file():
        return {}
    found = dict(
        (part.partition("\n")[0].strip(), part.partition("\n")[2].strip())
        for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    )
    return {heading: found[heading] for heading in SECTIONS if heading in found}


def origins(cell: Experiment, method: MethodSpec, names: Sequence[str]) -> dict[str, str]:
    """Where values that are not the authors' come from: the last of the layers that set each, as they are composed."""
    suite = load_suite(cell.suite)
    row = next((row for row in rows_of_suite(suite, cell.tier) if row.label == cell.label), None)
    layers = [
        (row.changes if row else {}, f"the row {cell.label} of suite {cell.suite}"),
        (suite.tiers.get(cell.tier) or {}, f"suite {cell.suite} at tier {cell.tier}, the same for every row"),
        ({"sampling": {"guidance": suite.guidance}}, f"suite {cell.suite}, the same for every row"),
        (load_yaml("tiers", cell.tier), f"tier {cell.tier}, one rule for every method"),
        (method.tiers.get(cell.tier) or {}, f"the method's size at tier {cell.tier}"),
    ]
    return {name: next((said for values, said in layers if sets(values, cell, name)), COMMAND_LINE) for name in names}


def sets(values: Mapping[str, Any], cell: Experiment, name: str) -> bool:
    """Whether a layer sets "section.key" (or a whole section) to the value that the cell has."""
    section, _, key = name.partition(".")
    given, here = values.get(section), getattr(cell, section, None)
    if not isinstance(given, Mapping):
        return False
    value = here.get(key) if isinstance(here, Mapping) else getattr(here, key, None)
    return not key or (key in given and str(given[key]) == str(value))


def first_record(cell: Experiment, shared: GroupArtifacts, mark: str) -> Record:
    """The record of a cell that is about to run; mark: its identity."""
    known = cell.method in names_in("methods")
    return Record(
        cell=cell.cell,
        label=cell.label,
        status="running",
        identity=mark,
        code_hash=code_hash(cell),
        comparison=shared.values.comparison,
        shared=shared.folder.name,
        config=asdict(cell),
        external_weights=external_names(cell, shared),
        deviations=tuple(deviations(cell)) if known else (),
        card=card_of(cell) if known else None,
        row=first_row(cell, shared),
    )


def external_names(cell: Experiment, shared: GroupArtifacts) -> dict[str, str]:
    """External weights by their key: name, sha256 and origin, never where they lie on a machine."""
    origins = cell.origins
    names = {
        key: f"{Path(path).name} (sha256 {shared.external[path][:16]}; {origins[key]})"
        for key, path in cell.outside.items()
    }
    if cell.codec.kind == "kl":
        mark = shared.values.codec_hash[:16]
        names["codec.path"] = f"{Path(cell.codec.path).name} (sha256 {mark}; {origin_of_codec(cell)})"
    return names


def origin_of_codec(cell: Experiment) -> str:
    """The name under which an AutoencoderKL was published: its path, or what its own folder says."""
    config = Path(cell.codec.path).expanduser() / "config.json"
    if not config.is_file():
        return cell.codec.path
    return str(json.loads(config.read_text()).get("_name_or_path") or "its folder does not say where it comes from")


# What is not known of external samples.
UNKNOWN_OF_SAMPLES = {"sampler": "", "nfe": None, "config_hash": "", "commit": "", "dirty": ""}


def first_record_of_samples(cell: Experiment, shared: GroupArtifacts) -> Record:
    """The record of a folder of external samples: an open row, of which only the scores are known."""
    record = first_record(cell, shared, mark="")
    row = replace(record.row, **UNKNOWN_OF_SAMPLES, division="open", guidance="unknown")
    return replace(record, deviations=("external samples, not audited",), row=row)


def first_row(cell: Experiment, shared: GroupArtifacts) -> Row:
    """The columns of rows.csv that are the same for every score of the cell, as far as known before it runs."""
    head, dirty = commit()
    source, values = shared.group.source, shared.values
    return Row(
        suite=cell.suite,
        tier=cell.tier,
        cell=cell.cell,
        method=cell.method,
        dataset=source.label,
        data_fingerprint=source.catalogue.fingerprint,
        division=cell.division,
        conditioning=cell.given,
        guidance=cell.sampling.guidance,
        seed=cell.seed,
        protocol=values.protocol_name,
        protocol_hash=values.protocol_hash,
        extractor=values.extractor_name,
        extractor_hash=values.extractor_hash,
        n_real=cell.protocol.n_real,
        n_generated=cell.protocol.n_generated,
        sampler=cell.sampling.sampler,
        nfe=cell.sampling.num_steps,
        config_hash=config_hash(cell),
        commit=head,
        dirty=dirty,
        hardware=hardware(),
        versions=versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
