"""Scores any two folders of clips under a named protocol, or several at once, without anything else of the suite."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lavita.api import evaluate
from lavita.commands.parser import Parser, exit_status
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError, one_of

EPILOG = """\
examples:
  lavita evaluate --real DIR --generated DIR --protocol suite
  lavita evaluate --real DIR --generated clips.npz --protocol latte-2024,stylegan-v,pvdm --out scores
  lavita evaluate --real DIR --generated DIR --protocol latte-2024 --clips 48 --extractor embedded:FILE
      fewer clips, another network: the name becomes latte-2024[n=48,extractor=embedded] and its hash is another one
  lavita evaluate --from-features scores
      the same numbers from the stored features; needs neither clips nor networks

A folder holds one video file or frame folder a clip, sorted by name; an .npz has the key clips, an .npy is the array:
uint8 (N, F, H, W, 3). An item of exactly as many frames as the protocol takes is a clip; a longer one is cut.
The feature network is the protocol's own: from --weights NAME=FILE, the cache (results/cache/weights), or fetched and
recorded by its sha256 (never with --offline). --extractor takes i3d, c3d, videomae, embedded:FILE or a FILE instead.
--out DIR writes record.json, real.npz, generated.npz (features float32 (n, d), names) and rows.csv; for several
protocols a folder each, and the rows of all in DIR/rows.csv.
Exit status: 0 all scores made (with --from-features: and equal to the recorded ones), 1 a score could not be made (or
differs), 2 bad arguments or input.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("--real", type=Path, help="real clips or videos: a folder, .npz or .npy")
    parser.add_argument("--generated", type=Path, help="generated clips: a folder, .npz or .npy")
    parser.add_argument("--train", type=Path, help="training videos: also the distance to them, and (with --heldout)")
    parser.add_argument("--heldout", type=Path, help="held-out videos: whether generated clips copy training clips")
    parser.add_argument(
        "--no-sanity", action="store_true", help="leave out the metric sensitivity (corrupted real clips)"
    )
    parser.add_argument("--protocol", help=f"one or more of {', '.join(names_in('protocols'))}, separated by commas")
    parser.add_argument("--clips", type=int, help="score so many clips on each side instead of the protocol's number")
    parser.add_argument("--extractor", help="i3d, c3d, videomae, embedded:FILE or FILE (default: the protocol's own)")
    parser.add_argument(
        "--frame-encoder",
        type=Path,
        metavar="PATH",
        help="also fid, by Inception (TorchScript) or DINOv2 (folder)",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="the file of a named network: i3d, i3d_pretrained_400, c3d, videomae (repeatable)",
    )
    parser.add_argument(
        "--metrics", help="of fvd, kvd, is, separated by commas (default: fvd,kvd, and is where its network is at hand)"
    )
    parser.add_argument("--offline", action="store_true", help="fetch no weights")
    parser.add_argument("--device", default=None, help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode (default: 2); scores stay the same")
    parser.add_argument("--out", type=Path, help="folder for record.json, features and rows.csv")
    parser.add_argument("--from-features", type=Path, metavar="DIR", help="recompute the scores of a folder of --out")
    parser.add_argument("overrides", nargs="*", metavar="protocol.key=value", help="other values of the protocols")
    arguments = parser.parse(list(argv))
    if arguments.from_features is None:
        missing = [name for name in ("real", "generated", "protocol") if getattr(arguments, name) is None]
        if missing:
            parser.error(f"--{missing[0]} is missing; give --real, --generated and --protocol, or --from-features")
    for name in ("clips", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < (4 if name == "clips" else 1):
            parser.error(f"--{name}: got {value}, wanted at least {4 if name == 'clips' else 1}")
    return arguments


def weights_of(items: Sequence[str]) -> dict[str, str]:
    """Files by the names of their networks. Raises ConfigError."""
    from lavita.metrics.features.load import KNOWN

    weights = {}
    for item in items:
        name, equals, file = item.partition("=")
        if not equals:
            raise ConfigError(f"--weights: got {item!r}, wanted NAME=FILE")
        one_of("--weights", name, tuple(KNOWN))
        weights[name] = file
    return weights


def names_of(flag: str, text: str, allowed: Sequence[str]) -> list[str]:
    """Names separated by commas. Raises ConfigError."""
    names = text.split(",")
    for name in names:
        one_of(flag, name, allowed)
    return names


def run(arguments: argparse.Namespace) -> int:
    from lavita.metrics.folder_record import recomputed, table

    if arguments.from_features is not None:
        comparisons, differing = recomputed(arguments.from_features)
        print(table(comparisons))
        for line in differing:
            print(f"differs from the record: {line}")
        return 1 if differing else 0
    weights = weights_of(arguments.weights)
    from lavita.metrics.table import selectable

    metrics = None if arguments.metrics is None else names_of("--metrics", arguments.metrics, selectable())
    results, reasons = evaluate(
        arguments.real,
        arguments.generated,
        names_of("--protocol", arguments.protocol, names_in("protocols")),
        clips=arguments.clips,
        extractor=arguments.extractor,
        frame_encoder=arguments.frame_encoder,
        weights=weights,
        metrics=metrics,
        overrides=arguments.overrides,
        train=arguments.train,
        heldout=arguments.heldout,
        sensitivity=not arguments.no_sanity,
        offline=arguments.offline,
        device=arguments.device,
        workers=arguments.workers,
        out=arguments.out,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if results:
        print(table(results))
    for reason in reasons:
        print(f"failed: {reason}")
    return 1 if reasons else 0


def main(argv: Sequence[str], prog: str = "lavita evaluate") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments))
