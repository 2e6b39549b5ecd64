"""The record of a cell before it runs: all that is known by then."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from lavita.results.records import COLUMNS
from lavita.suite.artifacts import SharedArtifacts
from lavita.suite.groups import Group

SECTIONS = (
    "Paper",
    "Source, commit, licence",
    "What was released and what was missing",
    "What differs here and why",
    "Author settings",
)
COMMAND_LINE = "the command line"


def card_of(experiment: Experiment) -> dict[str, Any]:
    """What a reader must know of a cell's method, as plain values.

    title, provenance: of configs/methods. about: the README's sections by heading (SECTIONS), as Markdown; {} where the
    folder has none. authors: the published value of every setting, by "section.key". why: for each that differs, by the
    same name, where its value here comes from.
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
    return {
        "title": method.title,
        "provenance": method.provenance,
        "about": sections_of(readme(method.implementation)),
        "authors": authors,
        "why": origins(experiment, method, changed),
    }


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
    layers = [
        (row.changes if row else {}, f"the row {experiment.label} of suite {experiment.suite}"),
        (
            suite.tiers.get(experiment.tier) or {},
            f"suite {experiment.suite} at tier {experiment.tier}, the same for every row",
        ),
        ({"sampling": {"guidance": suite.guidance}}, f"suite {experiment.suite}, the same for every row"),
        (load_yaml("tiers", experiment.tier), f"tier {experiment.tier}, one rule for every method"),
        (method.tiers.get(experiment.tier) or {}, f"the method's size at tier {experiment.tier}"),
    ]
    return {
        name: next((said for values, said in layers if sets(values, experiment, name)), COMMAND_LINE) for name in names
    }


def sets(values: Mapping[str, Any], experiment: Experiment, name: str) -> bool:
    """Whether a layer sets "section.key" (or a whole section) to the value that the cell has."""
    section, _, key = name.partition(".")
    given, here = values.get(section), getattr(experiment, section, None)
    if not isinstance(given, Mapping):
        return False
    value = here.get(key) if isinstance(here, Mapping) else getattr(here, key, None)
    return not key or (key in given and str(given[key]) == str(value))


def first_record(experiment: Experiment, shared: SharedArtifacts, mark: str) -> dict[str, Any]:
    """The record of a cell that is about to run."""
    values = shared.values
    return {
        "cell": experiment.cell,
        "label": experiment.label,
        "status": "running",
        "reason": "",
        "identity": mark,
        "code_hash": code_hash(experiment),
        "comparison": values["comparison"],
        "shared": shared.folder.name,
        "config": asdict(experiment),
        "outside": outside_names(experiment, values),
        "deviations": deviations(experiment) if experiment.method in names_in("methods") else [],
        "card": card_of(experiment) if experiment.method in names_in("methods") else {},
        "row": first_row(experiment, shared.group, values),
        "scores": [],
    }


def outside_names(experiment: Experiment, shared: dict[str, Any]) -> dict[str, str]:
    """Weights from outside by their key: name, sha256 and origin, never where they lie on a machine."""
    origins = experiment.origins
    names = {
        key: f"{Path(path).name} (sha256 {shared['outside'][path][:16]}; {origins[key]})"
        for key, path in experiment.outside.items()
    }
    if experiment.codec.kind == "kl":
        mark = shared["codec_hash"][:16]
        names["codec.path"] = f"{Path(experiment.codec.path).name} (sha256 {mark}; {origin_of_codec(experiment)})"
    return names


def origin_of_codec(experiment: Experiment) -> str:
    """The name under which an AutoencoderKL was published: its path, or what its own folder says."""
    config = Path(experiment.codec.path).expanduser() / "config.json"
    if not config.is_file():
        return experiment.codec.path
    return str(json.loads(config.read_text()).get("_name_or_path") or "its folder does not say where it comes from")


# What is not known of clips that were made elsewhere.
UNKNOWN_OF_SAMPLES = ("sampler", "nfe", "config_hash", "commit", "dirty")


def first_record_of_samples(experiment: Experiment, shared: SharedArtifacts) -> dict[str, Any]:
    """The record of a folder of clips made elsewhere: an open row, of which only the scores are known."""
    record = first_record(experiment, shared, mark="") | {"deviations": ["made elsewhere, not audited"]}
    record["row"] |= {name: "" for name in UNKNOWN_OF_SAMPLES} | {"division": "open", "guidance": "unknown"}
    return record


def first_row(experiment: Experiment, group: Group, shared: dict[str, Any]) -> dict[str, Any]:
    """The ledger's columns that are the same for every score of the cell."""
    head, dirty = commit()
    row = {
        "suite": experiment.suite,
        "tier": experiment.tier,
        "cell": experiment.cell,
        "method": experiment.method,
        "dataset": group.source.label,
        "data_fingerprint": group.source.catalogue.fingerprint,
        "division": experiment.division,
        "conditioning": experiment.given,
        "guidance": experiment.sampling.guidance,
        "seed": experiment.seed,
        "protocol": shared["protocol_name"],
        "protocol_hash": shared["protocol_hash"],
        "extractor": shared["extractor_name"],
        "extractor_hash": shared["extractor_hash"],
        "n_real": experiment.protocol.n_real,
        "n_generated": experiment.protocol.n_generated,
        "sampler": experiment.sampling.sampler,
        "nfe": experiment.sampling.num_steps,
        "config_hash": config_hash(experiment),
        "commit": head,
        "dirty": dirty,
        "hardware": hardware(),
        "versions": versions(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {key: value for key, value in row.items() if key in COLUMNS}
