"""An official checkpoint as a method that samples: the file has the weights, the suite's setting says the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lavita.bench.plan import make_plan
from lavita.bench.suite import load_yaml
from lavita.checkpoints import load_official
from lavita.config import ConfigError
from lavita.registry import load_implementation
from lavita.runner.build import build_method, load_suite_codec
from lavita.runner.resample import Loaded


def is_official(paths: Sequence[Path]) -> bool:
    """Whether these files are weights alone, not a cell's folder or a checkpoint of ours with its configuration."""
    return all(path.is_file() and not path.with_suffix(".json").is_file() for path in paths)


def load_official_method(
    paths: Sequence[Path], suite: str | None, tier: str, method: str | None, overrides: Sequence[str]
) -> Loaded:
    """The method of official files in evaluation mode, at the setting that suite, tier and overrides name.

    Raises ValueError: for a missing choice, and for a file that does not fit (which keys or shapes, what it holds).
    """
    if suite is None or method is None:
        raise ConfigError(
            f"{paths[0]}: has no configuration beside it, so it is taken for an official file; say what it is with "
            "--suite SUITE --method METHOD (and --tier, section.key=value)"
        )
    (cell,) = make_plan(suite, tier, [method], [0], overrides)
    facts = load_yaml("datasets", cell.data.dataset)
    num_classes = facts["num_classes"] if cell.conditioning == "class" else None
    implementation = load_implementation(cell.implementation)
    if cell.codec.kind == "suite" and not implementation.Method.owns_first_stage:
        raise ConfigError(
            "codec.kind=suite: an official file was trained in another codec's latents; give codec.kind=kl "
            "codec.path=FOLDER (or codec.kind=pixels)"
        )
    codec = load_suite_codec(cell.codec, None) if not implementation.Method.owns_first_stage else None
    built = build_method(cell, num_classes, codec)
    # A method whose official weights are more than one file says how they are read.
    read = getattr(implementation, "load_official", load_one)
    read(built, list(paths))
    classes = list(range(num_classes)) if num_classes else []
    return Loaded(built.eval(), cell, [str(index) for index in classes], classes)


def load_one(method, paths: Sequence[Path]) -> None:
    """One file into the method's network. Raises ValueError for several."""
    if len(paths) != 1:
        raise ConfigError(f"--checkpoint: got {len(paths)} files, this method has one")
    load_official(paths[0], method.network)
