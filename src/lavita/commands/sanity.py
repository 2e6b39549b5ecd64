"""What a feature network is sensitive to: held-out clips against each other, corrupted, and against other data sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lavita.commands.parser import Parser, exit_status
from lavita.config.schema import ConfigError, one_of
from lavita.data.catalogue import dataset_names

EPILOG = """\
examples:
  lavita sanity skytimelapse SKY --other ucf101=WEIZMANN --other taichi=TAICHI
      trains the in-domain extractor on the training split (minutes on a CPU at 64 pixels), then measures
  lavita sanity skytimelapse SKY --extractor untrained-i3d
      the same table for an I3D that was never trained
  lavita sanity ucf101 WEIZMANN --extractor net.safetensors --by-video
      halves that share no person or other source; an extractor that --save kept

Rows: half A of the held-out windows against half B (the real-vs-real baseline), and against half B corrupted, or as
many clips of another data set; mean, least and greatest of 20 random splits. The verdict asks for three times the
baseline and no overlap.
Exit status: 0 measured, 2 bad arguments or data.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("dataset", metavar="DATASET", help=f"one of {', '.join(dataset_names())}")
    parser.add_argument("root", metavar="ROOT", type=Path, help="the folder that holds the data set's tree")
    parser.add_argument(
        "--other", action="append", default=[], metavar="DATASET=ROOT", help="clips of another data set (repeatable)"
    )
    parser.add_argument("--resolution", type=int, default=64, help="pixels per side (default: 64)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip (default: 16)")
    parser.add_argument("--interval", type=int, default=1, help="frame interval (default: 1)")
    parser.add_argument("--hop", type=int, help="frames from one window to the next (default: no frame is shared)")
    by_video = "halves share no group of videos of one source; no video, where there are under 4 groups"
    parser.add_argument("--by-video", action="store_true", help=by_video)
    parser.add_argument(
        "--extractor", default="embedded", help="embedded (trained here, default), untrained-i3d, or a name or file"
    )
    parser.add_argument("--steps", type=int, default=300, help="training steps of the in-domain one (default: 300)")
    parser.add_argument("--save", type=Path, metavar="FILE.safetensors", help="keep the in-domain extractor")
    arguments = parser.parse(list(argv))
    for name in ("resolution", "frames", "interval", "hop", "steps"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: got {value}, wanted at least 1")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    one_of("DATASET", arguments.dataset, dataset_names())
    others = {}
    for item in arguments.other:
        name, equals, root = item.partition("=")
        if not equals:
            raise ConfigError(f"--other: got {item!r}, wanted DATASET=ROOT")
        one_of("--other", name, dataset_names())
        others[name] = Path(root)
    from lavita.metrics.sanity import Options, measure_sensitivity

    values = {key: value for key, value in vars(arguments).items() if key != "other"}
    print(measure_sensitivity(Options(**values, others=others), lambda line: print(line, file=sys.stderr, flush=True)))
    return 0


def main(argv: Sequence[str], prog: str = "lavita sanity") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments))
