"""Configuration: nested plain mappings read into frozen dataclasses; every wrong key is an error with its nearest one.

This file imports neither torch nor anything heavy, so that argument errors come at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lavita.config.ranges import INFINITE, NUMBER, RANGES, Range

T = TypeVar("T")
AUTO = "auto"


class ConfigError(ValueError):
    """A wrong configuration: one line that says got, allowed, what to do."""


def nearest(key: str, allowed: typing.Iterable[str]) -> str:
    """A hint naming the allowed key most like `key`, or all of them where none is alike."""
    names = list(allowed)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names)}"


def read(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the frozen dataclass cls from values; all keys must be there, none may be unknown, types must fit.

    where is the section's name in messages ("train"). Raises ConfigError.
    """
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown key {where}.{key}: {nearest(str(key), names)}")
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(f"missing key {where}.{missing[0]} ({len(missing)} missing in section {where!r})")
    hints = typing.get_type_hints(cls)
    return cls(**{name: convert(values[name], hints[name], f"{where}.{name}") for name in names})


def convert(value: Any, hint: Any, where: str) -> Any:
    """Check one value against its type hint; whole numbers stand for floats, lists for tuples. Raises ConfigError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        others = [option for option in options if option is not type(None)]
        return convert(value, next((option for option in others if type(value) is option), others[0]), where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(item, typing.get_args(hint)[0], where) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: got {value!r}, wanted {name}")


def one_of(where: str, value: Any, allowed: typing.Sequence[Any]) -> None:
    """Raise ConfigError unless value is allowed."""
    if value not in allowed:
        raise ConfigError(f"{where}: got {value!r}, allowed {', '.join(map(str, allowed))}")


def check_number(key: str, value: Any, allowed: Range) -> None:
    """Raise ConfigError unless a value that is a number lies in the range; others are not looked at."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not allowed.holds(value):
        raise ConfigError(f"{key}: got {value}, wanted {allowed.text()}")


def check_ranges(section: str, values: Any) -> None:
    """Raise ConfigError, in one line, for the first number of a section that is outside its range."""
    for field in dataclasses.fields(values):
        allowed = RANGES.get(f"{section}.{field.name}")
        if allowed is not None:
            check_number(f"{section}.{field.name}", getattr(values, field.name), allowed)


def check_model(model: Mapping[str, Any], authors: Mapping[str, Any]) -> None:
    """Raise ConfigError for a number of section model that is infinite, none at all, or negative where its authors' is
    not. More is known by the method itself, which is built before anything starts.
    """
    for key, value in model.items():
        published = authors.get(key)
        below = isinstance(published, int | float) and published < 0
        for one in value if isinstance(value, list | tuple) else (value,):
            check_number(f"model.{key}", one, Range(-INFINITE) if below else NUMBER)


@dataclass(frozen=True)
class DataConfig:
    """Which clips are seen. root null means synthetic data (demo only); resolution in pixels, interval in frames.

    fold: of the data set's own lists (UCF101: 1 to 3, else null). frame_choice: exact takes every interval-th frame,
    linspace is the published rule (see data/clips.py). short_videos: what becomes of videos without room for a clip.
    max_unreadable: share of the videos that may be left out because they can't be read. latent_cache: train from stored
    posterior moments of the suite's autoencoder (true, false, or auto: where the disk has room for them), which are
    kept in latent_dtype. num_workers: loader processes of a training process, null for its part of the machine's cores.
    """

    dataset: str
    root: str | None
    fold: int | None
    frames: int
    interval: int
    resolution: int
    flip: bool
    frame_choice: str
    short_videos: str
    max_unreadable: float
    latent_cache: str | bool
    latent_dtype: str
    num_workers: int | None
    cache_bytes: int

    def __post_init__(self) -> None:
        one_of("data.short_videos", self.short_videos, ("error", "skip"))
        one_of("data.frame_choice", self.frame_choice, ("exact", "linspace"))
        one_of("data.latent_cache", self.latent_cache, (True, False, AUTO))
        one_of("data.latent_dtype", self.latent_dtype, ("float32", "float16"))
        check_ranges("data", self)


BUDGET_UNITS = ("clips", "flops", "seconds")


