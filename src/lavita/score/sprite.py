"""Clips as one picture whose frames lie below each other: for pages, where a GIF can't be paused and loses colours."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lavita.score.grid import moving
from lavita.shape import check
from lavita.whole import fill_whole, write_whole

FPS = 8.0
LONGEST_SIDE = 16383  # of a WebP file, in pixels
LARGEST_CLIP = 128  # larger clips are scaled down to this side
SMALLER_CLIPS = (LARGEST_CLIP, 96, 64, 32)
MOST_BYTES = 400_000  # a page holds one such picture a method; without loss where that fits
QUALITIES = (85, 70, 55)


def sprite_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The picture and the file that says how to read it."""
    return folder / f"{name}.sprite.webp", folder / f"{name}.sprite.json"


def write_sprite(folder: Path, name: str, clips: np.ndarray, columns: int = 4) -> None:
    """Write clips, uint8 (N, F, H, W, 3), 0..255, as a moving grid: name.sprite.webp and name.sprite.json.

    The picture holds one grid of `columns` clips a row for every frame: frame 0 at the top left, the next below it, and
    after `down` of them at the top again, beside the first. The last place is filled with the last frame. Clips of more
    than LARGEST_CLIP pixels are scaled down; what would be larger than MOST_BYTES is stored with loss, then smaller.
    Not for scoring. Raises ValueError for another shape or dtype, and for no clips.
    """
    sizes = check(clips, "N F H W 3", "clips", dtype=np.uint8)
    if not sizes["N"] or not sizes["F"]:
        raise ValueError(f"sprite: got {sizes['N']} clips of {sizes['F']} frames, wanted at least 1 of each")
    for content, facts in candidates(clips, columns):  # noqa: B007 -- the last one where none is small enough
        if len(content) <= MOST_BYTES:
            break
    picture, description = sprite_files(folder, name)
    facts |= {"picture": picture.name, "clips": sizes["N"], "fps": FPS, "clip_size": [sizes["H"], sizes["W"]]}
    fill_whole(picture, lambda part: part.write_bytes(content))
    write_whole(description, json.dumps(facts, indent=1, sort_keys=True) + "\n")


def candidates(clips: np.ndarray, columns: int) -> Iterator[tuple[bytes, dict]]:
    """The file's bytes with what describes them, from the best to the smallest."""
    largest = max(clips.shape[2:4])
    for side in dict.fromkeys(min(side, largest) for side in SMALLER_CLIPS):
        sheet, facts = frames_in_one(with_alpha(scaled(clips, side), columns))
        if max(sheet.shape[:2]) > LONGEST_SIDE:
            continue
        if side == largest:
            yield encoded(sheet, lossless=True), facts | {"lossless": True}
        for quality in QUALITIES:
            yield encoded(sheet, lossless=False, quality=quality), facts | {"lossless": False}


def scaled(clips: np.ndarray, side: int) -> np.ndarray:
    """Clips whose longer side is `side` pixels, as they are where it is already."""
    count, frames, height, width, _ = clips.shape
    if max(height, width) == side:
        return clips
    size = (max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width))))
    flat = clips.reshape(-1, height, width, 3)
    small = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in flat])
    return small.reshape(count, frames, *small.shape[1:])


def with_alpha(clips: np.ndarray, columns: int) -> np.ndarray:
    """One grid a frame, uint8 (F, h, w, 4): see-through between the clips, so that it fits a page of any colour."""
    inside = moving(np.zeros_like(clips), columns)[..., :1] == 0  # a grid is white between its clips
    return np.concatenate([moving(clips, columns), np.where(inside, 255, 0).astype(np.uint8)], axis=-1)


def frames_in_one(frames: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """One picture of frames (F, h, w, C), below each other in as few columns as the format has room for, and where."""
    count, height, width, channels = frames.shape
    across = -(-count // max(1, LONGEST_SIDE // height))
    down = -(-count // across)
    filled = np.concatenate([frames, np.repeat(frames[-1:], across * down - count, axis=0)])
    columns = filled.reshape(across, down * height, width, channels)
    facts = {"frames": count, "across": across, "down": down, "width": width, "height": height}
    return np.concatenate(list(columns), axis=1), facts


def encoded(sheet: np.ndarray, **how: bool | int) -> bytes:
    """WebP, with the same bytes for the same picture."""
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", method=4, **({"quality": 100} | how))
    return buffer.getvalue()
