"""External samples: a folder of clips, scored like a method's own; how they were made is not audited."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lavita.config.plan import read_config
from lavita.config.protocol import Protocol
from lavita.data.clip_folder import MANIFEST, read_manifest, write_clips, write_grid, write_sprite
from lavita.data.decoding.containers import VIDEO_SUFFIXES
from lavita.data.video import probe, read_frames
from lavita.executors.heartbeat import Result, emit
from lavita.executors.process import end_with_parent
from lavita.experiment.scoring import Scorer
from lavita.files import sha256_of
from lavita.results.records import read_record, write_record
from lavita.results.shared import read_shared
from lavita.sampling.generate import GRID_CLIPS
from lavita.training import distributed

REMARK = "training not audited"


class ExternalClips(Sequence[np.ndarray]):
    """Clips uint8 (F, H, W, 3) in files, each read when it is asked for: thousands would fill the memory. A slice of
    them is an array. Raises ValueError for one whose frames or size are not the protocol's: cutting and resizing would
    be a choice of ours; and for one that is not the file that its folder's list names.

    names: for messages, one a file; hashes: sha256 of each file, "" where nobody wrote it down.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str], hashes: Sequence[str], protocol: Protocol) -> None:
        self.files, self.names, self.hashes = list(files), list(names), list(hashes)
        self.shape = (protocol.frames, protocol.resolution, protocol.resolution, 3)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return np.stack([self[number] for number in range(len(self))[index]])
        path = self.files[index]
        if self.hashes[index] and sha256_of(path) != self.hashes[index]:
            raise ValueError(f"{path}: is not the file that was written (its sha256 differs); sample again")
        clip = read_frames(path, range(probe(path).frames))
        if clip.shape != self.shape:
            got = f"{clip.shape[0]} frames of {clip.shape[2]}x{clip.shape[1]}"
            frames, side = self.shape[:2]
            raise ValueError(
                f"--samples: {self.names[index]} has {got}, the protocol wants {frames} of {side}x{side}; cut and "
                "resize the clips as your own protocol says"
            )
        return clip


def external_clips(folder: Path, protocol: Protocol) -> ExternalClips:
    """The first clips of a folder by name, as many as the protocol scores.

    The folder is one that sample.py wrote, or holds one video per clip. Raises ValueError for clips that sample.py made
    from a real one, and for too few.
    """
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        condition = manifest["sidecar"].get("condition")
        if condition:
            raise ValueError(
                f"--samples: {folder} was made from real clips ({condition}), the rows of a suite from noise alone; "
                "give clips of task generation"
            )
        entries = sorted(manifest["clips"], key=lambda entry: entry["name"])
        files = [folder / entry["file"] for entry in entries]
        names = [f"{folder.name}: clip {index}" for index in range(len(entries))]
        hashes = [entry["sha256"] for entry in entries]
    else:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
        names, hashes = [path.name for path in files], [""] * len(files)
    n = protocol.n_generated
    if len(files) < n:
        raise ValueError(
            f"--samples: {folder} holds {len(files)} clips, the protocol scores {n}: {n - len(files)} are missing"
        )
    return ExternalClips(files[:n], names[:n], hashes[:n], protocol)


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
    scorer = Scorer(shared, experiment, str(distributed.own_device()))
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
