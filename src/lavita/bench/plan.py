"""The plan of a run: which cells, with which configuration, and what deviates from the authors' settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lavita.bench.reach import Unresolved, everything, modules, reach
from lavita.bench.suite import (
    PURSE,
    SECTIONS,
    TIERS,
    CellConfig,
    apply_changes,
    apply_overrides,
    compose,
    flat_keys,
    load_method,
    load_suite,
    read_cell,
    rows_of_suite,
    seeds_of_suite,
)
from lavita.config import ConfigError, nearest, one_of, read
from lavita.plain_yaml import read_yaml
from lavita.registry import (
    BASELINES,
    BUILT_IN,
    METHOD_FILE,
    ROOT,
    config_path,
    implementation_folder,
    plugins,
)


def make_plan(
    suite_name: str, tier: str, methods: Sequence[str] | None, seeds: Sequence[int] | None, overrides: Sequence[str]
) -> list[CellConfig]:
    """One CellConfig a row and seed, in the order of the table; seeds None means the suite's. Raises ConfigError.

    methods picks rows by name (<method>[-<choice>]), or all rows of a method that is no row's name.
    """
    suite = load_suite(suite_name)
    one_of("--tier", tier, TIERS)
    rows = rows_of_suite(suite, tier)
    known = list(dict.fromkeys([row.label for row in rows] + [row.method for row in rows]))
    for name in methods or ():
        if name not in known:
            raise ConfigError(
                f"unknown method {name!r} in suite {suite_name}: {nearest(name, known)} (known: {', '.join(known)})"
            )
    labels = {row.label for row in rows}
    chosen = [r for r in rows if not methods or r.label in methods or r.method in set(methods) - labels]
    specs = {row.method: load_method(row.method) for row in chosen}
    configs = {name: compose(suite, tier, spec) for name, spec in specs.items()}
    every_key = {key for config in configs.values() for key in flat_keys(config)}
    cells = []
    for row in chosen:
        own = set(flat_keys(configs[row.method]))
        config = apply_overrides(configs[row.method], overrides, elsewhere=every_key - own)
        config = apply_changes(config, row, f"suites/{suite_name}")
        for seed in seeds if seeds is not None else seeds_of_suite(suite, tier):
            cells.append(read_cell(suite, tier, specs[row.method], row.choice, seed, config))
    if any(cell.fairness.batch == "equal" for cell in cells):
        cells = with_equal_batch(cells, every_first(suite_name, tier, overrides))
    check_identical(cells, {row.label: set(row.changes) for row in chosen})
    return cells


def every_first(suite_name: str, tier: str, overrides: Sequence[str]) -> int:
    """The batch of the suite's first row, in clips, whichever rows a run picks."""
    suite = load_suite(suite_name)
    row = rows_of_suite(suite, tier)[0]
    config, changed = compose(suite, tier, load_method(row.method)), {item.partition("=")[0] for item in overrides}
    own = set(flat_keys(config))
    config = apply_overrides(config, [item for item in overrides if item.partition("=")[0] in own], changed - own)
    return int(apply_changes(config, row, f"suites/{suite_name}").train.batch_clips)


def with_equal_batch(cells: Sequence[CellConfig], batch_clips: int) -> list[CellConfig]:
    """The cells with one batch in their last stage; that of a first stage of a method's own stays its own."""
    return [replace(cell, train=replace(cell.train, batch_clips=batch_clips)) for cell in cells]


def check_identical(cells: Sequence[CellConfig], varied: Mapping[str, set[str]]) -> None:
    """What fairness.md wants identical must be, except in sections that a row of the suite varies by name."""
    for cell in cells[1:]:
        allowed = varied[cell.label] | varied[cells[0].label]
        for section in {"data", "budget", "fairness", "codec", "compute", "extractor", "protocol"} - allowed:
            if getattr(cell, section) != getattr(cells[0], section):
                raise ConfigError(f"{section} of {cell.label} differs from that of {cells[0].label}")


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
    p = cell.pretraining
    if p.method:
        found.append(f"pretraining: none -> {p.method} on {p.share:g} of the purse")
    found += [f"{key}: none -> an outside file" for key in cell.outside]
    authors = method.model | (of_dataset.get("model") or {})
    for key, value in cell.model.items():
        if key not in cell.weight_files and str(authors.get(key)) != str(value):
            found.append(f"model.{key}: {authors.get(key)} -> {value}")
    return found


def same_number(a: object, b: object) -> bool:
    return isinstance(a, int | float) and isinstance(b, int | float) and float(a) == float(b)


# Keys of data that no number depends on, beyond what the fingerprint says.
DATA_ELSEWHERE = ("root", "num_workers", "cache_bytes", "max_unreadable")


