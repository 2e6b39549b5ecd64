"""The lossless folder of clips that scoring reads, and pictures to look at. Real and generated clips join
here.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lavita.data.ahead import in_threads
from lavita.data.video import read_frames, write_video
from lavita.files import atomic_write, atomic_write_text, require_inside, sha256_of
from lavita.shapes import check

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

    .gif and .mp4: a moving grid of `columns` clips per row at fps frames per second. .png: a still sheet, one row per
    clip, one column per frame. Not for scoring. Raises ValueError for another suffix, shape or dtype, or no
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


FPS = 8.0
LONGEST_SIDE = 16383  # of a WebP file, in pixels
SPRITE_COLUMNS = 4  # clips of a row, where nothing else is said
LARGEST_CLIP = 128  # larger clips are scaled down to this side
SMALLER_CLIPS = (LARGEST_CLIP, 96, 64, 32)
MOST_BYTES = 400_000  # a page holds one such picture a method; without loss where that fits
QUALITIES = (85, 70, 55)


def sprite_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The picture and the file that says how to read it."""
    return folder / f"{name}.sprite.webp", folder / f"{name}.sprite.json"


def write_sprite(folder: Path, name: str, clips: np.ndarray, columns: int = SPRITE_COLUMNS) -> None:
    """Write clips, uint8 (N, F, H, W, 3), 0..255, as a moving grid: name.sprite.webp and name.sprite.json.

    The picture holds one grid of `columns` clips per row for every frame: frame 0 at the top left, the next below it,
    and after `down` of them at the top again, beside the first. The last place is filled with the last frame. Clips of
    more than LARGEST_CLIP pixels are scaled down; a file above MOST_BYTES is stored with loss, then smaller.
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
    atomic_write(picture, lambda part: part.write_bytes(content))
    atomic_write_text(description, json.dumps(facts, indent=1, sort_keys=True) + "\n")


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


def encoded(sheet: np.ndarray, lossless: bool, quality: int = 75) -> bytes:
    """WebP, with the same bytes for the same picture. Without loss, quality is effort: 100 takes twenty times as long
    as 75, for a file that is no smaller.
    """
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", method=4, lossless=lossless, quality=quality)
    return buffer.getvalue()


MANIFEST = "clips.json"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PLAYBACK_FPS = 8.0


def write_clips(
    folder: Path | str,
    clips: Iterable[np.ndarray],
    names: Sequence[str] | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> Path:
    """Write each clip, uint8 (F, H, W, 3), 0..255, as FFV1 <name>.mkv, then clips.json; return the folder.

    names: unique, so that sorting by them is the order wanted; default 000000, 000001, ... sidecar: what else
    to keep; its "seeds" and "classes", one value per clip, are written beside each clip, the rest as it is. A
    folder is finished when clips.json is there: it comes last, with size and sha256 of every file. clips may
    be a generator; a few of them are encoded at a time, in threads. Raises ValueError if the folder is finished
    already or holds other .mkv files, for clips of different sizes, and if names, seeds or classes are not as many as
    the clips.
    """
    folder, sidecar = Path(folder), dict(sidecar or {})
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: holds finished clips; take another folder or delete it")
    lists = {key: list(sidecar.pop(key)) for key in ("seeds", "classes") if sidecar.get(key) is not None}
    for key in ("seeds", "classes"):
        sidecar.pop(key, None)
    size: tuple[int, ...] = ()
    used: set[str] = set()

    def named() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal size
        for number, clip in enumerate(clips):
            check(clip, "F H W 3", f"clip {number}", dtype=np.uint8)
            size = size or clip.shape
            if clip.shape != size:
                raise ValueError(f"clip {number}: got shape {clip.shape}, clip 0 has {size}; all must be equal")
            if names is not None and number >= len(names):
                raise ValueError(f"names: got {len(names)}, there are more clips than that")
            name = f"{number:06d}" if names is None else str(names[number])
            if name in used:
                raise ValueError(f"{folder}: two clips have one name, e.g. {name}")
            if not SAFE_NAME.fullmatch(name):
                raise ValueError(f"names: got {name!r}, allowed: unique, of letters, digits, dot, dash and underscore")
            used.add(name)
            yield name, clip

    def write(clip: tuple[str, np.ndarray]) -> dict[str, Any]:
        name, frames = clip
        file = write_video(folder / f"{name}.mkv", np.ascontiguousarray(frames), PLAYBACK_FPS, lossless=True)
        return {"name": name, "file": file.name, "sha256": sha256_of(file)}

    entries = list(in_threads(write, named()))
    for key, values in {"names": names, **lists}.items():
        if values is not None and len(values) != len(entries):
            raise ValueError(f"{key}: got {len(values)} for {len(entries)} clips")
    _check_files(folder, entries)
    for key, column in (("seeds", "seed"), ("classes", "class")):
        for entry, value in zip(entries, lists.get(key, [None] * len(entries)), strict=True):
            entry[column] = value
    manifest = {"num_clips": len(entries), "shape": size or None, "clips": entries, "sidecar": sidecar}
    atomic_write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return folder


def _check_files(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if the .mkv files of the folder are not exactly those of entries, each once."""
    named = [entry["file"] for entry in entries]
    if not named:
        raise ValueError(f"{folder}: no clips")
    if len(set(named)) < len(named):
        raise ValueError(f"{folder}: two clips have one name, e.g. {max(named, key=named.count)}")
    found = {path.name for path in folder.glob("*.mkv") if not path.name.startswith(".")}
    missing, stray = sorted(set(named) - found), sorted(found - set(named))
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(named)} clips are missing, first {missing[0]}; sample again"
        )
    if stray:
        raise ValueError(f"{folder}: {stray[0]} and {len(stray) - 1} more are not of this set of clips; remove them")


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Return clips.json of a finished folder: num_clips, shape, clips (name, file, sha256, seed, class),
    sidecar.

    Raises ValueError for a folder that is missing, unfinished, has holes, or holds clips that are not listed.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder}: no {MANIFEST}, so this is no finished folder of clips; sample again")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for entry in manifest["clips"]:
            require_inside(folder, entry["file"], f"{folder / MANIFEST}: file of a clip")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: no list of clips ({type(error).__name__}: {error})") from None
    _check_files(folder, manifest["clips"])
    return manifest


def iterate_clips(folder: Path | str) -> Iterator[np.ndarray]:
    """Yield each clip, uint8 (F, H, W, 3), 0..255, sorted by name. Raises ValueError as `read_clips` does."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    size = tuple(manifest["shape"])
    for entry in sorted(manifest["clips"], key=lambda entry: entry["name"]):
        path = folder / entry["file"]
        if sha256_of(path) != entry["sha256"]:
            raise ValueError(f"{path}: is not the file that was written (its sha256 differs); sample again")
        clip = read_frames(path, range(size[0]))
        if clip.shape != size:
            raise ValueError(f"{path}: got shape {clip.shape}, {MANIFEST} says {size}")
        yield clip


def read_clips(folder: Path | str) -> np.ndarray:
    """Return all clips of a finished folder, uint8 (N, F, H, W, 3), 0..255, sorted by name.

    Raises ValueError for missing or stray clips, clips of different sizes, and files changed since they were
    written.
    """
    return np.stack(list(iterate_clips(folder)))
