"""speed.py score: our Frechet distance beside scipy's matrix root, resamples for an interval, I3D features."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def i3d_contestants(frames: int = 16) -> tuple[Callable[[], object], Callable[[], object], float]:
    """(plain, ours, difference): two functions that each give the logits of one clip, frames of 224 x 224 on the CPU.

    Both are float32 with equal weights, those of the parity case. difference: ||ours - plain|| / ||plain||.
    """
    import torch

    from lavita.metrics.features.i3d import I3D, SIZE, FoldedI3D
    from lavita.parity.adapters import fill_i3d
    from lavita.parity.cases import z

    plain = fill_i3d(I3D())
    ours = FoldedI3D(plain)
    video = torch.from_numpy(z("speed/video", (1, 3, frames, SIZE, SIZE))).clamp(-1, 1)

    def logits(network: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return network(video)

    wanted = logits(plain)
    difference = float((logits(ours) - wanted).norm() / wanted.norm())
    return lambda: logits(plain), lambda: logits(ours), difference


COLUMNS = (
    "group,contestant,seconds_median,seconds_low,seconds_high,seconds_fastest,ratio,ratio_low,ratio_high,"
    "relative_difference,self_distance,rounds,clips,features,resamples,threads,hardware,numpy,scipy,torch,commit,changed"
).split(",")
# Two exact computations of one distance; scipy's root is good to about 1e-9 of it on these features.
AGREEMENT = 1e-6
I3D_AGREEMENT = 1e-4
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
I3D_ROUNDS, RESAMPLE_ROUNDS = 5, 1


@dataclass(frozen=True)
class Group:
    """Contestants that do the same, ours first; difference: of the others' result from ours, relative; self_distance:
    for each, how far it finds features of half the full rank from themselves; rounds: timed calls of each.
    """

    contestants: dict[str, Callable[[], object]]
    rounds: int
    difference: float | None = None
    self_distance: dict[str, float] | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {','.join(GROUPS)} (default: all)")
    parser.add_argument("--clips", type=int, default=2048, help="clips a side (default: 2048)")
    parser.add_argument("--features", type=int, default=400, help="width of the features (default: 400)")
    parser.add_argument("--resamples", type=int, default=400, help="distances for an interval (default: 400)")
    parser.add_argument("--rounds", type=int, default=15, help="timed distances of each contestant (default: 15)")
    parser.add_argument("--threads", type=int, default=1, help="threads of numpy, scipy and torch (default: 1)")
    parser.add_argument("--csv", metavar="FILE", help="also write CSV; - for CSV alone on standard output")


def run(options: argparse.Namespace) -> None:
    """Measure and print. Raises ValueError for options that don't fit and for contestants that don't agree."""
    names = check_options(options)
    set_threads(options.threads)
    rows = measure(options, names)
    if options.csv != "-":
        print(table(rows, options))
    if options.csv is not None:
        from lavita.speed.timing import write_csv

        write_csv(options.csv, rows, COLUMNS)


def check_options(options: argparse.Namespace) -> list[str]:
    """The groups asked for. Raises ValueError, naming the option, for a value that can't be measured with."""
    for name, least in (("clips", 8), ("features", 1), ("resamples", 40), ("rounds", 1), ("threads", 1)):
        value = getattr(options, name)
        if value < least:
            raise ValueError(f"--{name}: got {value}, wanted at least {least}")
    names = options.only.split(",")
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise ValueError(f"--only: got {unknown[0]!r}, allowed {', '.join(GROUPS)}")
    return names


def set_threads(threads: int) -> None:
    """Set the threads of the libraries that are loaded after this. Raises ValueError where numpy has others already."""
    wanted = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if "numpy" in sys.modules and any(os.environ.get(name) != value for name, value in wanted.items()):
        raise ValueError(f"--threads: numpy is loaded; start with {' '.join(f'{k}={v}' for k, v in wanted.items())}")
    os.environ.update(wanted)


