"""A checkpoint to clips, without the run that made it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lavita.config.compose import Experiment, load_yaml
from lavita.config.plan import experiment_from_dict, make_plan
from lavita.config.registry import load_implementation
from lavita.config.schema import ConfigError, DataConfig, SamplingConfig, nearest, read
from lavita.data.clips import centre_crop_resize, frame_indices, to_tensor
from lavita.data.video import read_frames
from lavita.files import check_new_folder
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, empty_codec, load_suite_codec
from lavita.methods.checkpoints import CheckpointRemark, load, load_official, shards_of
from lavita.sampling.generate import ClipsInParts, generate, save_samples
from lavita.training.arithmetic import arithmetic


def load_method(
    paths: Sequence[Path], suite: str | None, tier: str, method: str | None, overrides: Sequence[str]
) -> Loaded:
    """The method of a finished run's folder, of a checkpoint of ours, or of official files, which suite, tier, method
    and overrides describe. Raises ValueError.
    """
    if is_official(paths):
        return load_official_method(paths, suite, tier, method, overrides)
    return load_run(paths, suite, method, overrides)


def is_official(paths: Sequence[Path]) -> bool:
    """Whether the files hold weights only: neither a run's folder nor a checkpoint with its configuration."""
    return all(bool(shards_of(path)) or (path.is_file() and not path.with_suffix(".json").is_file()) for path in paths)


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
    (experiment,) = make_plan(suite, tier, [method], [0], overrides)
    facts = load_yaml("datasets", experiment.data.dataset)
    num_classes = facts["num_classes"] if experiment.conditioning == "class" else None
    implementation = load_implementation(experiment.implementation)
    if experiment.codec.kind == "suite" and not implementation.Method.owns_first_stage:
        raise ConfigError(
            "codec.kind=suite: an official file was trained in the latents of another autoencoder; give codec.kind=kl "
            "codec.path=FOLDER (or codec.kind=pixels)"
        )
    codec = load_suite_codec(experiment.codec, None) if not implementation.Method.owns_first_stage else None
    built = build_method(experiment, num_classes, codec)
    # A method whose official weights are more than one file says how they are read.
    read = getattr(implementation, "load_official", load_one)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(built, list(paths))
    remarks = tuple(str(one.message) for one in caught if issubclass(one.category, CheckpointRemark))
    classes = list(range(num_classes)) if num_classes else []
    return Loaded(built.eval(), experiment, [str(index) for index in classes], classes, remarks)


def load_one(method, paths: Sequence[Path]) -> None:
    """One file into the method's network. Raises ValueError for several."""
    if len(paths) != 1:
        raise ConfigError(f"--checkpoint: got {len(paths)} files, this method has one")
    load_official(paths[0], method.network)


@dataclass(frozen=True)
class Loaded:
    """A method in evaluation mode, the configuration of its run, its classes' names and those it was trained on;
    remarks: what is to be known of how its files were read.
    """

    method: VideoMethod
    experiment: Experiment
    class_names: list[str]
    classes: list[int]
    remarks: tuple[str, ...] = ()


def load_run(paths: Sequence[Path], suite: str | None, method: str | None, overrides: Sequence[str]) -> Loaded:
    """The method of a checkpoint of ours, which says all of itself.

    Raises ValueError for a file that is no checkpoint of ours, or whose weights do not fit its configuration, and
    where something is given that only official files need.
    """
    if suite or method or overrides or len(paths) != 1:
        raise ConfigError(
            f"--checkpoint: {paths[0]} is a checkpoint of ours, which knows its own setting; leave out --suite, "
            "--method, section.key=value and further files"
        )
    file = paths[0] / "checkpoint.safetensors" if paths[0].is_dir() else paths[0]
    if not file.is_file():
        raise ConfigError(f"--checkpoint: no file {file}; give a checkpoint or a finished run's folder")
    state, config = load(file)
    missing = {"cell", "num_classes", "class_names", "classes"} - set(config)
    if missing:
        raise ValueError(f"{file}: its configuration lacks {', '.join(sorted(missing))}: not a checkpoint of a run")
    try:
        experiment = experiment_from_dict(config["cell"])
    except (ConfigError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: its configuration is no run's ({error})") from None
    external = experiment.codec.kind == "kl"
    codec = load_suite_codec(experiment.codec, None) if external else empty_codec(experiment.codec)
    built = build_method(experiment, config["num_classes"], codec)
    if external:
        state |= {key: value for key, value in built.state_dict().items() if key.startswith("codec.")}
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{file}: weights do not fit their configuration: {str(error).splitlines()[-1].strip()}"
        ) from None
    return Loaded(built.eval(), experiment, config["class_names"], config["classes"])


def changed(sampling: SamplingConfig, changes: dict[str, Any]) -> SamplingConfig:
    """The sampling settings with those that were given. Raises ConfigError for a value not allowed."""
    wanted = {key: value for key, value in changes.items() if value is not None}
    return read(SamplingConfig, asdict(sampling) | wanted, "sampling")


def chosen_classes(wanted: Sequence[str | int] | None, loaded: Loaded) -> list[int]:
    """Class indices from names or numbers. Raises ConfigError naming the nearest class."""
    if wanted is None:
        return loaded.classes or [0]
    experiment = loaded.experiment
    if experiment.conditioning != "class":
        raise ConfigError(
            f"--classes: {experiment.label} was trained without classes (suite {experiment.suite}); leave it out"
        )
    names, found = loaded.class_names, []
    for part in map(str, wanted):
        if part in names:
            found.append(names.index(part))
        elif part.isdigit() and int(part) < len(names):
            found.append(int(part))
        else:
            raise ConfigError(f"--classes: unknown class {part!r}: {nearest(part, [name for name in names if name])}")
    return found


def read_condition(path: Path, data: DataConfig) -> torch.Tensor:
    """The first clip of a video or frame folder as training would see it: float32 (F, 3, H, W) in [-1, 1]."""
    frames = read_frames(path, frame_indices(0, data.frames, data.interval))
    return to_tensor(centre_crop_resize(frames, data.resolution))


def sample_checkpoint(
    loaded: Loaded,
    num_clips: int,
    seed_start: int,
    changes: dict[str, Any],
    classes: Sequence[str | int] | None,
    condition: Path | None,
    out: Path | None,
    report: Callable[[int, int], None],
) -> ClipsInParts:
    """Clips uint8 (N, F, H, W, 3), 0..255, of seeds seed_start .. seed_start + N - 1; where out is given they are
    written there, and a grid beside it. report is told how many are done. Raises ValueError.
    """
    if out is not None:
        check_new_folder(out, "--out")
    method, experiment = loaded.method, loaded.experiment
    sampling = changed(experiment.sampling, changes)
    indices = chosen_classes(classes, loaded)
    real = None if condition is None else read_condition(condition, experiment.data).expand(num_clips, -1, -1, -1, -1)
    method.to("cuda" if torch.cuda.is_available() else "cpu")
    with arithmetic():
        made = generate(method, sampling, num_clips, seed_start, indices, report, real)
    if out is not None:
        # By name only: a record says nothing of where files lie on a machine.
        name = None if condition is None else condition.name
        save_samples(out, made, experiment.method, experiment.cell, sampling, keep_clips=True, condition=name)
    return made.clips
