"""A checkpoint to clips, without the run that made it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lavita.bench.plan import cell_from_dict
from lavita.bench.suite import CellConfig
from lavita.checkpoints import load
from lavita.config import ConfigError, SamplingConfig, nearest, read
from lavita.runner.build import build_method, empty_codec, load_suite_codec
from lavita.runner.generate import generate, save_samples
from lavita.train.module import VideoMethod


def load_method(file: Path) -> tuple[VideoMethod, CellConfig, dict[str, Any]]:
    """The method of a checkpoint in evaluation mode, its cell's configuration, and what else the file says of itself.

    Raises ValueError for a file that is no checkpoint of ours, or whose weights do not fit its configuration.
    """
    state, config = load(file)
    missing = {"cell", "num_classes", "class_names", "classes"} - set(config)
    if missing:
        raise ValueError(f"{file}: its configuration lacks {', '.join(sorted(missing))}: not a checkpoint of a cell")
    cell = cell_from_dict(config["cell"])
    external = cell.codec.kind == "kl"
    codec = load_suite_codec(cell.codec, None) if external else empty_codec(cell.codec)
    method = build_method(cell, config["num_classes"], codec)
    if external:
        state |= {key: value for key, value in method.state_dict().items() if key.startswith("codec.")}
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{file}: weights do not fit their configuration: {str(error).splitlines()[-1].strip()}"
        ) from None
    return method.eval(), cell, config


def changed(sampling: SamplingConfig, changes: dict[str, Any]) -> SamplingConfig:
    """The sampling settings with those that were given. Raises ConfigError for a value not allowed."""
    given = {key: value for key, value in changes.items() if value is not None}
    if "steps" in given and not given["steps"].removeprefix("ddim").replace(",", "").isdigit():
        raise ConfigError(f"--steps: got {given['steps']!r}, wanted a number, ddimN, or numbers separated by commas")
    return read(SamplingConfig, asdict(sampling) | given, "sampling")


def chosen_classes(text: str | None, config: dict[str, Any], cell: CellConfig) -> list[int]:
    """Class indices from names or numbers. Raises ConfigError naming the nearest class."""
    if text is None:
        return config["classes"] or [0]
    if cell.conditioning != "class":
        raise ConfigError(f"--classes: {cell.method} was trained without classes (suite {cell.suite}); leave it out")
    names, found = config["class_names"], []
    for part in text.split(","):
        if part in names:
            found.append(names.index(part))
        elif part.isdigit() and int(part) < len(names):
            found.append(int(part))
        else:
            raise ConfigError(f"--classes: unknown class {part!r}: {nearest(part, [name for name in names if name])}")
    return found


def sample_checkpoint(
    file: Path,
    out: Path,
    num_clips: int,
    seed_start: int,
    changes: dict[str, Any],
    classes: str | None,
    condition: Path | None,
) -> None:
    """Write clips of seeds seed_start .. seed_start + num_clips - 1 to out, and a grid beside it. Raises ValueError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: {out} is there and not an empty folder; give another one")
    method, cell, config = load_method(file)
    if condition is not None:
        raise ValueError(f"--condition: {cell.method} generates from noise alone and takes no video; leave it out")
    sampling = changed(cell.sampling, changes)
    indices = chosen_classes(classes, config, cell)
    method.to("cuda" if torch.cuda.is_available() else "cpu")
    report = Counter()
    clips, labels, seeds = generate(method, sampling, num_clips, seed_start, indices, report)
    save_samples(out, clips, seeds, labels, replace(cell, sampling=sampling), keep_clips=True)


class Counter:
    """Prints how many clips are done, a line a batch."""

    def __call__(self, done: int, total: int) -> None:
        print(f"sampled {done}/{total}", flush=True)
