"""The processes that worked on a cell, one after the other: when and where, how long, and what they had come to."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lavita.runner.provenance import hardware, peak_bytes, versions
from lavita.runner.pulse import PULSE, Pulse, read_pulse


def begin_sitting(record: Mapping[str, Any], progress: Path) -> list[dict[str, Any]]:
    """The sittings of a record, the last one closed by its last sign of life, and a new one for this process."""
    before = [dict(one) for one in record.get("sittings", [])]
    if before and before[-1]["ended"] == "":
        before[-1] |= closed(read_pulse(progress / PULSE), "killed")
    return [
        *before,
        {
            "host": platform.node(),
            "process": os.getpid(),
            "job": slurm_job(os.environ),
            "hardware": hardware(),
            "versions": versions(),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": "",
            "done": 0,
            "seconds": 0.0,
            "peak_bytes": 0,
            "ended": "",
        },
    ]


def slurm_job(environ: Mapping[str, str]) -> str:
    """The id by which scancel knows this process's job; "" outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID", "")


def end_sitting(sittings: list[dict[str, Any]], progress: Path, pulse: Pulse, ended: str) -> list[dict[str, Any]]:
    """The same with the last one closed; ended: ok, or the status with which it was."""
    last = read_pulse(progress / PULSE) or {}
    return [*sittings[:-1], sittings[-1] | closed(last | measured(pulse), ended)]


def measured(pulse: Pulse) -> dict[str, Any]:
    """What this process has taken so far."""
    return {"seconds": pulse.seconds, "peak_bytes": peak_bytes()}


def closed(last: Mapping[str, Any] | None, ended: str) -> dict[str, Any]:
    """How a sitting ended, and the last that is known of it."""
    known = {key: last[key] for key in ("stage", "done", "seconds", "peak_bytes") if key in last} if last else {}
    return known | {"ended": ended}


def seconds_of(sittings: list[dict[str, Any]]) -> float:
    """Seconds of all sittings, work that was lost with a kill and done again included."""
    return sum(one["seconds"] for one in sittings)


def said_once(sittings: list[dict[str, Any]], key: str) -> str:
    """What the sittings say under a key, each thing once."""
    return " then ".join(dict.fromkeys(str(one[key]) for one in sittings))
