"""What a run is asked for, beside its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lavita.runner.executors import LOCAL


@dataclass(frozen=True)
class Options:
    """out, cache: folders, None for the usual ones. fresh: begin every cell anew; retry: run again what failed.

    workers None: as many cells at once as there are accelerators, or as the cores have room for. patience: seconds
    without a sign of life after which a process is ended as hung. samples: folders of clips made elsewhere, by the
    names of their rows. executor, slurm: what runs the cells, and what of Slurm is asked for. flags: what rows must say
    of themselves, by their names. publishable: the tables are marked so, and only a clean commit makes them.
    """

    out: Path | None = None
    cache: Path | None = None
    fresh: bool = False
    retry: bool = False
    workers: int | None = None
    patience: float = 3600.0
    executor: str = LOCAL
    slurm: Sequence[str] = ()
    samples: Mapping[str, Path] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    publishable: bool = False
