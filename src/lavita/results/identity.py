"""What a number depends on, as hashes: the configuration that decides it and the source code that makes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from lavita.config.compose import Experiment, load_method
from lavita.config.plan import experiment_from_dict
from lavita.config.registry import (
    BASELINES,
    BUILT_IN,
    METHOD_FILE,
    PACKAGE,
    config_path,
    implementation_folder,
    implementation_package,
)
from lavita.config.schema import ConfigError

# Keys of data that no number depends on, beyond what the fingerprint says.
DATA_ELSEWHERE = ("root", "num_workers", "cache_bytes", "max_unreadable")


def deciding(experiment: Experiment) -> dict[str, Any]:
    """The configuration without what no number depends on, and without paths: hashes stand for files."""
    values = asdict(experiment)
    values.pop("weights")
    values.pop("checkpoint")
    for key in DATA_ELSEWHERE:
        values["data"].pop(key)
    values["codec"].pop("path")
    values["pretraining"]["checkpoint"] = bool(experiment.pretraining.checkpoint)
    values["pretraining"].pop("origin")
    values["model"] |= {key: bool(experiment.model[key]) or None for key in values.pop("weight_files")}
    return values


def canonical(experiment: Experiment) -> str:
    """The same as canonical JSON."""
    return json.dumps(deciding(experiment), sort_keys=True)


def changed_keys(experiment: Experiment, before: Mapping[str, Any]) -> list[str]:
    """What of a configuration is another than in a record's, as "train.learning_rate: 0.001 -> 0.002"."""
    try:
        old = deciding(experiment_from_dict(dict(before)))
    except (ConfigError, KeyError, TypeError):
        return []
    found = []
    for section, values in deciding(experiment).items():
        if not isinstance(values, dict):
            values, old[section] = {"": values}, {"": old[section]}
        for key, value in values.items():
            if old[section].get(key) != value:
                found.append(f"{section}{'.' if key else ''}{key}: {old[section].get(key)} -> {value}")
    return found


def config_hash(experiment: Experiment) -> str:
    return hashlib.sha256(canonical(experiment).encode()).hexdigest()[:16]


# The packages that decide numbers. The launcher, executors, records, tables, page and audit are not among them.
DECIDING = (
    "codecs", "config", "data", "diffusion", "experiment", "methods", "metrics", "nn", "sampling", "training",
)  # fmt: skip
FILES = ("files.py", "shapes.py")
NO_SOURCE = {".pyc", ".md"}


def code_hash(experiment: Experiment) -> str:
    """sha256 over every source file that can change a run's numbers, wherever a plugin's folder lies."""
    return hash_of_sources(source_files(experiment))


def shared_code_hash() -> str:
    """The same over what can change the parts that all methods share, and the scores of external samples."""
    return hash_of_sources(source_files())


def source_files(experiment: Experiment | None = None) -> dict[str, Path]:
    """The files that can change the numbers of a run, or (None) of what all runs share, by names that say no place.

    These are the packages of DECIDING, without the methods' own folders, and of a run the folders of its methods. A
    method from elsewhere may import any of ours: all of these count for it.
    """
    found = package_files(*DECIDING) | {f"lavita/{name}": PACKAGE / name for name in FILES}
    found = {name: path for name, path in found.items() if not name.startswith(f"lavita/methods/{BUILT_IN}/")}
    for method in [] if experiment is None else methods_of(experiment):
        package = implementation_package(method)
        found |= files_of(implementation_folder(method), package.replace(".", "/"))
        if not package.startswith("lavita."):
            found |= files_of(BASELINES, "lavita/baselines") | files_of(PACKAGE / "methods", "lavita/methods")
    if experiment is not None and experiment.pretraining.method:
        found["pretraining.yaml"] = config_path("methods", experiment.pretraining.method)  # read in the run's process
    return found


def package_files(*packages: str) -> dict[str, Path]:
    """The files of some of our packages, by name. Raises ValueError for one that there is not."""
    found: dict[str, Path] = {}
    for package in packages:
        files = files_of(PACKAGE / package, f"lavita/{package}")
        if not files:
            raise ValueError(f"package lavita.{package}: no such folder")
        found |= files
    return found


def files_of(folder: Path, name: str) -> dict[str, Path]:
    """The source and data files below a folder by name; the methods' YAML is not among them: it is configuration."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for path in visible(folder)
        if path.suffix not in NO_SOURCE and path.name != METHOD_FILE
    }


def visible(folder: Path) -> Iterator[Path]:
    """The files below a folder, but hidden ones and those of Python's cache."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield path


def methods_of(experiment: Experiment) -> list[str]:
    """The implementations that a run's process loads: its own and that of the method it is pretrained by."""
    other = experiment.pretraining.method
    return [experiment.implementation, *([load_method(other).implementation] if other else [])]


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
