"""Samples clips from a checkpoint: a lossless folder that scoring reads, and a moving grid to look at."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lavita.api import load, sample
from lavita.commands.parser import Parser, exit_status
from lavita.files import check_new_folder

EPILOG = """\
examples:
  lavita sample --checkpoint results/ucf101-demo-embedded/cells/lavita-v1-s0 --out /tmp/clips --clips 16
  lavita sample --checkpoint FILE.safetensors --out DIR --clips 64 --seed-start 1000 --steps 50
  lavita sample --checkpoint ucf101.pt --suite ucf101-class --method lavita-v1 --out DIR --clips 16
      an official file ({"ema": ...}, {"state_dict": ...} or a bare state dict, .pt, .pth, .ckpt, .safetensors); what it
      does not say of itself comes from the suite's published setting (--tier paper), which section.key=value overrides:
      codec.path=FOLDER for the autoencoder, model.depth=12, data.resolution=128 protocol.resolution=128 ...

Clip k of a call comes from seed (--seed-start + k) alone: the same seed gives the same clip in any batch.
Writes DIR/<seed>.mkv (lossless FFV1) with DIR/clips.json, and DIR.gif. Exit status: 0 done, 2 bad arguments or input.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        required=True,
        help="a checkpoint.safetensors, a run's folder, or an official file (twice for methods of two files)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips; must not hold clips yet")
    parser.add_argument("--clips", type=int, required=True, help="how many clips")
    parser.add_argument("--seed-start", type=int, default=0, help="seed of the first clip (default: 0)")
    parser.add_argument("--steps", help="sampling steps, as IDDPM respacing (default: the run's)")
    parser.add_argument("--sampler", help="ddpm, ddim or dpm-solver++ (default: the run's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance, 1 = none (default: the run's)")
    parser.add_argument("--classes", help="class names or indices separated by commas (default: all, in turn)")
    parser.add_argument("--task", help="what is made, from noise or from the condition, for methods with several tasks")
    parser.add_argument("--condition", type=Path, help="a video to continue or complete, for methods that take one")
    parser.add_argument("--chain", type=int, help="clips of one long video, for methods that continue their own")
    parser.add_argument("--suite", help="official files only: the suite whose setting the file was trained for")
    parser.add_argument("--tier", default="paper", help="official files only: paper (default), small or demo")
    parser.add_argument("--method", help="official files only: the method that the file is a network of")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PATH",
        help="the folder of a method from outside the repository, as given to run.py (repeatable)",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="official files only: its setting")
    arguments = parser.parse(list(argv))
    if arguments.clips < 1:
        parser.error(f"--clips: got {arguments.clips}, wanted at least 1")
    if arguments.seed_start < 0:
        parser.error(f"--seed-start: got {arguments.seed_start}, wanted 0 or more")
    for path in arguments.checkpoint:
        if not path.exists():
            parser.error(f"--checkpoint: no file {path}; give a checkpoint or a finished run's folder")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    a = arguments
    check_new_folder(a.out, "--out")
    if a.out.with_suffix(".gif").exists():
        raise ValueError(f"--out: {a.out.with_suffix('.gif')} is there already; give another folder")
    loaded = load(a.checkpoint, suite=a.suite, tier=a.tier, method=a.method, overrides=a.overrides, plugins=a.plugin)
    for remark in loaded.remarks:
        print(remark, file=sys.stderr)
    sample(
        loaded,
        a.clips,
        seed_start=a.seed_start,
        steps=a.steps,
        sampler=a.sampler,
        guidance=a.guidance,
        classes=None if a.classes is None else a.classes.split(","),
        task=a.task,
        condition=a.condition,
        num_clips_chained=a.chain,
        out=a.out,
        say=lambda line: print(line, flush=True),
    )
    print(f"{a.clips} clips in {a.out}, grid in {a.out.with_suffix('.gif')}")
    return 0


def main(argv: Sequence[str], prog: str = "lavita sample") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments))
