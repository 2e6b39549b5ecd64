"""The plan of a run: which cells, with which configuration, and what deviates from the authors' settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from lavita.bench.suite import (
    PURSE,
    SECTIONS,
    TIERS,
    CellConfig,
    apply_overrides,
    compose,
    flat_keys,
    load_method,
    load_suite,
    methods_of,
    read_cell,
)
from lavita.config import ConfigError, nearest, one_of, read
from lavita.registry import ROOT, implementation_folder


def make_plan(
    suite_name: str, tier: str, methods: Sequence[str] | None, seeds: Sequence[int], overrides: Sequence[str]
) -> list[CellConfig]:
    """One CellConfig a method and seed, in the order of the table. Raises ConfigError."""
    suite = load_suite(suite_name)
    one_of("--tier", tier, TIERS)
    known = methods_of(suite_name)
    for name in methods or ():
        if name not in known:
            raise ConfigError(
                f"unknown method {name!r} in suite {suite_name}: {nearest(name, known)} (known: {', '.join(known)})"
            )
    chosen = [load_method(name) for name in known if not methods or name in methods]
    configs = {spec.name: compose(suite, tier, spec) for spec in chosen}
    every_key = {key for config in configs.values() for key in flat_keys(config)}
    cells = []
    for spec in chosen:
        own = set(flat_keys(configs[spec.name]))
        config = apply_overrides(configs[spec.name], overrides, elsewhere=every_key - own)
        cells += [read_cell(suite, tier, spec, seed, config) for seed in seeds]
    check_identical(cells)
    return cells


def check_identical(cells: Sequence[CellConfig]) -> None:
    """What fairness.md wants identical must be: data, budget, codec, protocol, precision."""
    for cell in cells[1:]:
        for section in ("data", "budget", "codec", "compute", "extractor", "protocol"):
            if getattr(cell, section) != getattr(cells[0], section):
                raise ConfigError(f"{section} of {cell.method} differs from that of {cells[0].method}")


def deviations(cell: CellConfig) -> list[str]:
    """Every training and sampling value that is not the authors' own, as "train.learning_rate: 0.0001 -> 0.001"."""
    method = load_method(cell.method)
    of_dataset = method.datasets.get(cell.data.dataset) or {}
    found = []
    for section in PURSE:
        authors = getattr(method, section) | (of_dataset.get(section) or {})
        for key, value in asdict(getattr(cell, section)).items():
            published = authors.get(key)
            if str(published) != str(value) and not same_number(published, value):
                found.append(f"{section}.{key}: {published} -> {value}")
    for key, value in cell.model.items():
        if method.model.get(key) != value:
            found.append(f"model.{key}: {method.model.get(key)} -> {value}")
    return found


def same_number(a: object, b: object) -> bool:
    return isinstance(a, int | float) and isinstance(b, int | float) and float(a) == float(b)


def canonical(cell: CellConfig) -> str:
    """The configuration as canonical JSON; paths are left out: fingerprint and hashes stand for files."""
    values = asdict(cell)
    values.pop("weights")
    values["data"].pop("root")
    values["data"].pop("num_workers")
    values["data"].pop("cache_bytes")
    return json.dumps(values, sort_keys=True)


def config_hash(cell: CellConfig) -> str:
    return hashlib.sha256(canonical(cell).encode()).hexdigest()[:16]


def code_hash(cell: CellConfig) -> str:
    """sha256 over every source file that can change a cell's numbers."""
    folders = [ROOT / "src" / "lavita", implementation_folder(cell.implementation)]
    files = sorted({path for folder in folders for path in folder.rglob("*.py")})
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_config(cell: CellConfig, path: Path) -> None:
    """The resolved configuration as YAML, complete: `read_config` gives the same CellConfig back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(cell))))


def read_config(path: Path) -> CellConfig:
    """A CellConfig from a file that `write_config` wrote."""
    return cell_from_dict(OmegaConf.to_container(OmegaConf.load(path)))


def cell_from_dict(values: dict) -> CellConfig:
    """A CellConfig from the plain mapping that dataclasses.asdict makes of one."""
    parts = {key: read(SECTIONS[key], value, key) if key in SECTIONS else value for key, value in values.items()}
    return CellConfig(**parts)