@dataclass(frozen=True)
class BudgetConfig:
    """The compute budget of a method, all stages together, in one unit: clips (training clips seen), flops (counted
    forward and backward, encoding included) or seconds (of training). The amounts of the other two are not read.
    """

    currency: str
    clips: int | None
    flops: float | None
    seconds: float | None

    def __post_init__(self) -> None:
        one_of("budget.currency", self.currency, BUDGET_UNITS)
        check_ranges("budget", self)
        if self.asked is None:
            raise ConfigError(
                f"budget.{self.currency}: got null, wanted a number, since budget.currency={self.currency}"
            )

    @property
    def asked(self) -> float | None:
        """The amount in the chosen unit."""
        return getattr(self, self.currency)


@dataclass(frozen=True)
class FairnessConfig:
    """batch: authors (each method's published one, or the tier's), or equal (the suite's first row's, for all rows)."""

    batch: str

    def __post_init__(self) -> None:
        one_of("fairness.batch", self.batch, ("authors", "equal"))


@dataclass(frozen=True)
class CodecConfig:
    """The suite's autoencoder. kind: pixels; kl (diffusers AutoencoderKL at path); suite (trained on `clips` clips).

    downsample: pixels per latent pixel, per side. width, norm_groups: channels of the suite's own. scaling null: as the
    autoencoder's own configuration says, or measured on the training split.
    """

    kind: str
    path: str | None
    latent_channels: int
    downsample: int
    scaling: float | None
    clips: int
    width: int
    norm_groups: int
    kl_weight: float
    learning_rate: float
    batch_clips: int

    def __post_init__(self) -> None:
        one_of("codec.kind", self.kind, ("pixels", "kl", "suite"))
        if self.kind == "kl" and not self.path:
            raise ConfigError("codec.path: codec.kind=kl needs a local folder or a hub name fetched before, got null")
        check_ranges("codec", self)
        if self.kind == "suite" and not self.clips:
            raise ConfigError("codec.clips: got 0, wanted at least 1, since codec.kind=suite trains an autoencoder")


@dataclass(frozen=True)
class TrainConfig:
    """How a stage is optimised.

    Exactly one of ema_decay (a step) and ema_halflife_share (share of the stage's clips) is set. Warm-up is linear
    from zero over warmup_clips. Gradients are clipped to grad_clip_norm once grad_clip_start_clips have been seen.
    """

    batch_clips: int
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    warmup_clips: int
    ema_decay: float | None
    ema_halflife_share: float | None
    grad_clip_norm: float | None
    grad_clip_start_clips: int
    class_dropout: float

    def __post_init__(self) -> None:
        if (self.ema_decay is None) == (self.ema_halflife_share is None):
            raise ConfigError("train: set exactly one of ema_decay and ema_halflife_share, the other null")
        check_ranges("train", self)


PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class ComputeConfig:
    """How a run uses its machine; identical for all runs of a suite.

    precision: of the networks in training, 32-true or bf16-mixed (see lavita.nn.precision). compile: whether
    torch.compile makes one kernel of many in each block (true, false, or auto: on an accelerator only). threads: CPU
    threads of a run's process, since their number changes the last bits of sums. pass_clips: clips that one process
    takes in one forward and backward pass; a batch is accumulated over as many passes as it needs; auto: as many as fit
    the device's memory, chosen when a stage begins. checkpoint_activations recomputes each transformer block in the
    backward pass: less memory, same numbers. devices: processes per node, one device each, that train together on
    `nodes` nodes; strategy: what they share, gradients (ddp; auto where there are several) or weights and optimiser too
    (fsdp). deterministic: of a GPU's kernels only those that always sum in one order, slower; without it a repeated or
    resumed run agrees there to rounding.
    """

    precision: str
    compile: str | bool
    threads: int
    pass_clips: int | str
    checkpoint_activations: bool
    devices: int
    nodes: int
    strategy: str
    deterministic: bool

    def __post_init__(self) -> None:
        one_of("compute.precision", self.precision, PRECISIONS)
        one_of("compute.compile", self.compile, (True, False, AUTO))
        one_of("compute.strategy", self.strategy, ("auto", "ddp", "fsdp"))
        check_ranges("compute", self)
        if self.pass_clips != AUTO and isinstance(self.pass_clips, str):
            raise ConfigError(
                f"compute.pass_clips: got {self.pass_clips}, wanted clips of one pass, at least 1, or {AUTO}"
            )
        if self.processes == 1 and self.strategy != "auto":
            raise ConfigError(
                f"compute.strategy: got {self.strategy} for one process, wanted auto, or compute.devices or nodes "
                "above 1"
            )

    @property
    def processes(self) -> int:
        """Processes that train together, on all nodes."""
        return self.devices * self.nodes

    def passes(self, batch_clips: int) -> int:
        """Passes of a batch: one where a process has no more than pass_clips of it, or nobody has chosen yet."""
        part = batch_clips // self.processes
        return 1 if isinstance(self.pass_clips, str) or self.pass_clips >= part else part // self.pass_clips


