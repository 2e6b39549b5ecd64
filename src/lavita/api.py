"""What `import lavita` gives: the steps of a comparison as functions. The commands call the same ones.

Nothing heavy is imported before a function needs it, so that `import lavita` and `lavita --help` take no time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavita.config.registry import SAFE_NAME, add_plugin
from lavita.config.schema import ConfigError, one_of

if TYPE_CHECKING:
    import numpy as np

    from lavita.config.compose import Experiment
    from lavita.metrics.folder_record import Comparison
    from lavita.results.run_folder import RunFolder
    from lavita.sampling.from_checkpoint import Loaded

AnyPath = str | PathLike[str]
Overrides = Sequence[str] | Mapping[str, Any]
Say = Callable[[str], None]
SAMPLES_WANTED = "wanted NAME=DIR with a name of letters, digits, - and _"


def compose(
    suite: str,
    tier: str = "paper",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Overrides = (),
    *,
    plugins: Sequence[AnyPath] = (),
) -> list[Experiment]:
    """The complete configuration of every run of a suite: what `lavita run` would train.

    Args:
        suite: name of a file in configs/suites: ucf101, ucf101-class, skytimelapse, faceforensics, taichi, ...
        tier: paper (256x256, XL/2), small (64x64) or demo (32x32).
        methods: rows by name, or methods whose rows are all meant; None for all of the suite.
        seeds: training seeds, 0 or more; None for the suite's, mostly 0.
        overrides: "section.key=value" each, or a mapping of "section.key" to value; of sections to mappings as well.
        plugins: folders of methods from outside the repository.

    Returns:
        One frozen Experiment for each row and seed, in the order of the table.

    Raises:
        ConfigError: a ValueError of one line, for a name, key or value that is not allowed; it names the nearest one.

    Example:
        >>> import lavita
        >>> one, other = lavita.compose("ucf101", "demo", ["dit", "vdt"], overrides={"budget.clips": 64})
        >>> one.cell, other.cell, one.budget.clips, one.data.resolution
        ('dit-s0', 'vdt-s0', 64, 32)
    """
    from lavita.config.plan import make_plan

    for path in plugins:
        add_plugin(fspath(path))
    return make_plan(suite, tier, methods, seeds, as_overrides(overrides))


def run_suite(
    suite: str,
    tier: str = "paper",
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Overrides = (),
    *,
    out: AnyPath | None = None,
    cache: AnyPath | None = None,
    workers: int | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    samples: Mapping[str, AnyPath] | None = None,
    plugins: Sequence[AnyPath] = (),
) -> RunFolder:
    """Train every method of a suite under one budget, sample, score, write the tables, and audit them: `lavita run`.

    Each run is a process of its own; how far they are is printed. The same call again skips what is finished and
    resumes the rest. A run that fails stops no other: its record has another status than "ok", and the reason.

    Args:
        suite, tier, methods, seeds, overrides, plugins: as in `compose`. data.root=DIR trains on real videos.
        out: results folder; None for results/<suite>-<tier>-<data name> in the working directory.
        cache: folder of what is fitted once (autoencoder, feature network); None for results/cache there.
        workers: runs at once; None for one per accelerator, else as many as the cores have room for.
        fresh: run everything from the start, finished runs too.
        retry_failed: run failed ones again.
        samples: folders of external samples, by the names of their rows; marked "training not audited".

    Returns:
        The results folder as its files say it: `path`, `records` (a Record for each run that stands in the tables),
        `digest` (64 hex digits over all files).

    Raises:
        ConfigError: as `compose`, and for data that is not where data.root says.
        ValueError, OSError: a folder that can't be written or is in use.
        KeyboardInterrupt: after Ctrl-C, once every process has saved its state; the same call resumes.

    Example:
        >>> import lavita
        >>> tiny = {
        ...     "budget.clips": 16, "codec.kind": "pixels", "train.warmup_clips": 0, "extractor.steps": 2,
        ...     "sampling.steps": "2", "protocol.n_real": 4, "protocol.n_generated": 4, "model.depth": 1,
        ...     "model.width": 24, "model.num_heads": 2,
        ... }
        >>> run = lavita.run_suite("ucf101", "demo", ["dit"], overrides=tiny, workers=1)
        data ...
        digest ...
        >>> [(record.label, record.status) for record in run.records]
        [('dit', 'ok')]
    """
    from lavita.config.registry import names_in
    from lavita.results.run_folder import read_run
    from lavita.suite import run as suites
    from lavita.suite.match import match_parameters
    from lavita.suite.run_experiments import Options

    if workers is not None and workers < 1:
        raise ConfigError(f"workers: got {workers}, wanted at least 1")
    words = as_overrides(overrides)
    experiments, flags = match_parameters(compose(suite, tier, methods, seeds, words, plugins=plugins), words)
    options = Options(
        out=as_path(out),
        cache=as_path(cache),
        fresh=fresh,
        retry=retry_failed,
        workers=workers,
        samples=samples_of((samples or {}).items(), [*names_in("methods"), *(one.label for one in experiments)]),
        flags=flags,
    )
    finished = suites.run_suite(experiments, options)
    if finished.folder is None:
        raise KeyboardInterrupt
    return read_run(finished.folder)


def load(
    checkpoint: AnyPath | Sequence[AnyPath],
    *,
    suite: str | None = None,
    tier: str = "paper",
    method: str | None = None,
    overrides: Overrides = (),
    plugins: Sequence[AnyPath] = (),
) -> Loaded:
    """A trained method, ready to sample.

    Args:
        checkpoint: a finished run's folder (results/.../cells/<run>), a checkpoint.safetensors of ours, or an official
            file ({"ema": ...}, {"state_dict": ...} or a bare state dict; .pt, .pth, .ckpt, .safetensors); several for
            methods of several files.
        suite, tier, method, overrides: of official files only, which say nothing of themselves: the setting that the
            file was trained for; overrides as in `compose`, "codec.path=FOLDER" for the autoencoder.
        plugins: folders of methods from outside the repository.

    Returns:
        Loaded: `method` (a LightningModule in evaluation mode, on the CPU), `experiment` (its configuration),
        `class_names` and `classes` (indices of those it was trained on).

    Raises:
        ConfigError: no file there, or a setting where the checkpoint has its own.
        ValueError: a file that is no checkpoint, or whose weights do not fit their configuration.

    Example:
        >>> import lavita
        >>> loaded = lavita.load("results/ucf101-demo-embedded/cells/dit-s0")
        >>> loaded.experiment.label, loaded.experiment.data.frames, loaded.method.training
        ('dit', 8, False)
    """
    from lavita.sampling.from_checkpoint import load_method

    for path in plugins:
        add_plugin(fspath(path))
    files = [checkpoint] if isinstance(checkpoint, str | PathLike) else list(checkpoint)
    return load_method([Path(file) for file in files], suite, tier, method, as_overrides(overrides))


def sample(
    checkpoint: Loaded | AnyPath,
    num_clips: int,
    *,
    seed_start: int = 0,
    steps: int | str | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    classes: Sequence[str | int] | None = None,
    task: str | None = None,
    condition: AnyPath | None = None,
    num_clips_chained: int | None = None,
    out: AnyPath | None = None,
    say: Say | None = None,
) -> np.ndarray:
    """Clips from a trained method: `lavita sample`. On a GPU where there is one.

    Clip k comes from seed seed_start + k alone: the same seed gives the same clip in any batch.

    Args:
        checkpoint: what `load` gave, or a path as `load` takes it.
        num_clips: N, at least 1.
        seed_start: seed of the first clip, 0 or more.
        steps: sampling steps, a number or IDDPM's respacing ("250", "ddim50", "100,50"); None for the run's own, as
            for the next two.
        sampler: ddpm, ddim or dpm-solver++.
        guidance: classifier-free guidance, 0 or more; 1 is none.
        classes: names or indices, taken in turn, for methods that were trained with classes; None for all of them.
        task: what is made, from noise or from the condition, for methods with several tasks.
        condition: a video or a folder of frames to continue or complete, for methods that take one.
        num_clips_chained: clips of one long video, for methods that continue their own.
        out: folder that is empty or not there: also writes <seed>.mkv (lossless), clips.json, and <out>.gif to look at.
        say: is called with lines of progress, for example print.

    Returns:
        The clips as a numpy array, uint8 (N, F, H, W, 3), 0 to 255.

    Raises:
        ConfigError: a value that is not allowed, with the nearest that is.
        ValueError: as `load`, and for an out that holds files.

    Example:
        >>> import lavita
        >>> clips = lavita.sample("results/ucf101-demo-embedded/cells/dit-s0", 2, steps=2, out="clips")
        >>> clips.shape, clips.dtype
        ((2, 8, 32, 32, 3), dtype('uint8'))
        >>> import pathlib
        >>> sorted(path.name for path in pathlib.Path("clips").iterdir())
        ['000000.mkv', '000001.mkv', 'clips.json']
    """
    from lavita.sampling.from_checkpoint import Loaded, sample_checkpoint

    for name, value, least in (("num_clips", num_clips, 1), ("seed_start", seed_start, 0)):
        if value < least:
            raise ConfigError(f"{name}: got {value}, wanted at least {least}")
    loaded = checkpoint if isinstance(checkpoint, Loaded) else load(checkpoint)
    changes = {
        "steps": None if steps is None else str(steps),
        "sampler": sampler,
        "guidance": guidance,
        "task": task,
        "num_clips_chained": num_clips_chained,
    }
    return sample_checkpoint(
        loaded,
        num_clips,
        seed_start,
        changes,
        classes,
        condition=as_path(condition),
        out=as_path(out),
        report=lambda done, total: silent(say)(f"sampled {done}/{total}"),
    ).array()


def evaluate(
    real: AnyPath | np.ndarray,
    generated: AnyPath | np.ndarray,
    protocol: str | Sequence[str],
    *,
    clips: int | None = None,
    extractor: str | None = None,
    frame_encoder: AnyPath | None = None,
    weights: Mapping[str, AnyPath] | None = None,
    metrics: Sequence[str] | None = None,
    overrides: Overrides = (),
    train: AnyPath | np.ndarray | None = None,
    heldout: AnyPath | np.ndarray | None = None,
    sensitivity: bool = True,
    offline: bool = False,
    device: str | None = None,
    workers: int = 2,
    out: AnyPath | None = None,
    say: Say | None = None,
) -> tuple[list[Comparison], list[str]]:
    """Score two sets of clips under named protocols: `lavita evaluate`.

    Args:
        real, generated: a folder (a video file or a folder of frames for each clip, sorted by name), an .npz with key
            "clips", an .npy, or an array in memory, uint8 (N, F, H, W, 3), 0 to 255. An item of exactly as many frames
            as the protocol takes is a clip; a longer one is cut.
        protocol: a name, or several: suite, latte-2024, stylegan-v, digan, pvdm, mcvd, lvdm, demo.
        clips: score so many on each side instead of the protocol's number, at least 4; the protocol's name says so.
        extractor: i3d, c3d, videomae, embedded:FILE or a FILE; None for the protocol's own.
        frame_encoder: TorchScript Inception or a DINOv2 folder: also gives fid.
        weights: files of named networks (i3d, i3d_pretrained_400, c3d, videomae).
        metrics: of fvd, kvd, is; None for fvd, kvd, and is where its network is at hand.
        overrides: other values of the protocols, "protocol.key=value" each or as a mapping.
        train: training videos: also the distance to them, and with heldout whether generated clips copy them.
        heldout: held-out videos.
        sensitivity: also measure what the distance can see of corrupted real clips.
        offline: fetch no weights.
        device: cpu, cuda or cuda:N; None for a GPU where there is one.
        workers: threads that decode; scores stay the same.
        out: folder for record.json, features and rows.csv.
        say: is called with lines of progress, for example print.

    Returns:
        What came out under each protocol (`scores`: a Score each with metric, value, interval and direction; `record`:
        what else is known; `sides`: features float32 (n, d) by side), and a line for each score that could not be made.

    Raises:
        ConfigError: an unknown protocol, metric or key, with the nearest one.
        ValueError: clips that can't be read or have another shape.

    Example:
        >>> import lavita, numpy
        >>> real, generated = numpy.random.default_rng(0).integers(0, 256, (2, 8, 8, 32, 32, 3), dtype=numpy.uint8)
        >>> network = "embedded:extractor.safetensors"
        >>> (compared,), failed = lavita.evaluate(real, generated, "demo", clips=8, extractor=network)
        >>> failed, sorted({score.metric for score in compared.scores})
        ([], ['fvd_embedded_n8_f8', 'is_embedded_n8_f8', 'kvd_embedded_n8_f8'])
    """
    from lavita.config.overrides import protocol_changes
    from lavita.metrics.features.load import KNOWN
    from lavita.metrics.folder_record import check_results_folder, write_results
    from lavita.metrics.folders import Options
    from lavita.metrics.folders import evaluate as score
    from lavita.metrics.table import selectable

    for name, value, least in (("clips", clips, 4), ("workers", workers, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{name}: got {value}, wanted at least {least}")
    for name, values, allowed in (("metrics", metrics, selectable()), ("weights", weights, tuple(KNOWN))):
        for value in values or ():
            one_of(name, value, allowed)
    protocols = (protocol,) if isinstance(protocol, str) else tuple(dict.fromkeys(protocol))
    splits = {"train": train, "heldout": heldout}
    options = Options(
        real=as_clips(real),
        generated=as_clips(generated),
        splits={name: as_clips(side) for name, side in splits.items() if side is not None},
        sanity=sensitivity,
        protocols=protocols,
        clips=clips,
        extractor=extractor,
        frame_encoder=as_path(frame_encoder),
        changes=protocol_changes(as_overrides(overrides)),
        weights={name: Path(file) for name, file in (weights or {}).items()},
        metrics=None if metrics is None else tuple(metrics),
        offline=offline,
        device=device or default_device(),
        workers=workers,
        out=as_path(out),
    )
    if options.out is not None:
        check_results_folder(options.out, {"real": options.real, "generated": options.generated}, protocols)
    results, failed = score(options, silent(say))
    if results and options.out is not None:
        silent(say)(f"written to {write_results(options.out, results)}")
    return results, failed


def samples_of(pairs: Iterable[tuple[str, AnyPath]], known: Sequence[str]) -> dict[str, Path]:
    """Folders of clips by the names of their rows; known: names that are taken. Raises ConfigError."""
    found: dict[str, Path] = {}
    for name, folder in pairs:
        if not SAFE_NAME.fullmatch(name):
            raise ConfigError(f"--samples: got {f'{name}={folder}'!r}, {SAMPLES_WANTED}")
        if name in known or name in found:
            raise ConfigError(f"--samples: the name {name!r} is taken; give another one")
        if not Path(folder).is_dir():
            raise ConfigError(f"--samples: no folder {folder}")
        found[name] = Path(folder).resolve()
    return found


def as_overrides(overrides: Overrides) -> list[str]:
    """Overrides as the command line has them."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: got the text {overrides!r}, wanted a list of section.key=value, or a mapping")
    if not isinstance(overrides, Mapping):
        return list(overrides)
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        flat |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, Mapping) else {key: value}
    return [f"{key}={as_text(value)}" for key, value in flat.items()]


def as_text(value: Any) -> str:
    """A value as an override has it: a text as it is, others as JSON writes them."""
    if isinstance(value, list | tuple | bool) or value is None:
        return json.dumps(value, default=str)
    return str(value)


def as_path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def as_clips(clips: AnyPath | np.ndarray) -> Path | np.ndarray:
    """A path, or an array (of torch as well) as numpy's."""
    import numpy as np

    return Path(clips) if isinstance(clips, str | PathLike) else np.asarray(clips)


def silent(say: Say | None) -> Say:
    return say or (lambda line: None)


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
