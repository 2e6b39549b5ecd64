"""Lists the in-domain extractors that are kept with this package and checks their files; fits them anew with --fit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lavita.commands.parser import Parser, exit_status
from lavita.config.registry import checkout
from lavita.config.schema import ConfigError, one_of
from lavita.data.catalogue import dataset_names
from lavita.data.small_sets.recorded import read_small_set, small_set_names

EPILOG = """\
examples:
  lavita extractors
      name, setting and sha256 of each; a damaged file is named
  lavita extractors --fit
      all of them, in the setting of tier demo: of the synthetic sets, and of the small sets in data/NAME, where
      prepare puts them; half a minute each on one core
  lavita extractors --fit synthetic-ucf101 weizmann=/data/weizmann
      these two alone

A fit depends on the kind of processor: after it, numbers that were made with the extractors before are of other
networks, and every document that prints some needs new ones.
Exit status: 0 done, 2 bad arguments or data, or a damaged file.
"""
SYNTHETIC = "synthetic-"


def names() -> tuple[str, ...]:
    """All that are kept: of the synthetic sets, then of the small sets."""
    return (*(SYNTHETIC + name for name in dataset_names()), *small_set_names())


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("sets", nargs="*", metavar="NAME[=ROOT]", help=f"of {', '.join(names())} (default: all)")
    parser.add_argument("--fit", action="store_true", help="fit them anew and write their files")
    where = "where the files are (default: those of this package; written only in a checkout)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=where)
    parser.add_argument(
        "--cache", type=Path, default=Path("results/cache"), help="for the synthetic videos (default: results/cache)"
    )
    return parser.parse(list(argv))


def roots(sets: Sequence[str]) -> dict[str, Path | None]:
    """Where the videos of each chosen set are, by name; None for synthetic ones. Raises ConfigError."""
    found: dict[str, Path | None] = {}
    for item in sets or names():
        name, equals, root = item.partition("=")
        one_of("NAME", name, names())
        if equals and name.startswith(SYNTHETIC):
            raise ConfigError(f"NAME: got {item!r}; the videos of {name} are written here, give no ROOT")
        found[name] = None if name.startswith(SYNTHETIC) else Path(root or f"data/{name}")
    return found


def fit(name: str, root: Path | None, cache: Path, folder: Path) -> None:
    """Fit the extractor of a set in the setting of tier demo and write its files. Raises ValueError."""
    from lavita.config.plan import make_plan
    from lavita.console import Display, Progress
    from lavita.data.find import find_data
    from lavita.experiment.shared import fit_setting, trained
    from lavita.metrics.features.published import write_published
    from lavita.metrics.features.stretches import read_stretches

    dataset = name.removeprefix(SYNTHETIC) if root is None else read_small_set(name).dataset
    experiment = make_plan(dataset, "demo", None, None, [f"data.root={root}"] if root else [])[0]
    catalogue = find_data(experiment.data, dataset, "demo", cache).catalogue
    setting = fit_setting(experiment, len(catalogue.class_names) or None)
    display = Display()
    channel = display.channel(name)
    try:
        stretches = read_stretches(
            catalogue.split("train"), setting.frames, setting.interval, setting.resolution,
            lambda done, total: channel.show(Progress("videos", done, total)),
        )  # fmt: skip
        extractor = trained(
            setting, stretches, lambda done, total, loss: channel.show(Progress("extractor", done, total, loss))
        )
    finally:
        channel.close()
        display.end()
    display.line(f"{name}: {stretches.text()}; kinds right: {extractor.facts['kinds_right']:.0%}")
    write_published(name, extractor, stretches, setting, folder)


def run(arguments: argparse.Namespace) -> int:
    from lavita.metrics.features.published import FOLDER, check_hash, published

    chosen, folder = roots(arguments.sets), arguments.out or FOLDER
    if arguments.fit:
        if arguments.out is None and checkout() is None:
            raise ConfigError("--fit: this package is installed, its files stay as they are; give --out DIR")
        for name, root in chosen.items():
            fit(name, root, arguments.cache, folder)
    for one in published(folder):
        if one.name in chosen:
            check_hash(one.name, one.file, one.sha256)
            s, size = one.setting, sum(one.file.with_suffix(end).stat().st_size for end in (".safetensors", ".csv"))
            print(
                f"{one.name}: {len(one.videos)} training videos, {s.frames} frames of {s.resolution}x{s.resolution} at "
                f"interval {s.interval}, {s.steps} steps, {size / 1000:.0f} kB, sha256 {one.sha256}"
            )
    return 0


def main(argv: Sequence[str], prog: str = "lavita extractors") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments), interrupted="what was fitted before is kept")
