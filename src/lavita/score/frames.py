"""The lossless folder of clips that scoring reads, and pictures to look at. Real and generated clips join
here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lavita.data.video import read_frames, write_video
from lavita.inside import inside
from lavita.score.grid import write_grid as write_grid
from lavita.shape import check
from lavita.whole import sha256_of, write_whole

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
    to keep; its "seeds" and "classes", one value a clip, are written beside each clip, the rest as it is. A
    folder is finished when clips.json is there: it comes last, with size and sha256 of every file. clips may
    be a generator. Raises ValueError if the folder is finished already or holds other .mkv files, for clips
    of different sizes, and if names, seeds or classes are not as many as the clips.
    """
    folder, sidecar = Path(folder), dict(sidecar or {})
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: holds finished clips; take another folder or delete it")
    lists = {key: list(sidecar.pop(key)) for key in ("seeds", "classes") if sidecar.get(key) is not None}
    for key in ("seeds", "classes"):
        sidecar.pop(key, None)
    entries: list[dict[str, Any]] = []
    size: tuple[int, ...] | None = None
    for number, clip in enumerate(clips):
        check(clip, "F H W 3", f"clip {number}", dtype=np.uint8)
        if size is not None and clip.shape != size:
            raise ValueError(f"clip {number}: got shape {clip.shape}, clip 0 has {size}; all must be equal")
        size = clip.shape
        if names is not None and number >= len(names):
            raise ValueError(f"names: got {len(names)}, there are more clips than that")
        name = f"{number:06d}" if names is None else str(names[number])
        if not SAFE_NAME.fullmatch(name) or any(entry["name"] == name for entry in entries[-1:]):
            raise ValueError(f"names: got {name!r}, allowed: unique, of letters, digits, dot, dash and underscore")
        file = write_video(folder / f"{name}.mkv", np.ascontiguousarray(clip), PLAYBACK_FPS, lossless=True)
        entries.append({"name": name, "file": file.name, "sha256": sha256_of(file)})
    for key, values in {"names": names, **lists}.items():
        if values is not None and len(values) != len(entries):
            raise ValueError(f"{key}: got {len(values)} for {len(entries)} clips")
    _check_files(folder, entries)
    for key, column in (("seeds", "seed"), ("classes", "class")):
        for entry, value in zip(entries, lists.get(key, [None] * len(entries)), strict=True):
            entry[column] = value
    manifest = {"num_clips": len(entries), "shape": size, "clips": entries, "sidecar": sidecar}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
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
            inside(folder, entry["file"], f"{folder / MANIFEST}: file of a clip")
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
