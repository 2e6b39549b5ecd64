"""A whole suite: plan, data, shared artifacts, one process per run, tables. No torch in this process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lavita.audit.files import REPORT
from lavita.audit.run import audit, fails_closed
from lavita.config.compose import Experiment
from lavita.config.schema import ConfigError
from lavita.console import Display, Progress, invocation, this_command
from lavita.data.find import DataSource
from lavita.executors.base import Executor, LocalExecutor, Work, default_workers, shown
from lavita.executors.process import Interrupted, Launcher, disk_error_text, is_disk_error
from lavita.executors.slurm_options import LOCAL, check_executor, read_slurm_options
from lavita.executors.slurm_queue import FOLDER as SLURM_FOLDER
from lavita.executors.slurm_queue import Queue
from lavita.files import atomic_write_text, check_text, check_writable_folder
from lavita.lock import FolderLock
from lavita.report.overview import write_overview
from lavita.report.page import report_html
from lavita.report.significance import sentence
from lavita.report.terminal import noise_text, terminal_text
from lavita.report.write import TABLES, tables_of_run
from lavita.results.attempts import LOCK, PARTS, PLAN, remove_begun
from lavita.results.audit_line import FAIL
from lavita.results.provenance import commit
from lavita.results.run_folder import RunFolder, read_run, refuse_links
from lavita.suite.artifacts import CHECK, Group, grouped, make_shared_artifacts
from lavita.suite.run_experiments import Options, run_experiments


def show_results(folder: Path, display: Display) -> bool:
    """Tables, audit, page and, last, the digest of a results folder; False where the audit fails as audit.py has it."""
    run = show_tables(folder, display)
    lines = audit(run)
    atomic_write_text(folder / REPORT, report_html(run, lines))
    failed = [line for line in lines if line.verdict == FAIL]
    for line in failed:
        display.line(f"audit: FAIL {line.check}: {line.where}: {line.text}")
    display.line(f"audit: {len(lines)} checks, {len(failed)} failed ({invocation('audit')} {shown(folder)})")
    overview = write_overview(run)
    beside = f"; samples side by side: {overview.name}" if overview else ""
    display.line(f"all on one page: {shown(folder)}/{REPORT}{beside}")
    display.line(f"digest {run.digest}")
    return not fails_closed(run, lines)


def show_tables(folder: Path, display: Display) -> RunFolder:
    """Write every table of a results folder, and print what fits a terminal."""
    run = read_run(folder)
    tables = tables_of_run(run)
    for name in TABLES:
        if name in tables.texts:
            atomic_write_text(folder / name, tables.texts[name])
        else:
            (folder / name).unlink(missing_ok=True)
    for facts, frame in tables.blocks:
        display.line("")
        if len(tables.blocks) > 1:
            display.line(facts)
        display.line(terminal_text(frame))
    noise = [one.cell for one in tables.noise if one.distinguished is False]
    if noise:
        display.line(f"{noise_text(noise)}\n")
    for pair in tables.pairs:
        display.line(f"{pair.choice} against {pair.against}: {sentence(pair)}")
    files = ", ".join(name for name in TABLES if name in tables.texts)
    display.line(f"tables: {shown(folder)}/{files}; samples: cells/<cell>/samples.gif")
    for one in run.others:
        display.line(f"left out of the tables: {one.name}: {one.left_out}")
    return run


COMPARISON = "record.json"  # what evaluate leaves in its folder
INTERRUPTED = 130  # exit status, as shells have it of a Ctrl-C


@dataclass(frozen=True)
class Finished:
    """How a suite run ended. status: 0 where every run is ok and the audit passes, else 1; INTERRUPTED after Ctrl-C or
    SIGTERM. folder: of the results, None where it was interrupted before.
    """

    status: int
    folder: Path | None = None


def run_suite(experiments: Sequence[Experiment], options: Options) -> Finished:
    """Run a plan and write its tables. Raises ValueError, OSError."""
    check_commit(options.publishable)
    check_executor(options.executor, options.slurm, experiments)
    display = Display()
    try:
        cache = (options.cache or Path("results/cache")).resolve()
        check_text(cache, "--cache")
        check_text((options.out or cache).absolute(), "--out")
        groups = found_data(experiments, cache, display)
        work = work_of(experiments, groups[0].source, cache, options, display)
        with FolderLock(work.folder / LOCK, "run.py"):
            refuse_links(work.folder)
            Queue(work.folder / SLURM_FOLDER).refuse_unfinished()
            clear(work.folder)
            return Finished(run_locked(work, groups, options), work.folder)
    except (KeyboardInterrupt, Interrupted):
        display.end()
        display.line("interrupted; the same command resumes what is not finished:")
        display.line(f"  {this_command()}")
        return Finished(INTERRUPTED)
    except OSError as error:
        if not is_disk_error(error):
            raise
        text = disk_error_text(error)
        raise ValueError(f"{text}; mend that, and the same command resumes: nothing is lost") from None
    finally:
        display.end()


def clear(run: Path) -> None:
    """Remove what runs that were killed have left unfinished of what a run itself writes."""
    for path in run.glob(".*.part"):
        path.unlink()
    for path in run.glob(f"{CHECK}*"):
        shutil.rmtree(path)
    for part in PARTS:
        remove_begun(run / part)


def work_of(
    experiments: Sequence[Experiment], source: DataSource, cache: Path, options: Options, display: Display
) -> Work:
    """Where the run writes and what it starts processes with. Raises ConfigError, OSError."""
    suite, tier, threads = experiments[0].suite, experiments[0].tier, experiments[0].compute.threads
    folder = (options.out or Path("results") / f"{suite}-{tier}-{source.name}").resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file, wanted a folder")
    if (folder / COMPARISON).is_file() and not (folder / PLAN).is_file():
        raise ConfigError(f"--out: {folder} holds a comparison of evaluate, not runs; give another folder")
    check_writable_folder(folder, "--out")
    local = options.executor == LOCAL
    here_at_once = default_workers(threads, experiments[0].compute.devices)
    workers = min(options.workers or (here_at_once if local else len(experiments)), len(experiments))
    where = "" if local else " as jobs of Slurm"
    display.line(
        f"{suite}, tier {tier}, {source.label}: {len(experiments)} runs, {workers} at a time{where}, {threads} threads "
        f"each; results in {shown(folder)}"
    )
    here = LocalExecutor(workers if local else here_at_once, Launcher(options.hang_timeout), display)
    executor = here if local else slurm_executor(experiments, folder, options, display)
    return Work(folder, cache, executor, here, display)


def slurm_executor(experiments: Sequence[Experiment], folder: Path, options: Options, display: Display) -> Executor:
    """Starts the runs as jobs of a cluster. Raises ConfigError."""
    from lavita.executors.slurm import SlurmExecutor
    from lavita.experiment.disk import largest_checkpoint  # needs torch, which a local run leaves out here

    slurm = read_slurm_options(options.slurm, largest_checkpoint(experiments))
    return SlurmExecutor(folder / SLURM_FOLDER, options.workers, slurm, options.hang_timeout, display)


def run_locked(work: Work, groups: Sequence[Group], options: Options) -> int:
    """Shared artifacts, runs, tables; 0 where every run is ok and the audit passes, else 1."""
    try:
        bad = run_experiments(work, make_shared_artifacts(work, groups), options)
        work.display.end()
    except (KeyboardInterrupt, Interrupted):
        work.display.end()
        if (work.folder / PLAN).is_file():
            show_tables(work.folder, work.display)
        raise
    return 1 if not show_results(work.folder, work.display) or bad else 0


def found_data(experiments: Sequence[Experiment], cache: Path, display: Display) -> list[Group]:
    """The groups of the runs with their data; each video that is left out is said once, with its reason."""
    channel = display.channel("data")
    try:
        groups = grouped(
            experiments,
            cache,
            lambda done, total: channel.show(Progress("checked", done, total)),
        )
    finally:
        channel.close()
        display.end()
    found = [group.source.catalogue for group in groups]
    for note in dict.fromkeys(f"{catalogue.root}/{note}" for catalogue in found for note in catalogue.notes):
        display.line(f"  left out: {note}")
    return groups


def check_commit(publishable: bool) -> None:
    """Raise ConfigError where a table is to be published and the code is not a clean commit."""
    head, dirty = commit()
    if publishable and dirty != "false":
        state = "has uncommitted changes" if dirty == "true" else "is in no repository that git can read"
        raise ConfigError(f"--publishable: the code at commit {head[:12]} {state}; commit it first")
