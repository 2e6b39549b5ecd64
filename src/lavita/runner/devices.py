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


def default_workers(threads: int, devices: int = 1) -> int:
    """Cells at once: as many as have `devices` accelerators each, else as many as have `threads` cores a device."""
    return max(1, len(accelerators()) // devices or usable_cores() // (threads * devices))


def environment_of(worker: int, threads: int, devices: int = 1) -> dict[str, str]:
    """Variables of the process of a cell: its number of threads, and its accelerators where there are some.

    Raises ValueError where there are some, but fewer than the cell wants.
    """
    names = accelerators()
    if names and len(names) < devices:
        raise ValueError(f"compute.devices: {devices} wanted, but this machine has {len(names)} accelerators")
    own = [names[(worker * devices + number) % len(names)] for number in range(devices)] if names else []
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if names else {}
    return threads_of(threads) | chosen


def threads_of(threads: int) -> dict[str, str]:
    """Variables that give a process its number of threads."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