def features(clips: int, width: int, rank: int, seed: int) -> Any:
    """Features float64 (clips, width) of a rank, normal, with variances falling as 1, 1/2, 1/3, ... along random axes.

    Their means are half a standard deviation or so from 0, as those of a network's logits are.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((width, width)))[0][:rank]
    centre = 0.5 * rng.standard_normal(width) * np.sqrt(np.log(width + 1) / width)
    return rng.standard_normal((clips, rank)) / np.sqrt(np.arange(1, rank + 1)) @ axes + centre


def scipy_distance(x: Any, y: Any) -> float:
    """The squared Frechet distance as most papers' code computes it: covariances, then scipy's matrix root."""
    import numpy as np
    from scipy.linalg import sqrtm

    s1, s2 = np.cov(x, rowvar=False, ddof=0), np.cov(y, rowvar=False, ddof=0)
    root = sqrtm(s1 @ s2).real
    apart = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    return float(apart + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))


def frechet_group(options: argparse.Namespace) -> Group:
    """Both from features to number. Raises ValueError where the two differ."""
    from lavita.metrics.distances import frechet_distance

    width = options.features
    x, y = (features(options.clips, width, width, seed) for seed in (1, 2))
    found = {"ours": frechet_distance, "scipy sqrtm": scipy_distance}
    ours, other = (call(x, y) for call in found.values())
    thin = features(options.clips, width, max(1, width // 2), 3)
    apart = {name: call(thin, thin) for name, call in found.items()}
    contestants = {name: (lambda call=call: call(x, y)) for name, call in found.items()}
    return Group(contestants, options.rounds, agreeing("scipy sqrtm", abs(other / ours - 1), AGREEMENT), apart)


def resample_group(options: argparse.Namespace) -> Group:
    """All scores of halves and quarters of an interval, and the interval, from features on."""
    from lavita.metrics.confidence import interval, resample
    from lavita.metrics.resampling import FrechetOfSubsets

    x, y = (features(options.clips, options.features, options.features, seed) for seed in (1, 2))
    call = lambda: interval(resample(FrechetOfSubsets(x, y), options.resamples))  # noqa: E731
    return Group({"halves, quarters": call}, RESAMPLE_ROUNDS)


def i3d_group(options: argparse.Namespace) -> Group:
    """I3D features of a clip: the layout in memory that scores use, beside the plain module."""
    import torch

    torch.set_num_threads(options.threads)
    plain, ours, difference = i3d_contestants()
    return Group({"ours": ours, "plain": plain}, I3D_ROUNDS, agreeing("plain", difference, I3D_AGREEMENT))


def agreeing(name: str, difference: float, limit: float) -> float:
    """difference. Raises ValueError where it is above the limit: what gives another result is no contestant."""
    if not difference <= limit:
        raise ValueError(f"{name} is another function: results differ by {difference:.1e}, allowed {limit:.0e}")
    return difference


# What is measured, in order; each makes its own contestants.
GROUPS: dict[str, Callable[[argparse.Namespace], Group]] = {
    "frechet": frechet_group,
    "resamples": resample_group,
    "i3d": i3d_group,
}


def measure(options: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    """One row a contestant, with the columns of COLUMNS."""
    from lavita.results import provenance
    from lavita.speed import timing

    measured = []
    for name in names:
        group = GROUPS[name](options)
        measured.append((name, group, timing.take_turns(group.contestants, group.rounds)))
    commit, changed = provenance.commit()
    setting = {name: getattr(options, name) for name in ("clips", "features", "resamples", "threads")}
    setting |= {"hardware": provenance.hardware(), "commit": commit, "changed": changed}
    setting |= {name: getattr(sys.modules.get(name), "__version__", None) for name in ("numpy", "scipy", "torch")}
    return [
        times(contestant, group, seconds) | {"group": name} | setting
        for name, group, seconds in measured
        for contestant in group.contestants
    ]


def times(contestant: str, group: Group, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds of one contestant, and how many times as long as ours it takes."""
    from lavita.speed import timing

    ours = next(iter(group.contestants))
    return timing.columns(contestant, seconds, ours) | {
        "relative_difference": None if contestant == ours else group.difference,
        "self_distance": (group.self_distance or {}).get(contestant),
        "rounds": group.rounds,
    }


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """What is printed: a line a contestant, then what it is and where it was measured."""
    titles = {
        "frechet": f"Frechet distance of {options.clips} x {options.features} features, from features to number",
        "resamples": f"interval of it from {options.resamples} distances of halves and quarters",
        "i3d": "I3D features of one clip of 16 frames of 224 x 224",
    }
    lines, first = [], rows[0]
    for name in dict.fromkeys(row["group"] for row in rows):
        lines += [titles[name], line("", "seconds", "quartiles", "fastest", "to ours", "quartiles")]
        for row in (row for row in rows if row["group"] == name):
            cells = (
                f"{row['seconds_median']:.4f}",
                f"{row['seconds_low']:.4f} {row['seconds_high']:.4f}",
                f"{row['seconds_fastest']:.4f}",
                f"{row['ratio']:.3f}",
                f"{row['ratio_low']:.3f} {row['ratio_high']:.3f}",
            )
            lines.append(line(row["contestant"], *cells) + remark(row))
    versions = ", ".join(f"{name} {first[name]}" for name in ("numpy", "scipy", "torch") if first[name])
    lines += [
        "median of calls in turn; to ours: how many times as long as ours, quartiles of single rounds",
        f"{first['hardware']}; {first['threads']} threads; {versions}; "
        f"commit {first['commit'][:12]}{' with changes' if first['changed'] == 'true' else ''}",
    ]
    return "\n".join(lines)


def remark(row: dict[str, Any]) -> str:
    """How far a contestant's result is from ours, and how far it finds a set of half the rank from itself."""
    said = []
    if row["relative_difference"] is not None:
        said.append(f"differs by {row['relative_difference']:.0e}")
    if row["self_distance"] is not None:
        said.append(f"features of half the rank from themselves: {row['self_distance']:.1e}")
    return "  " + "; ".join(said) if said else ""


def line(name: str, *cells: str) -> str:
    """One line of the printed table: the name to the left, the cells to the right of their columns."""
    widths = (9, 16, 9, 9, 14)
    return f"{name:18}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
