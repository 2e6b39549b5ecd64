"""Samples clips from a checkpoint: a lossless folder that scoring reads, and a moving grid to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "src"), str(Path(__file__).resolve().parents[1])]

EPILOG = """\
examples:
  python benchmarks/sample.py --checkpoint results/ucf101-demo-embedded/cells/lavita-v1-s0 --out /tmp/clips --clips 16
  python benchmarks/sample.py --checkpoint FILE.safetensors --out DIR --clips 64 --seed-start 1000 --steps 50

Clip k of a call comes from seed (--seed-start + k) alone: the same seed gives the same clip in any batch.
Writes DIR/<seed>.mkv (lossless FFV1) with DIR/clips.json, and DIR.gif. Exit status: 0 done, 2 bad arguments or input.
"""


class Parser(argparse.ArgumentParser):
    """Argument errors as one line, exit status 2."""

    def error(self, message: str) -> None:
        print(f"sample.py: {message} (see sample.py --help)", file=sys.stderr)
        raise SystemExit(2)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="sample.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint.safetensors, or a cell's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips; must not hold clips yet")
    parser.add_argument("--clips", type=int, required=True, help="how many clips")
    parser.add_argument("--seed-start", type=int, default=0, help="seed of the first clip (default: 0)")
    parser.add_argument("--steps", help="sampling steps, as IDDPM respacing (default: the cell's)")
    parser.add_argument("--sampler", help="ddpm or ddim (default: the cell's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance, 1 = none (default: the cell's)")
    parser.add_argument("--classes", help="class names or indices separated by commas (default: all, in turn)")
    parser.add_argument("--condition", type=Path, help="a video to continue, for methods that take one")
    arguments = parser.parse_args(argv)
    if arguments.clips < 1:
        parser.error(f"--clips: got {arguments.clips}, wanted at least 1")
    if arguments.seed_start < 0:
        parser.error(f"--seed-start: got {arguments.seed_start}, wanted 0 or more")
    return arguments


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    file = arguments.checkpoint
    if file.is_dir():
        file = file / "checkpoint.safetensors"
    if not file.is_file():
        print(
            f"sample.py: --checkpoint: no file {file}; give a checkpoint or a finished cell's folder", file=sys.stderr
        )
        return 2
    from lavita.runner.resample import sample_checkpoint

    try:
        sample_checkpoint(
            file,
            arguments.out,
            num_clips=arguments.clips,
            seed_start=arguments.seed_start,
            changes={"steps": arguments.steps, "sampler": arguments.sampler, "guidance": arguments.guidance},
            classes=arguments.classes,
            condition=arguments.condition,
        )
    except (ValueError, OSError) as error:
        print(f"sample.py: {str(error).strip()}", file=sys.stderr)
        return 2
    print(f"{arguments.clips} clips in {arguments.out}, grid in {arguments.out.with_suffix('.gif')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
