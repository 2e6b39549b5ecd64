"""Work on many clips cut into parts, each kept as soon as it is made: who is ended goes on after the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lavita.diffusion.draws import derive_seed
from lavita.kept import Kept
from lavita.runner.seeded import seed_everything
from lavita.train import ranks, stop

SUFFIX = ".npz"
Arrays = dict[str, np.ndarray]


def in_parts(
    name: str,
    total: int,
    size: int,
    make: Callable[[slice], Arrays],
    report: Callable[[int, int], None],
    kept: Kept | None = None,
    shared: bool = False,
) -> list[Arrays]:
    """What make gives for clips 0 .. total - 1, `size` at a time, in order; every part from kept where it is there.

    Every part begins from the same state of chance, whichever process makes it. shared: processes that work together
    make every world-th part each, and the first has them all (the others none): the parts are the same, and so are the
    clips. Raises Stopped between two parts where the process is asked to end.
    """
    parts = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    if shared and ranks.world() > 1:
        for part in parts[ranks.rank() :: ranks.world()]:
            one_part(named(name, part), lambda part=part: make(part), kept)
            report(part.stop, total)
        ranks.barrier()
        if not ranks.is_first():
            return []
    found = []
    for part in parts:
        found.append(one_part(named(name, part), lambda part=part: make(part), kept))
        report(part.stop, total)
    return found


def named(name: str, part: slice) -> str:
    """The name under which a part is kept."""
    return f"{name}-{part.start:06d}"


def one_part(name: str, make: Callable[[], Arrays], kept: Kept | None) -> Arrays:
    """A part as it was kept, or made and kept."""
    path = None if kept is None else kept.find(name, SUFFIX)
    if path is not None:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    seed_everything(derive_seed("part", name))
    arrays = make()
    if kept is not None:
        kept.put(name, SUFFIX, lambda path: save(path, arrays))
        stop.check()
    return arrays


def save(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:  # numpy would put .npz behind a name
        np.savez(file, **arrays)


def joined(parts: Sequence[Arrays], key: str) -> np.ndarray:
    """One array of all parts, along the first axis."""
    return np.concatenate([part[key] for part in parts])


def drop_parts(kept: Kept, name: str) -> None:
    """Let go of the parts of a name: what was made from them is kept."""
    for part in kept.names(f"{name}-", SUFFIX):
        kept.drop(part, SUFFIX)


def seconds_of(parts: Sequence[dict[str, Any]]) -> float:
    """What all parts took, whichever processes made them."""
    return float(sum(float(part["seconds"]) for part in parts))
