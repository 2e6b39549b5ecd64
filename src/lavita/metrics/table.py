"""The metric table: one row per metric, with all that run, evaluate, audit and report know of it. Loads no torch.

To add a metric, write a function of stored arrays (see `lavita.metrics.measures`) and put one row into METRICS.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from lavita.data.catalogue import SPLITS
from lavita.metrics import measures
from lavita.results.scores import Measurement


@dataclass(frozen=True)
class NetworkId:
    """A feature network by its name and the hash of its weights; None where no hash is known."""

    name: str
    weights_hash: str | None


@dataclass(frozen=True)
class MetricRow:
    """name: how keys of its scores begin; unit; direction: of better values, None where neither is; decimals: in
    table.csv; array: what it is made from, features (n, d), probabilities (n, K), frame_features (n, F, d) or pixels;
    sides: which clips it takes, in the order of the arguments of compute: real, generated, train, heldout,
    reconstruction; legend: what a reader of a table must know; compute: (protocol, a Side a side) -> Measurement, None
    where only clips give it, no stored array; standard: the network that keys do not spell; mark: stands in a table's
    heading where there is no direction; title: what people call it, "" where its name is that.
    """

    name: str
    unit: str
    direction: Literal["lower", "higher"] | None
    decimals: int
    array: str
    sides: tuple[str, ...]
    legend: str
    compute: Callable[..., Measurement] | None
    standard: NetworkId | None = None
    mark: str = ""
    title: str = ""

    @property
    def lower_is_better(self) -> bool | None:
        return None if self.direction is None else self.direction == "lower"

    @property
    def heading(self) -> str:
        """What stands behind its key in a table's heading: the direction of better values, or its mark."""
        return {"lower": "↓", "higher": "↑", None: self.mark}[self.direction]

    @property
    def against(self) -> str | None:
        """The split whose real clips it takes instead of the protocol's own, if any."""
        return next((split for split in SPLITS if self.name.endswith(f"-{split}")), None)


# Git blob name (`git hash-object FILE`) of the I3D that StyleGAN-V, Latte and others score with.
I3D_TORCHSCRIPT_HASH = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
I3D = NetworkId("i3d", I3D_TORCHSCRIPT_HASH)

FVD = MetricRow(
    "fvd",
    unit="squared feature distance",
    direction="lower",
    decimals=1,
    array="features",
    sides=("real", "generated"),
    legend="Frechet video distance; lower is better.",
    compute=measures.fvd,
    standard=I3D,
    title="FVD",
)
BY_SPLIT = (
    "the distance to real clips of the {} split, as many windows as there are (at most four times those of FVD), so "
    "numbers of clips differ: compared down its own column only."
)


def against_split(row: MetricRow, split: str) -> MetricRow:
    """The row of a distance to the real clips of a split. Raises ValueError for another split."""
    if split not in SPLITS:
        raise ValueError(f"{row.name}: against is {split!r}, allowed None, {', '.join(map(repr, SPLITS))}")
    word = {"train": "training", "heldout": "held-out"}[split]
    sides = tuple(split if side == "real" else side for side in row.sides)
    names = {"name": f"{row.name}-{split}", "title": f"{row.title or row.name} to {word} clips"}
    return replace(row, **names, sides=sides, legend=BY_SPLIT.format(word), compute=measures.fvd_of_split)


RECONSTRUCTED = "of reconstructions of held-out clips."
RECONSTRUCTION = {"array": "pixels", "sides": ("heldout", "reconstruction"), "compute": None}
METRICS: dict[str, MetricRow] = {
    row.name: row
    for row in (
        FVD,
        MetricRow(
            "kvd",
            unit="squared kernel distance",
            direction="lower",
            decimals=3,
            array="features",
            sides=("real", "generated"),
            legend="unbiased kernel video distance; lower is better, around 0 for equal distributions.",
            compute=measures.kvd,
            standard=I3D,
            title="KVD",
        ),
        against_split(FVD, "train"),
        against_split(FVD, "heldout"),
        MetricRow(
            "memorisation",
            unit="distance of held-out clips",
            direction=None,
            decimals=2,
            array="features",
            sides=("train", "heldout", "generated"),
            legend="median distance of a generated clip to the nearest training clip, in units of the same of held-out "
            "real clips: about 1 for new clips, near 0 for copies; `record.json` names the closest.",
            compute=measures.memorization_ratio,
            standard=I3D,
            mark="(1 = new)",
            title="memorization ratio",
        ),
        MetricRow(
            "fid",
            unit="squared feature distance",
            direction="lower",
            decimals=1,
            array="frame_features",
            sides=("real", "generated"),
            legend="Frechet distance of features of single frames; lower is better.",
            compute=measures.fid,
            title="FID",
        ),
        MetricRow(
            "is",
            unit="effective number of classes",
            direction="higher",
            decimals=2,
            array="probabilities",
            sides=("generated",),
            legend="video inception score; higher is better.",
            compute=measures.inception,
            standard=NetworkId("c3d", None),
            title="IS",
        ),
        MetricRow("psnr", "dB", "higher", 2, **RECONSTRUCTION, legend=RECONSTRUCTED, title="PSNR"),
        MetricRow(
            "psnr_average4x4",
            "dB",
            "higher",
            2,
            **RECONSTRUCTION,
            legend="of frames averaged to blocks, 4x4 a frame.",
            title="PSNR of 4x4 averages",
        ),
        MetricRow("ssim", "1", "higher", 3, **RECONSTRUCTION, legend=RECONSTRUCTED, title="SSIM"),
        MetricRow("lpips", "1", "lower", 3, **RECONSTRUCTION, legend=RECONSTRUCTED, title="LPIPS"),
        replace(
            FVD,
            name="rfvd",
            sides=("real", "reconstruction"),
            legend="Frechet video distance of the real clips to their reconstructions; lower is better.",
            compute=measures.fvd_of_reconstruction,
            title="FVD of reconstructions",
        ),
    )
}


