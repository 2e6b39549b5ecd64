"""Checks a copy of a data set by decoding every file, and writes a manifest that says exactly what it consists of."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lavita.commands.parser import Parser, exit_status
from lavita.config.schema import one_of
from lavita.data.catalogue import dataset_names
from lavita.data.small_sets.recorded import read_small_set, small_set_names

EPILOG = """\
examples:
  lavita prepare ucf101 /data/ucf101
  lavita prepare ucf101 /data/ucf101 --download
      first fetch the videos and lists from where the data set is published, resuming where a dead attempt stopped
  lavita prepare weizmann data/weizmann --download
      a small set for a first run, made from what others published: 72 clips, in UCF101's layout
  lavita prepare skytimelapse /readonly/sky --manifest sky.csv
  lavita prepare skytimelapse /readonly/sky --manifest sky.csv --verify
      is this copy still, file by file, the one that the manifest describes?

The manifest is a CSV, one row per video: path,video_id,group,class,split,frames,fps,width,height,sha256,status,reason.
status is ok, unreadable (broken or truncated), too_short, duplicate (same content or id as an earlier video, or a group
that stands in both splits), empty or not_video. The fingerprint is the sha256 of the sorted lines "video_id sha256
split"; it is the one that stands in every row of a table. Good results are remembered, so that run.py need not decode
again what did not change. Of a small set, every frame is also compared with the recorded hashes.
Exit status: 0 all videos are ok (with --verify: and equal to the manifest; of a small set: and as recorded), 1
otherwise, 2 bad arguments or data.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    sets = f"one of {', '.join(dataset_names())}, or a small set: {', '.join(small_set_names())}"
    parser.add_argument("dataset", metavar="DATASET", help=sets)
    parser.add_argument("root", metavar="ROOT", type=Path, help="the folder that holds the data set's tree")
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="where the manifest is (default: ROOT/manifest.csv)"
    )
    parser.add_argument("--verify", action="store_true", help="compare with the manifest instead of writing it")
    parser.add_argument("--download", action="store_true", help="first fetch what may be fetched into ROOT")
    parser.add_argument("--fold", type=int, help="fold of UCF101's lists, 1 to 3 (default: 1)")
    parser.add_argument("--frames", type=int, default=16, help="frames that a video must hold a clip of (default: 16)")
    parser.add_argument("--interval", type=int, default=1, help="frame interval of that clip (default: 1)")
    parser.add_argument("--workers", type=int, help="files decoded at once (default: one per core)")
    parser.add_argument(
        "--cache", type=Path, default=Path("results/cache"), help="where results are kept (default: results/cache)"
    )
    arguments = parser.parse(list(argv))
    for name in ("frames", "interval", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: got {value}, wanted at least 1")
    try:
        one_of("DATASET", arguments.dataset, (*dataset_names(), *small_set_names()))
    except ValueError as error:
        parser.error(str(error))
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Fetch where asked, then check; returns the exit status."""
    # Imported late: --help and wrong arguments must not wait for the decoder.
    from lavita.data.prepare import Options, prepare

    if arguments.download:
        from lavita.data.prepare import fetched

        if not fetched(arguments.dataset, arguments.root):
            return 1
    values = {key: value for key, value in vars(arguments).items() if key != "download"} | {"small_set": None}
    if arguments.dataset in small_set_names():
        values |= {"small_set": arguments.dataset, "dataset": read_small_set(arguments.dataset).dataset}
    return prepare(Options(**values))


def main(argv: Sequence[str], prog: str = "lavita prepare") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments), interrupted="the same command resumes")
