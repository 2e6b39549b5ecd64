"""The record of a run before it starts."""

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
    with_synthetic,
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


def card_of(experiment: Experiment) -> MethodCard:
    """What a reader must know of a run's method; about: the README's sections that stand in SECTIONS, {} where the
    folder has none.
    """
    method = load_method(experiment.method)
    of_dataset = method.datasets.get(experiment.data.dataset) or {}
    authors = {
        f"{section}.{key}": value
        for section in (*TIER_SECTIONS, "model")
        for key, value in (getattr(method, section) | (of_dataset.get(section) or {})).items()
        if key not in experiment.weight_files
    }
    changed = [line.partition(": ")[0] for line in deviations(experiment)]
    return MethodCard(
        title=method.title,
        provenance=method.provenance,
        about=sections_of(readme(method.implementation)),
        authors=authors,
        why=origins(experiment, method, changed),
        reader_note=None if experiment.choice else method.reader_note or None,
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


def origins(experiment: Experiment, method: MethodSpec, names: Sequence[str]) -> dict[str, str]:
    """Where values that are not the authors' come from: the last of the layers that set each, as they are composed."""
    suite = load_suite(experiment.suite)
    row = next((row for row in rows_of_suite(suite, experiment.tier) if row.label == experiment.label), None)
    tier, synthetic = experiment.tier, experiment.data.root is None

    def layered(values: dict[str, Any], said: str) -> list[tuple[dict[str, Any], str]]:
        return [(layer, said) for layer in reversed(with_synthetic(values, synthetic))]

    layers = [
        (row.changes if row else {}, f"the row {experiment.label} of suite {experiment.suite}"),
        *layered(suite.tiers.get(tier) or {}, f"suite {experiment.suite} at tier {tier}, the same for every row"),
        ({"sampling": {"guidance": suite.guidance}}, f"suite {experiment.suite}, the same for every row"),
        *layered(load_yaml("tiers", tier), f"tier {tier}, one rule for every method"),
        *layered(method.tiers.get(tier) or {}, f"the method's size at tier {tier}"),
    ]
    return {
        name: next((said for values, said in layers if sets(values, experiment, name)), COMMAND_LINE) for name in names
    }


def sets(values: Mapping[str, Any], experiment: Experiment, name: str) -> bool:
    """Whether a layer sets "section.key" (or a whole section) to the value that the run has."""
    section, _, key = name.partition(".")
    given, here = values.get(section), getattr(experiment, section, None)
    if not isinstance(given, Mapping):
        return False
    value = here.get(key) if isinstance(here, Mapping) else getattr(here, key, None)
    return not key or (key in given and str(given[key]) == str(value))


def first_record(experiment: Experiment, shared: GroupArtifacts, mark: str) -> Record:
    """The record of a run that is about to start; mark: its identity."""
    known = experiment.method in names_in("methods")
    return Record(
        cell=experiment.cell,
        label=experiment.label,
        status="running",
        identity=mark,
        code_hash=code_hash(experiment),
        comparison=shared.values.comparison,
        shared=shared.folder.name,
        config=asdict(experiment),
        external_weights=external_names(experiment, shared),
        deviations=tuple(deviations(experiment)) if known else (),
        card=card_of(experiment) if known else None,
        row=first_row(experiment, shared),
    )


def external_names(experiment: Experiment, shared: GroupArtifacts) -> dict[str, str]:
    """External weights by their key: name, sha256 and origin, never where they lie on a machine."""
    origins = experiment.origins
    names = {
        key: f"{Path(path).name} (sha256 {shared.external[path][:16]}; {origins[key]})"
        for key, path in experiment.external_weights.items()
    }
    if experiment.codec.kind == "kl":
        mark = shared.values.codec_hash[:16]
        names["codec.path"] = f"{Path(experiment.codec.path).name} (sha256 {mark}; {origin_of_codec(experiment)})"
    return names


def origin_of_codec(experiment: Experiment) -> str:
    """The name under which an AutoencoderKL was published: its path, or what its own folder says."""
    config = Path(experiment.codec.path).expanduser() / "config.json"
    if not config.is_file():
        return experiment.codec.path
    return str(json.loads(config.read_text()).get("_name_or_path") or "its folder does not say where it comes from")


# What is not known of external samples.
UNKNOWN_OF_SAMPLES = {"sampler": "", "nfe": None, "config_hash": "", "commit": "", "dirty": ""}


def first_record_of_samples(experiment: Experiment, shared: GroupArtifacts) -> Record:
    """The record of a folder of external samples: an open row, of which only the scores are known."""
    record = first_record(experiment, shared, mark="")
    row = replace(record.row, **UNKNOWN_OF_SAMPLES, division="open", guidance="unknown")
    return replace(record, deviations=("external samples, not audited",), row=row)


def first_row(experiment: Experiment, shared: GroupArtifacts) -> Row:
    """The columns of rows.csv that are the same for every score of the run, as far as known before it starts."""
    head, dirty = commit()
    source, values = shared.group.source, shared.values
    return Row(
        suite=experiment.suite,
        tier=experiment.tier,
        cell=experiment.cell,
        method=experiment.method,
        dataset=source.label,
        data_fingerprint=source.catalogue.fingerprint,
        division=experiment.division,
        conditioning=experiment.conditions,
        guidance=experiment.sampling.guidance,
        seed=experiment.seed,
        protocol=values.protocol_name,
        protocol_hash=values.protocol_hash,
        extractor=values.extractor_name,
        extractor_hash=values.extractor_hash,
        n_real=experiment.protocol.n_real,
        n_generated=experiment.protocol.n_generated,
        sampler=experiment.sampling.sampler,
        nfe=experiment.sampling.num_steps,
        config_hash=config_hash(experiment),
        commit=head,
        dirty=dirty,
        hardware=hardware(),
        versions=versions(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