def selectable() -> tuple[str, ...]:
    """The metrics that evaluate.py --metrics takes: those of features or probabilities of generated clips, against the
    protocol's real clips or alone.
    """
    sides, arrays = (("real", "generated"), ("generated",)), ("features", "probabilities")
    return tuple(row.name for row in METRICS.values() if row.sides in sides and row.array in arrays)


def row_named(name: str, against: str | None = None) -> MetricRow:
    """The row of a metric, or that of its distance to the real clips of a split. Raises ValueError for a name that is
    not in the table and for another split.
    """
    if name not in METRICS:
        raise ValueError(f"metric: got {name!r}, allowed {', '.join(METRICS)}")
    if against is None:
        return METRICS[name]
    return METRICS.get(f"{name}-{against}") or against_split(METRICS[name], against)


def metric_key(row: MetricRow, n: int, frames: int, network: NetworkId | None = None) -> str:
    """The full name of a score, `<metric>[-<against>][_<extractor>]_n<clips>_f<frames>`, e.g. fvd_embedded_n64_f8.

    The extractor part is absent only if name and weights hash are those of the row's standard network; a standard
    without a recorded hash is never met, so nothing made with other weights passes for it. network None: of a metric
    of pixels.
    """
    is_standard = row.standard is not None and row.standard.weights_hash is not None and network == row.standard
    part = "" if network is None or is_standard else f"_{network.name}"
    return f"{row.name}{part}_n{n}_f{frames}"


@dataclass(frozen=True)
class MetricKey:
    """A full name in its parts. extractor: None where the name does not spell it."""

    row: MetricRow
    extractor: str | None
    n: int
    frames: int

    @property
    def is_standard(self) -> bool:
        """Whether it is made with the standard network."""
        return self.extractor is None

    @property
    def title(self) -> str:
        """What people call the metric: FVD."""
        return self.row.title or self.row.name

    @property
    def words(self) -> str:
        """The full name as people read it: FVD (in-domain, 64 clips of 8 frames)."""
        standard = self.row.standard and self.row.standard.name
        network = self.extractor or standard
        parts = [] if network is None else [NETWORK_WORDS.get(network, network)]
        return f"{self.title} ({', '.join([*parts, f'{self.n} clips of {self.frames} frames'])})"


NETWORK_WORDS = {"embedded": "in-domain", "i3d": "I3D", "c3d": "C3D", "videomae": "VideoMAE"}
REST = re.compile(r"(?:_(?P<extractor>.+))?_n(?P<n>\d+)_f(?P<frames>\d+)")


def parse_key(text: str) -> MetricKey | None:
    """Undo `metric_key`; of a table's column, its first word counts. None for a text that names no metric."""
    key = str(text).split(" ")[0]
    for name in sorted(METRICS, key=len, reverse=True):  # psnr_average4x4 before psnr
        for against in (None, *SPLITS):
            start = name if against is None else f"{name}-{against}"
            rest = REST.fullmatch(key.removeprefix(start)) if key.startswith(start) else None
            if rest:
                return MetricKey(row_named(name, against), rest["extractor"], int(rest["n"]), int(rest["frames"]))
    return None


def metric_words(metric: str) -> str:
    """A full name as people read it; a text that names no metric stays."""
    key = parse_key(metric)
    return metric if key is None else key.words


def with_titles(sentence: str) -> str:
    """A sentence with each full name in it as the metric's short title: "better by FVD, KVD"."""
    return FULL_NAME.sub(lambda found: found[0] if (key := parse_key(found[0])) is None else key.title, sentence)


FULL_NAME = re.compile(r"[\w.-]+_n\d+_f\d+\b")


def is_metric(text: str, name: str) -> bool:
    """Whether a full name or a table's column is of a metric: is_metric("fvd_embedded_n64_f8", "fvd")."""
    key = parse_key(text)
    return key is not None and key.row.name == name