@dataclass(frozen=True)
class CheckpointConfig:
    """How much training a killed run may lose: its state is saved every every_clips clips, and where every_minutes have
    gone by since it last was. No number depends on it.
    """

    every_clips: int
    every_minutes: float

    def __post_init__(self) -> None:
        check_ranges("checkpoint", self)


@dataclass(frozen=True)
class PretrainingConfig:
    """Where a network starts, other than at random; at most one of the two.

    checkpoint: a file of an official network, such as an ImageNet DiT, or a folder of diffusers' (external weights: the
    row is open); origin: where it comes from, in
    words. method: an image method of the suite, built at the same size and trained first, on `share` of the budget.
    """

    checkpoint: str | None
    origin: str | None
    method: str | None
    share: float

    def __post_init__(self) -> None:
        check_ranges("pretraining", self)
        if self.checkpoint and not self.origin:
            raise ConfigError(
                "pretraining.origin: not set; say where pretraining.checkpoint comes from, for example "
                'pretraining.origin="DiT-XL/2 256x256, ImageNet, dl.fbaipublicfiles.com/DiT"'
            )
        if self.checkpoint and self.method:
            raise ConfigError("pretraining: set checkpoint or method, not both")
        if (self.method is not None) != (0 < self.share < 1):
            raise ConfigError(
                f"pretraining.share: got {self.share} with pretraining.method={self.method}; "
                "wanted above 0 and below 1 with a method, 0 without"
            )


GENERATION = "generation"  # the value of sampling.task for clips from noise alone
CONTINUATION = "continuation"  # for clips that go on from a real one
INTERPOLATION = "interpolation"  # for clips of which frames that lie apart are those of a real one
FRAMES = "frames"  # for clips from noise alone whose frames are made each by itself
FROM_NOISE = (GENERATION, FRAMES)  # tasks that need no real clip
SPACING = re.compile(r"ddim0*[1-9][0-9]*|0*[1-9][0-9]*(,0*[1-9][0-9]*)*")  # as IDDPM writes which steps are visited


@dataclass(frozen=True)
class SamplingConfig:
    """How clips are made: sampler, steps (IDDPM respacing string), eta (ddim), guidance (1 = none).

    precision: of the networks, 32-true or bf16-mixed; what is sampled and the sampler's arithmetic stay float32.
    task: what is generated from what ("generation": from noise alone; others where a method has them).
    num_clips_chained: clips of one long video, each continuing the one before, where a method can.
    """

    sampler: str
    steps: str
    eta: float
    guidance: float
    guided_channels: int | None
    clip_denoised: bool
    batch_clips: int
    task: str
    num_clips_chained: int
    precision: str

    def __post_init__(self) -> None:
        one_of("sampling.sampler", self.sampler, ("ddpm", "ddim", "dpm-solver++"))
        one_of("sampling.precision", self.precision, PRECISIONS)
        check_ranges("sampling", self)
        if not SPACING.fullmatch(self.steps):
            raise ConfigError(
                f"sampling.steps: got {self.steps!r}, wanted a number of at least 1, ddimN, or numbers separated by "
                "commas"
            )

    @property
    def num_steps(self) -> int:
        """Network evaluations per clip, guidance not counted twice."""
        if self.steps.startswith("ddim"):
            return int(self.steps[4:])
        return sum(int(part) for part in self.steps.split(","))


@dataclass(frozen=True)
class WeightsConfig:
    """Files of the metrics' feature networks, TorchScript; a given one is used in place of the in-domain network."""

    i3d: str | None
    c3d: str | None


@dataclass(frozen=True)
class ExtractorConfig:
    """How long the in-domain feature network is trained; it belongs to the protocol and is charged to nobody."""

    steps: int

    def __post_init__(self) -> None:
        check_ranges("extractor", self)
