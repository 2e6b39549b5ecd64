"""What this machine has for a run: memory of the device, memory that processes share, open files, disk."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import torch

from lavita.experiment.peaks import Memory
from lavita.results.provenance import peak_bytes

CGROUP, SHARED_MEMORY = Path("/sys/fs/cgroup"), Path("/dev/shm")


def device_memory() -> Memory:
    """Of the process's GPU, or the memory that the process may have where there is none; there its libraries already
    have some.
    """
    if torch.cuda.is_available():
        return Memory(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return Memory(host_memory(), peak_bytes())


def host_memory() -> int:
    """Bytes that this process may have: of the machine, or less by a control group or `ulimit -v`."""
    limits = [machine_memory(), *cgroup_limits(own_cgroups(), CGROUP)]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([*limits, *([] if address_space == resource.RLIM_INFINITY else [address_space])])


def machine_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def own_cgroups() -> list[str]:
    """The control groups of this process as /proc has them ("0::/path"); none where there is no such file."""
    path = Path("/proc/self/cgroup")
    return path.read_text().splitlines() if path.is_file() else []


def cgroup_limits(groups: list[str], root: Path) -> list[int]:
    """The memory limits of control groups and of all above them, in either version's file; those that are there."""
    found = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        # In a container the path is that of the host, and its own group is the root.
        for folder in {base, *(base / part for part in [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents])}:
            file = folder / name
            text = file.read_text().strip() if file.is_file() else "max"
            if text.isdigit():
                found.append(int(text))
    return found


def shared_memory() -> int | None:
    """Free bytes of what processes share (/dev/shm); None where there is no such place."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def free_disk(folder: Path) -> int:
    """Free bytes where a folder lies, or will."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def open_files() -> int:
    """Files that a process may have open at a time."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
