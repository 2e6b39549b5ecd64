"""What must hold of the cells of a group before anything is trained: purses, clips enough, files from outside."""

from __future__ import annotations

from pathlib import Path

from lavita.bench.suite import CellConfig
from lavita.checkpoints import read_state
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.windows import real_windows
from lavita.runner.loading import stage_data
from lavita.runner.purse import check_purse
from lavita.whole import sha256_of


def check_cells(cells: list[CellConfig], catalogue: Catalogue, num_classes: int | None) -> list[tuple[VideoEntry, int]]:
    """The protocol's windows. Raises ValueError for whatever would end a cell later: a wrong path costs no minute."""
    cell, p = cells[0], cells[0].protocol
    if cell.conditioning == "class" and num_classes is None:
        raise ValueError(f"suite {cell.suite} is class-conditional, but {cell.data.dataset} has no classes")
    for one in cells:
        for stage, _ in check_purse(one, num_classes):
            # A batch that does not go into its passes, a video too short for what the stage reads.
            stage_data(one, catalogue, one.seed, stage.module, 0, 0)
    return real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)


def outside_hashes(cells: list[CellConfig]) -> dict[str, str]:
    """sha256 of every outside file that some cell uses. Raises ValueError before anything is trained."""
    for path in sorted({cell.pretraining.checkpoint for cell in cells} - {None}):
        read_state(path)
    paths = {path for cell in cells for path in cell.outside.values()}
    return {path: sha256_of(Path(path)) for path in sorted(paths)}
