"""The loader of a stage, the same for methods and for the suite's own codec."""

from __future__ import annotations

from lavita.bench.suite import CellConfig
from lavita.data.catalogue import Catalogue
from lavita.data.latents import LatentCache
from lavita.data.module import ClipDataModule
from lavita.train import ranks
from lavita.train.module import TrainedStage


def stage_data(
    cell: CellConfig,
    catalogue: Catalogue,
    seed: int,
    module: TrainedStage,
    start: int,
    stop: int,
    latents: LatentCache | None = None,
    whole: bool = False,
) -> ClipDataModule:
    """Training clips start .. stop - 1 under a seed with what the stage wants beside them, in batches of one pass: this
    process's part of each, or whole ones.

    latents: stored moments, for a stage that reads latents. Raises ValueError for a batch that cannot be cut so.
    """
    d, batch, passes = cell.data, module.train_config.batch_clips, cell.compute.accumulate_batches
    check_batch(cell, module, start)
    return ClipDataModule(
        with_past(catalogue, cell, module),
        frames=d.frames,
        interval=d.interval,
        resolution=d.resolution,
        flip=d.flip,
        seed=seed,
        batch=batch // passes,
        start=start,
        stop=stop,
        num_workers=d.num_workers,
        cache_bytes=d.cache_bytes,
        images=module.joint_images,
        past=module.past_frames,
        frame_choice=d.frame_choice,
        latents=latents if module.reads_latents else None,
        rank=0 if whole else ranks.rank(),
        world=1 if whole else ranks.world(),
    )


def check_batch(cell: CellConfig, module: TrainedStage, start: int) -> None:
    """Raise ValueError unless the stage's batch goes into its passes and processes, all of them in the same turn."""
    batch, passes, processes = module.train_config.batch_clips, cell.compute.accumulate_batches, cell.compute.processes
    if batch % passes:
        raise ValueError(
            f"compute.accumulate_batches: {passes} does not divide the batch of {batch} clips of {cell.method}"
        )
    if batch % (passes * processes):
        raise ValueError(
            f"compute.devices: {processes} processes with {passes} passes each do not divide the batch of {batch} "
            f"clips of {cell.method}"
        )
    if module.turns > 1 and start % batch and passes * processes > 1:
        raise ValueError(
            f"stage {module.stage_name} of {cell.method} takes turns by batches of {batch} clips and begins at clip "
            f"{start}: several passes or processes would be in different turns; set compute.devices, nodes and "
            "accumulate_batches to 1"
        )


def with_past(catalogue: Catalogue, cell: CellConfig, module: TrainedStage) -> Catalogue:
    """The catalogue without videos too short for a clip and the frames before it, where such may be left out.

    Raises ValueError where they may not, or where none is left.
    """
    d = cell.data
    try:
        return catalogue.long_enough(d.frames + module.past_frames, d.interval, d.short_videos, d.frame_choice)
    except ValueError as error:
        note = f" ({module.past_frames} of these frames are those before each clip of {cell.method})"
        raise ValueError(f"{error}{note if module.past_frames else ''}") from None
