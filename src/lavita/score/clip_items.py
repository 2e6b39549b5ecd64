"""Any folder or array of clips as a list of named items, each read when it is wanted."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavita.data.trees import find_videos
from lavita.data.video import each_frame, probe

ARRAYS = (".npz", ".npy")
KEY = "clips"
LOSSLESS_SUFFIX = ".mkv"  # what the suite writes: FFV1


@dataclass(frozen=True)
class ClipItem:
    """One clip or video: its name, how its frames lie on disk (lossless, video or jpeg), and calls that give its
    frames, uint8 (F, H, W, 3), 0..255, and their number.
    """

    name: str
    stored: str
    read: Callable[[], np.ndarray]
    count: Callable[[], int]


def clip_items(path: Path | str) -> list[ClipItem]:
    """The clips of a folder (a video file or frame folder each, at any depth, sorted by name), or of an .npz with key
    `clips` or an .npy, uint8 (N, F, H, W, 3).

    Nothing is decoded yet. Raises ValueError for a path that is no such thing.
    """
    path = Path(path)
    if path.is_dir():
        found = find_videos(path)
        if not found:
            raise ValueError(f"{path}: no clips; wanted a video file or a folder of pictures a clip, .npz or .npy")
        return [_item(Path(file), path) for file in sorted(found, key=lambda file: _name(Path(file), path))]
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; wanted a folder of clips, .npz (key {KEY}) or .npy")
    if path.suffix not in ARRAYS:
        raise ValueError(f"{path}: got a file that is neither {' nor '.join(ARRAYS)}; give the folder of the clips")
    array = read_array(path)
    width = max(6, len(str(len(array))))
    return [
        ClipItem(f"{number:0{width}d}", "lossless", lambda n=number: np.array(array[n]), lambda: array.shape[1])
        for number in range(len(array))
    ]


def read_array(path: Path) -> np.ndarray:
    """uint8 (N, F, H, W, 3) of an .npz or .npy; an .npy is mapped, not read. Pickled objects are refused."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if path.suffix == ".npz" and KEY not in loaded.files:
            raise ValueError(f"{path}: got keys {', '.join(loaded.files) or 'none'}, wanted {KEY}")
        array = loaded[KEY] if path.suffix == ".npz" else loaded
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an array that can be read ({error})") from None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(reason if str(path) in reason else f"{path}: {reason}") from None
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"{path}: got {array.dtype} {array.shape}, wanted uint8 (N, F, H, W, 3)")
    return array


def _item(path: Path, folder: Path) -> ClipItem:
    def read() -> np.ndarray:
        frames = list(each_frame(path))
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(f"{path}: frames of different sizes")
        return np.stack(frames)

    if path.is_dir():
        stored = "jpeg" if any(file.suffix.lower() in (".jpg", ".jpeg") for file in path.iterdir()) else "lossless"
    else:
        stored = "lossless" if path.suffix.lower() == LOSSLESS_SUFFIX else "video"
    return ClipItem(_name(path, folder), stored, read, lambda: probe(path).frames)


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder)
    return (relative if path.is_dir() else relative.with_suffix("")).as_posix()


def names_are_unique(items: Sequence[ClipItem], path: Path) -> None:
    """Raise ValueError where two clips have one name (a.mp4 beside a.avi): none may be scored twice."""
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise ValueError(f"{path}: two clips are named {item.name}; every clip counts once")
        seen.add(item.name)
