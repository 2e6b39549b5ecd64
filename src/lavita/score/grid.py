"""Clips side by side, to look at: a moving grid, or a still sheet with a row a clip."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from lavita.data.video import write_video
from lavita.shape import check

GAP = 2  # white pixels between clips
SMALLEST_SIDE = 64  # smaller clips are magnified by a whole factor


def tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Return uint8 (h, w, 3): pictures (N, H, W, 3) in rows of `columns`, white between them and where none
    is left.
    """
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = GAP + number // columns * (height + GAP), GAP + number % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def write_grid(path: Path | str, clips: np.ndarray, columns: int = 4, fps: float = 8.0) -> Path:
    """Write clips, uint8 (N, F, H, W, 3), 0..255, as a picture to look at and return its path.

    .gif and .mp4: a moving grid of `columns` clips a row at fps frames a second. .png: a still sheet, a row a
    clip, a column a frame. Not for scoring. Raises ValueError for another suffix, shape or dtype, or no
    clips.
    """
    path = Path(path)
    sizes = check(clips, "N F H W 3", "clips", dtype=np.uint8)
    if not sizes["N"] or columns < 1:
        raise ValueError(f"grid: got {sizes['N']} clips in {columns} columns, wanted at least 1 of each")
    factor = max(1, SMALLEST_SIDE // max(sizes["H"], sizes["W"]))
    clips = clips.repeat(factor, axis=2).repeat(factor, axis=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        return write_video(path, moving(clips, columns), fps, lossless=False)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{suffix}")
    if suffix == ".png":
        Image.fromarray(tile(clips.reshape(-1, *clips.shape[2:]), sizes["F"])).save(part)
    elif suffix == ".gif":
        first, *rest = (Image.fromarray(frame) for frame in moving(clips, columns))
        first.save(part, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    else:
        raise ValueError(f"{path}: got suffix '{path.suffix}', allowed: .gif, .mp4, .png")
    os.replace(part, path)
    return path


def moving(clips: np.ndarray, columns: int) -> np.ndarray:
    """Return uint8 (F, h, w, 3): one grid a frame."""
    return np.stack([tile(clips[:, frame], min(columns, len(clips))) for frame in range(clips.shape[1])])
