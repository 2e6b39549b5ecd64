"""Trains every method of a suite under one budget, samples, scores, and writes the comparison tables as CSV."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from lavita.api import SAMPLES_WANTED, compose, samples_of
from lavita.commands.parser import Parser, exit_status
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError, nearest

EXECUTORS = ("local", "slurm")
EPILOG = """\
examples:
  lavita run --suite ucf101 --tier demo
      minutes on a CPU, on small videos that the code draws itself
  lavita run --suite ucf101 --tier demo data.root=DIR --methods lavita-v1,dit
      the same on real videos; DIR holds UCF-101/ and ucfTrainTestlist/
  lavita run --suite skytimelapse data.root=DIR budget.clips=3200000
      the published setting (tier paper) with a smaller budget
  lavita run --suite ucf101 --dry-run
      parameters, FLOPs and memory of every run and stage of the published setting; needs no data
  lavita run --suite ucf101 data.root=DIR --executor slurm --slurm partition=gpu --slurm gpus_per_node=1
      the published setting, one job of a Slurm cluster per run (docs/clusters.md)

Any value of the configuration can be overridden as section.key=value; the resolved configuration of every run is
written to its folder. The same command again skips finished runs and resumes the others where they were; a
run is finished only with the same code, libraries, configuration, data, weights and protocol. What failed stays so
unless --retry-failed is given. checkpoint.every_clips and checkpoint.every_minutes say how much training a kill may
cost.
With --executor slurm the same holds: this command submits the jobs, shows how far they are and waits for them. Results,
cache, data and the environment must be on a file system that all nodes see. Ctrl-C ends the jobs where they can resume.
Results go to results/<suite>-<tier>-<data name>/: rows.csv (one score per row), table.csv and
table.md (one method per row), cells/<cell>/ (configuration, log, checkpoint, samples).
Dry run: one line per run and stage (codec, extractor, autoencoder, autoencoder-gan, train, sample, score). FLOPs are
counted, 2 per multiply-add: forward is that of the network that the stage trains (codec: encoding and decoding; sample:
all steps of a clip; score: the feature network), train is forward and backward of the loss with encoding. steps of
sample are network evaluations. est_peak_bytes: of the device, for as many clips a pass as fit it (compute.pass_clips);
below the table stand each row's passes, and last whether the device has memory for all. est_disk_bytes: checkpoint,
logs, features, lossless clips (taken as raw); what runs share is counted in each; empty for a latent cache whose frames
nobody counted. With --probe: est_seconds of every stage (sample: trained and untrained) and est_sampling_seconds (the
generated clips once: forward pass times steps, twice with guidance) at this machine's rate on a transformer block:
lower bounds. done: the results folder holds the run finished
with the same configuration. On a terminal hours, disk and FLOPs of all runs and the largest ones follow the table.
A run ends with its audit (lavita audit) and, last, its digest: quoted beside the numbers it lets anybody check
that a folder is the one they came from. Nothing is written over: a run that is repeated is <cell>.2, <cell>.3, ...
Exit status: 0 all well, 1 some run or check of the audit failed, 2 bad arguments, no data, a folder that can't be
written or is in use, 130 interrupted.
"""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__, EPILOG)
    parser.add_argument("--suite", required=True, help=f"one of {', '.join(names_in('suites'))}")
    parser.add_argument(
        "--tier",
        default="paper",
        help="paper (256x256, XL/2, default), small (64x64, hours on a GPU) or demo (32x32, minutes on a CPU)",
    )
    parser.add_argument("--methods", help="names separated by commas (default: all of the suite)")
    parser.add_argument("--seeds", help="training seeds separated by commas (default: the suite's, mostly 0)")
    parser.add_argument(
        "--workers",
        type=int,
        help="runs at once (default: one per accelerator, else cores / compute.threads; with --executor slurm all)",
    )
    parser.add_argument(
        "--executor",
        default="local",
        help="local (default) or slurm: one job per run, requeued before its time limit and when preempted",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --executor slurm: partition, time (minutes), mem_gb, gpus_per_node, account, qos, constraint, setup "
        "(a line of shell before each job), any other long option of sbatch (repeatable)",
    )
    parser.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="add a folder of clips as a row of its own, marked 'training not audited' (repeatable)",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PATH",
        help="add a method from outside the repository: its folder, as docs/adding_a_method.md says (repeatable)",
    )
    parser.add_argument("--out", type=Path, help="results folder (default: results/<suite>-<tier>-<data name>)")
    parser.add_argument("--cache", type=Path, help="folder for autoencoders and extractors (default: results/cache)")
    parser.add_argument("--fresh", action="store_true", help="begin every run anew, finished ones too")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try failed runs again: from where they were, or from the start after a divergence",
    )
    parser.add_argument(
        "--hang-timeout",
        type=float,
        default=60.0,
        metavar="MINUTES",
        help="a process without a heartbeat for so long is ended as hung (default: 60)",
    )
    # The flag's old name.
    parser.add_argument("--patience", type=float, dest="hang_timeout", help=argparse.SUPPRESS)
    parser.add_argument(
        "--publishable", action="store_true", help="mark the tables so; refused unless the code is a clean commit"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what every run would cost, stage by stage; needs no data"
    )
    parser.add_argument("--csv", metavar="FILE", help="with --dry-run: write it as CSV too; - prints the CSV alone")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="with --dry-run: measure this machine's rate for some seconds, estimate hours",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="with --dry-run: plan for a GPU with so much memory and not for this machine; hours are then those of an "
        "H100 at 0.4 of its 989 TFLOP/s (bfloat16)",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides of the configuration")
    arguments = parser.parse(list(argv))
    if arguments.workers is not None and arguments.workers < 1:
        parser.error(f"--workers: got {arguments.workers}, wanted at least 1")
    if not arguments.hang_timeout > 0:
        parser.error(f"--hang-timeout: got {arguments.hang_timeout:g}, wanted more than 0")
    if arguments.executor not in EXECUTORS:
        hint = nearest(arguments.executor, EXECUTORS)
        parser.error(f"--executor: got {arguments.executor!r}, {hint}")
    if arguments.slurm and arguments.executor != "slurm":
        parser.error("--slurm goes with --executor slurm")
    if not arguments.dry_run and (arguments.csv or arguments.probe):
        parser.error(f"{'--csv' if arguments.csv else '--probe'} goes with --dry-run; a run writes rows.csv by itself")
    if arguments.memory is not None and not arguments.dry_run:
        parser.error("--memory goes with --dry-run; a run asks its own device")
    if arguments.memory is not None and not 0 < arguments.memory < float("inf"):
        parser.error(f"--memory: got {arguments.memory:g}, wanted GiB above 0")
    return arguments


def seeds_of(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds: got {text!r}, wanted whole numbers separated by commas, for example 0,1") from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds: got {text!r}, wanted different numbers, 0 or more")
    return seeds


def named_folders(items: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of NAME=DIR. Raises ConfigError."""
    for item in items:
        if "=" not in item:
            raise ConfigError(f"--samples: got {item!r}, {SAMPLES_WANTED}")
    return [(name, folder) for name, _, folder in (item.partition("=") for item in items)]


