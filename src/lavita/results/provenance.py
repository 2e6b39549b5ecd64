"""Where a number came from: commit, versions, hardware. Facts of the run, no opinions."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

from lavita.config.registry import checkout
from lavita.data.ahead import usable_cores

PACKAGES = ("torch", "lightning", "diffusers", "torchmetrics", "numpy", "av")


def git(*arguments: str) -> str | None:
    """Output of a git command in the checkout, or None where there is no git or no checkout."""
    root = checkout()
    if root is None:
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> tuple[str, str]:
    """(commit, "true" | "false" | "unknown"): the second says whether source files differ from the commit."""
    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", "src", "baselines", "benchmarks", "configs")
    if head is None or changed is None:
        return "unknown", "unknown"
    return head, "true" if changed else "false"


def versions() -> str:
    """Python and package versions as "python 3.11.7; torch 2.13.0; ..."."""
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return "; ".join(found)


def hardware() -> str:
    """The processor, its usable cores, and the accelerator where there is one."""
    text = f"{processor_name()}, {usable_cores()} cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        text += f"; {torch.cuda.get_device_name()}"
    return text


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_bytes() -> int:
    """Peak of this process: torch's on a GPU, else the resident set, in bytes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
