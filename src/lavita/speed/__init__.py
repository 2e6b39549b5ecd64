"""Measured speed. A subcommand of benchmarks/speed.py is one module here and one line of COMMANDS.

The module has `add_options(parser)` and `run(options) -> None`, imports nothing heavy at its top (so that --help comes
at once), and raises ValueError or OSError, in one line, for what the user can mend.
"""

COMMANDS = {
    "data": "the loader's clips beside decoding whole videos for each, and beside cached latents",
    "model": "the training step of LAVITA beside a plain version and the official network",
    "gpu": "what a full-size run depends on, part by part, on the accelerator that is there",
    "score": "the Frechet distance beside scipy's matrix root, resamples for an interval, and I3D features",
}