def run(arguments: argparse.Namespace) -> int:
    """The dry run or the run itself; returns the exit status."""
    methods = [name for name in (arguments.methods or "").split(",") if name] or None
    seeds = None if arguments.seeds is None else seeds_of(arguments.seeds)
    from lavita.suite.match import match_parameters

    asked = (arguments.suite, arguments.tier, methods, seeds, arguments.overrides)
    experiments = compose(*asked, plugins=arguments.plugin)
    experiments, flags = match_parameters(experiments, arguments.overrides)
    if arguments.dry_run:
        from lavita.suite.dry_run import dry_run

        dry_run(experiments, arguments.csv, arguments.probe, arguments.out, arguments.memory)
        return 0
    from lavita.suite.run import run_suite
    from lavita.suite.run_experiments import Options

    labels = [experiment.label for experiment in experiments]
    samples = samples_of(named_folders(arguments.samples), names_in("methods") + labels)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends a run as cleanly as Ctrl-C does
    finished = run_suite(
        experiments,
        Options(
            out=arguments.out,
            cache=arguments.cache,
            fresh=arguments.fresh,
            retry=arguments.retry_failed,
            workers=arguments.workers,
            hang_timeout=60 * arguments.hang_timeout,
            executor=arguments.executor,
            slurm=arguments.slurm,
            samples=samples,
            flags=flags,
            publishable=arguments.publishable,
        ),
    )
    return finished.status


def main(argv: Sequence[str], prog: str = "lavita run") -> int:
    """Run the command with its arguments; returns the exit status."""
    arguments = parse(argv, prog)
    return exit_status(prog, lambda: run(arguments))
