"""External samples: a folder of clips, scored like a method's own; how they were made is not audited."""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lavita.config.plan import read_config
from lavita.config.protocol import Protocol
from lavita.data.clip_folder import MANIFEST, read_clips, read_manifest, write_clips, write_grid, write_sprite
from lavita.data.video import VIDEO_SUFFIXES, probe, read_frames
from lavita.executors.heartbeat import Result, emit
from lavita.executors.process import end_with_parent
from lavita.experiment.scoring import Scorer
from lavita.results.records import read_record, write_record
from lavita.results.shared import read_shared
from lavita.sampling.generate import GRID_CLIPS

REMARK = "training not audited"


def external_clips(folder: Path, protocol: Protocol) -> np.ndarray:
    """The first clips of a folder by name, as many as the protocol scores: uint8 (N, F, H, W, 3).

    The folder is one that sample.py wrote, or holds one video per clip. Raises ValueError for clips
    that sample.py made from a real one, for too few, and for one whose frames or size are not the protocol's: cutting
    and resizing would be a choice of ours.
    """
    p = protocol
    if (folder / MANIFEST).is_file():
        condition = read_manifest(folder)["sidecar"].get("condition")
        if condition:
            raise ValueError(
                f"--samples: {folder} was made from real clips ({condition}), the rows of a suite from noise alone; "
                "give clips of task generation"
            )
        clips = read_clips(folder)
        files = [f"{folder.name}: clip {index}" for index in range(len(clips))]
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        files = [path.name for path in paths[: p.n_generated]]
        clips = [read_frames(path, range(probe(path).frames)) for path in paths[: p.n_generated]]
    if len(clips) < p.n_generated:
        raise ValueError(
            f"--samples: {folder} holds {len(clips)} clips, the protocol scores {p.n_generated}: "
            f"{p.n_generated - len(clips)} are missing"
        )
    wanted = (p.frames, p.resolution, p.resolution, 3)
    for name, clip in zip(files, clips, strict=False):
        if clip.shape != wanted:
            got = f"{clip.shape[0]} frames of {clip.shape[2]}x{clip.shape[1]}"
            raise ValueError(
                f"--samples: {name} has {got}, the protocol wants {p.frames} of {p.resolution}x{p.resolution}; cut and "
                "resize the clips as your own protocol says"
            )
    return np.stack(list(clips[: p.n_generated]))


def main(folder: Path, shared_folder: Path, source: Path) -> None:
    """Score a folder of clips and complete its record."""
    experiment = read_config(folder / "config.yaml")
    shared = read_shared(shared_folder)
    clips = external_clips(source, experiment.protocol)
    names = [f"{index:06d}" for index in range(len(clips))]
    write_clips(
        folder / "samples", clips, names, {"method": experiment.method, "cell": experiment.cell, "source": REMARK}
    )
    write_grid(folder / "samples.gif", clips[:GRID_CLIPS], columns=4)
    write_sprite(folder, "samples", clips[:GRID_CLIPS])
    scorer = Scorer(shared, experiment, "cuda" if torch.cuda.is_available() else "cpu")
    scores = scorer.score(clips, folder / "samples.npz", stage="train")
    write_record(folder, replace(read_record(folder), status="ok", reason=REMARK, scores=tuple(scores)))


if __name__ == "__main__":
    end_with_parent()
    try:
        main(*(Path(argument) for argument in sys.argv[1:4]))
        emit(Result("ok"))
    except Exception as error:  # the record must say why; the other rows stand
        traceback.print_exc()
        emit(Result("failed", str(error).strip().splitlines()[0]))
        raise SystemExit(1) from None
