"""Which executor a run uses for what takes long: this machine, or a Slurm cluster."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from lavita.bench.suite import CellConfig
from lavita.config import ConfigError
from lavita.runner.display import Display
from lavita.runner.local import LocalExecutor
from lavita.runner.slurm_options import slurm_parameters
from lavita.runner.slurm_queue import Queue
from lavita.runner.work import Executor

LOCAL, SLURM = "local", "slurm"  # values of --executor
FOLDER = "slurm"  # in the results folder
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


def check_executor(name: str, asked: Sequence[str], cells: Sequence[CellConfig]) -> None:
    """Raise ConfigError, before anything is done, where a run can't go by an executor."""
    if name == SLURM:
        slurm_parameters(asked)
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError("--executor slurm: submitit is not installed: pip install -e '.[slurm]'")
        missing = [command for command in COMMANDS if shutil.which(command) is None]
        if missing:
            raise ConfigError(
                f"--executor slurm: no {missing[0]} on PATH; give the command on a login node of the cluster, or "
                "without --executor slurm to run here"
            )
        return
    nodes = max((cell.compute.nodes for cell in cells), default=1)
    if nodes > 1:
        raise ConfigError(f"compute.nodes: got {nodes}, wanted 1 without --executor slurm")


def refuse_running(folder: Path) -> None:
    """Raise ConfigError where Slurm jobs of an earlier run work on a results folder, or wait to."""
    Queue(folder / FOLDER).refuse_unfinished()


def executor_of(
    name: str, asked: Sequence[str], folder: Path, workers: int | None, here: LocalExecutor, display: Display
) -> Executor:
    """The executor of a run with its results in folder; here: this machine's. workers None: no cap."""
    if name == LOCAL:
        return here
    from lavita.runner.cluster import SlurmExecutor

    return SlurmExecutor(folder / FOLDER, workers, slurm_parameters(asked), here.launcher.patience, display)
