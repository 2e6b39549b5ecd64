"""Where cells run: accelerators, how many cells at once, what each process may use. No torch here."""

from __future__ import annotations

import os
from pathlib import Path


def accelerators() -> list[str]:
    """Names of the GPUs that a process may use, as CUDA_VISIBLE_DEVICES spells them; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in found if name.isdigit()), key=int)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(threads: int) -> int:
    """Cells at once: one an accelerator, else as many as have `threads` cores each."""
    return len(accelerators()) or max(1, usable_cores() // threads)


def environment_of(worker: int, threads: int) -> dict[str, str]:
    """Variables of the process of a cell: its number of threads, and its accelerator where there are some."""
    names = accelerators()
    device = {"CUDA_VISIBLE_DEVICES": names[worker % len(names)]} if names else {}
    return threads_of(threads) | device


def threads_of(threads: int) -> dict[str, str]:
    """Variables that give a process its number of threads."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