def deciding(cell: CellConfig) -> dict[str, Any]:
    """The configuration without what no number depends on, and without paths: hashes stand for files."""
    values = asdict(cell)
    values.pop("weights")
    values.pop("checkpoint")
    for key in DATA_ELSEWHERE:
        values["data"].pop(key)
    values["codec"].pop("path")
    values["pretraining"]["checkpoint"] = bool(cell.pretraining.checkpoint)
    values["pretraining"].pop("origin")
    values["model"] |= {key: bool(cell.model[key]) or None for key in values.pop("weight_files")}
    return values


def canonical(cell: CellConfig) -> str:
    """The same as canonical JSON."""
    return json.dumps(deciding(cell), sort_keys=True)


def changed_keys(cell: CellConfig, before: Mapping[str, Any]) -> list[str]:
    """What of a configuration is another than in a record's, as "train.learning_rate: 0.001 -> 0.002"."""
    try:
        old = deciding(cell_from_dict(dict(before)))
    except (ConfigError, KeyError, TypeError):
        return []
    found = []
    for section, values in deciding(cell).items():
        if not isinstance(values, dict):
            values, old[section] = {"": values}, {"": old[section]}
        for key, value in values.items():
            if old[section].get(key) != value:
                found.append(f"{section}{'.' if key else ''}{key}: {old[section].get(key)} -> {value}")
    return found


def config_hash(cell: CellConfig) -> str:
    return hashlib.sha256(canonical(cell).encode()).hexdigest()[:16]


def code_hash(cell: CellConfig) -> str:
    """sha256 over every source file that can change a cell's numbers, wherever a plugin's folder lies."""
    return hash_of_sources(source_files(cell))


def shared_code_hash() -> str:
    """The same over what can change the parts that all methods share."""
    return hash_of_sources(source_files())


# The modules that a run starts in a process of its own, for a cell and for what all cells share.
CELL, SHARED, SAMPLES = "lavita.runner.cell", "lavita.runner.shared", "lavita.runner.samples"


def source_files(cell: CellConfig | None = None) -> dict[str, Path]:
    """The files that can change the numbers of a cell, or (None) of the shared parts, by names that say no place.

    A cell's are what its process reaches, the folders of its methods and what they reach, and what the shared parts are
    made by: a cell is scored against their real clips, of which nothing else in its identity says how they were made.
    The shared parts' process builds the methods only to refuse what would not run: no number comes from them.
    Of a method that loads code by a name that its source does not say, every file of ours may be one.
    """
    roots = {"lavita": ROOT / "src" / "lavita"}
    starts, own = [SHARED] if cell is None else [SHARED, CELL], {}
    for method in [] if cell is None else methods_of(cell):
        if method == BUILT_IN:
            starts.append("lavita.module")
        else:
            package = f"{'plugins' if method in plugins() else BASELINES.name}.{method}"
            roots[package] = implementation_folder(method)
            own |= everything({package: roots[package]})
            starts += modules({package: roots[package]})
    try:
        found = reach(starts, roots) | own
    except Unresolved:
        found = everything(roots)
    found = {name: path for name, path in found.items() if path.name != METHOD_FILE}  # that is the configuration
    if cell is not None and cell.pretraining.method:
        found["pretraining.yaml"] = config_path("methods", cell.pretraining.method)  # read in the cell's process
    return found


def samples_files() -> dict[str, Path]:
    """The files that can change the scores of clips made elsewhere, by names that say no place."""
    return reach([SAMPLES, SHARED], {"lavita": ROOT / "src" / "lavita"})


def methods_of(cell: CellConfig) -> list[str]:
    """The implementations that a cell's process loads: its own and that of the method it is pretrained by."""
    other = cell.pretraining.method
    return [cell.implementation, *([load_method(other).implementation] if other else [])]


def hash_of_sources(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0".encode())
        path = files[name]
        facts = path.stat()
        data = path.read_bytes() if path.suffix == ".py" else digest_of_data(path, facts.st_size, facts.st_mtime_ns)
        digest.update(data)
    return digest.hexdigest()[:16]


@cache
def digest_of_data(path: Path, size: int, changed_ns: int) -> bytes:
    """sha256 of a file that may be large; read once in a process as long as size and time stay."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def write_config(cell: CellConfig, path: Path) -> None:
    """The resolved configuration as YAML, complete: `read_config` gives the same CellConfig back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(cell))))


def read_config(path: Path) -> CellConfig:
    """A CellConfig from a file that `write_config` wrote."""
    return cell_from_dict(read_yaml(path))


def cell_from_dict(values: dict) -> CellConfig:
    """A CellConfig from the plain mapping that dataclasses.asdict makes of one. Raises ConfigError."""
    parts = {key: read(SECTIONS[key], value, key) if key in SECTIONS else value for key, value in values.items()}
    try:
        return CellConfig(**parts | {"weight_files": dict(values.get("weight_files", {}))})
    except TypeError as error:
        raise ConfigError(f"configuration of a cell: {str(error).removeprefix('CellConfig.__init__() ')}") from None
