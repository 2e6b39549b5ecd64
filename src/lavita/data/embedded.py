"""Small procedural videos, written as real files in each data set's own layout, so that nothing need be
downloaded.

They take the same path as downloaded data: read_layout, the decoder, the loader.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import scenes
from .video import write_video

SEED = 101
MARKER = ".finished"
VERSION = "1"  # raise it when a picture changes: data written before is then written anew
FPS = 25


@dataclass(frozen=True)
class _Plan:
    """scenes by class name (one without a name where the set has no classes), videos a split, frames a
    video.
    """

    scenes: dict[str, scenes.Scene]
    groups: dict[str, range]
    clips_per_group: int
    frames: int
    write: Callable[[Path, str, str, int, int, np.ndarray], None]


def write_embedded(dataset: str, folder: Path | str) -> Path:
    """Write the embedded stand-in for a data set once and return its root, folder/<dataset>, for read_layout.

    64x64 pixels, always the same videos. It is written beside its place and renamed when complete; a folder
    that is complete already is left as it is. Raises ValueError for an unknown data set, and where the
    place holds something else.
    """
    if dataset not in PLANS:
        raise ValueError(f"got data set '{dataset}', embedded data exist for: {', '.join(PLANS)}")
    root = Path(folder) / dataset
    if _finished(root):
        return root
    if root.exists() and not (root / MARKER).is_file():
        raise ValueError(f"{root}: embedded data are to be written here, but it holds something else; move it away")
    part = root.with_name(f".{dataset}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_all(PLANS[dataset], part)
        (part / MARKER).write_text(VERSION, encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)  # an older version, by its marker
        try:
            part.rename(root)
        except OSError:
            if not _finished(root):  # otherwise another process was faster, with the same videos
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _finished(root: Path) -> bool:
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == VERSION


def _write_all(plan: _Plan, root: Path) -> None:
    for number, (class_name, scene) in enumerate(plan.scenes.items()):
        for split, groups in plan.groups.items():
            for group in groups:
                for clip in range(1, plan.clips_per_group + 1):
                    # Clips of a group share their look, as videos of one source do; each moves its own way.
                    look = np.random.default_rng([SEED, number, group])
                    move = np.random.default_rng([SEED, number, group, clip])
                    plan.write(root, split, class_name, group, clip, scene(look, move, plan.frames))
    if len(plan.scenes) > 1:
        _write_lists(plan, root / "ucfTrainTestlist")


def _write_ucf101(root: Path, split: str, class_name: str, group: int, clip: int, frames: np.ndarray) -> None:
    write_video(root / "UCF-101" / class_name / _ucf101_name(class_name, group, clip), frames, FPS, lossless=False)


def _write_faceforensics(root: Path, split: str, _: str, group: int, clip: int, frames: np.ndarray) -> None:
    path = root / "preprocess_ffs" / split / "videos" / f"face{group:02d}.mp4"
    write_video(path, frames, FPS, lossless=False)


def _write_skytimelapse(root: Path, split: str, _: str, group: int, clip: int, frames: np.ndarray) -> None:
    _write_pictures(root / f"sky_{split}" / f"sky{group:02d}" / f"sky{group:02d}_{clip}", frames, digits=5)


def _write_taichi(root: Path, split: str, _: str, group: int, clip: int, frames: np.ndarray) -> None:
    _write_pictures(root / "taichi-256" / "frames" / split / f"video{group:02d}", frames, digits=7)


def _write_pictures(folder: Path, frames: np.ndarray, digits: int) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:0{digits}d}.jpg", quality=95)


def _write_lists(plan: _Plan, folder: Path) -> None:
    """classInd.txt and the lists of fold 1, as UCF101 has them."""
    folder.mkdir(parents=True)
    names = list(plan.scenes)
    (folder / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, start=1)))
    for split, groups in plan.groups.items():
        lines: Iterator[str] = (
            f"{name}/{_ucf101_name(name, group, clip)}" + (f" {index}" if split == "train" else "")
            for index, name in enumerate(names, start=1)
            for group in groups
            for clip in range(1, plan.clips_per_group + 1)
        )
        (folder / f"{split}list01.txt").write_text("".join(f"{line}\n" for line in lines))


def _ucf101_name(class_name: str, group: int, clip: int) -> str:
    return f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"


UCF101_SCENES = {
    "BounceBall": scenes.bounce_ball,
    "PulseStar": scenes.pulse_star,
    "SlideSideways": scenes.slide_sideways,
    "TurnCross": scenes.turn_cross,
}
PLANS = {
    "ucf101": _Plan(UCF101_SCENES, {"train": range(1, 7), "test": range(7, 9)}, 2, 72, _write_ucf101),
    "skytimelapse": _Plan(
        {"": scenes.drifting_clouds},
        {"train": range(1, 13), "test": range(13, 16)},
        4,
        32,
        _write_skytimelapse,
    ),
    "faceforensics": _Plan(
        {"": scenes.talking_face}, {"train": range(1, 49), "test": range(49, 61)}, 1, 72, _write_faceforensics
    ),
    "taichi": _Plan({"": scenes.slow_boxer}, {"train": range(1, 49), "test": range(49, 61)}, 1, 72, _write_taichi),
}
