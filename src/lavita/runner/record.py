"""The record of a cell before it runs: all that is known by then."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lavita.bench.card import card_of
from lavita.bench.ledger import COLUMNS
from lavita.bench.plan import code_hash, config_hash, deviations
from lavita.bench.suite import CellConfig
from lavita.registry import names_in
from lavita.runner.groups import Group
from lavita.runner.parts import Shared
from lavita.runner.provenance import commit, hardware, versions


def first_record(cell: CellConfig, shared: Shared, mark: str) -> dict[str, Any]:
    """The record of a cell that is about to run."""
    values = shared.values
    return {
        "cell": cell.cell,
        "label": cell.label,
        "status": "running",
        "reason": "",
        "identity": mark,
        "code_hash": code_hash(cell),
        "comparison": values["comparison"],
        "shared": shared.folder.name,
        "config": asdict(cell),
        "outside": outside_names(cell, values),
        "deviations": deviations(cell) if cell.method in names_in("methods") else [],
        "card": card_of(cell) if cell.method in names_in("methods") else {},
        "row": first_row(cell, shared.group, values),
        "scores": [],
    }


def outside_names(cell: CellConfig, shared: dict[str, Any]) -> dict[str, str]:
    """Weights from outside by their key: name, sha256 and origin, never where they lie on a machine."""
    origins = cell.origins
    names = {
        key: f"{Path(path).name} (sha256 {shared['outside'][path][:16]}; {origins[key]})"
        for key, path in cell.outside.items()
    }
    if cell.codec.kind == "kl":
        mark = shared["codec_hash"][:16]
        names["codec.path"] = f"{Path(cell.codec.path).name} (sha256 {mark}; {origin_of_codec(cell)})"
    return names


def origin_of_codec(cell: CellConfig) -> str:
    """The name under which an AutoencoderKL was published: its path, or what its own folder says."""
    config = Path(cell.codec.path).expanduser() / "config.json"
    if not config.is_file():
        return cell.codec.path
    return str(json.loads(config.read_text()).get("_name_or_path") or "its folder does not say where it comes from")


# What is not known of clips that were made elsewhere.
UNKNOWN_OF_SAMPLES = ("sampler", "nfe", "config_hash", "commit", "dirty")


def first_record_of_samples(cell: CellConfig, shared: Shared) -> dict[str, Any]:
    """The record of a folder of clips made elsewhere: an open row, of which only the scores are known."""
    record = first_record(cell, shared, mark="") | {"deviations": ["made elsewhere, not audited"]}
    record["row"] |= {name: "" for name in UNKNOWN_OF_SAMPLES} | {"division": "open", "guidance": "unknown"}
    return record


def first_row(cell: CellConfig, group: Group, shared: dict[str, Any]) -> dict[str, Any]:
    """The ledger's columns that are the same for every score of the cell."""
    head, dirty = commit()
    row = {
        "suite": cell.suite,
        "tier": cell.tier,
        "cell": cell.cell,
        "method": cell.method,
        "dataset": group.source.label,
        "data_fingerprint": group.source.catalogue.fingerprint,
        "division": cell.division,
        "conditioning": cell.given,
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
    return {key: value for key, value in row.items() if key in COLUMNS}
