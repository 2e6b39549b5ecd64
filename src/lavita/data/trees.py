"""The published folder trees of the four data sets and their usual variants: folder -> list of files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lavita.data.catalogue import SPLITS
from lavita.data.video import PICTURE_SUFFIXES, VIDEO_SUFFIXES


class LayoutError(ValueError):
    """A root that is missing, empty or not in the layout of the data set: what was found, what was expected."""


@dataclass(frozen=True, slots=True)
class Item:
    """One video file or frame folder of a tree. split is '' where the data set's own lists do not name it."""

    video_id: str
    path: str
    group: str
    class_name: str | None
    class_index: int | None
    split: str


@dataclass(frozen=True)
class Listing:
    """What a tree holds below base: items by split and id, class names by index, what its lists name but is not there,
    and the names of these lists.
    """

    base: Path
    items: list[Item]
    class_names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    list_names: tuple[str, ...] = ()


Places = dict[str, Path]


@dataclass(frozen=True)
class Layout:
    """One data set's trees: where the named folders lie below the root, the published place first.

    read turns these folders and a fold into a Listing; folds: how many the data set's lists have, 0 without lists.
    """

    trees: tuple[dict[str, str], ...]
    read: Callable[[Path, Places, int | None], Listing]
    folds: int = 0

    def locate(self, root: Path) -> Places | None:
        """The folders of the first tree found below root; None without one."""
        for tree in self.trees:
            places = {name: (root / place).resolve() for name, place in tree.items()}
            if all(place.is_dir() for place in places.values()) and len(set(places.values())) == len(places):
                return places
        return None

    def closest(self, root: Path) -> tuple[int, str]:
        """How many folders of the best matching tree are there, and which of them are and are not."""
        best = (0, "")
        for tree in self.trees:
            here = [place for place in tree.values() if place != "." and (root / place).is_dir()]
            absent = [place for place in tree.values() if place not in here and place != "."]
            if len(here) > best[0]:
                best = (len(here), f"{', '.join(here)} is there, {', '.join(absent) or 'nothing'} is missing")
        return best


def _splits(*pairs: tuple[str, str]) -> tuple[dict[str, str], ...]:
    return tuple({"train": train, "heldout": heldout} for train, heldout in pairs)


def _read_ucf101(root: Path, places: Places, fold: int | None) -> Listing:
    """A fold of ucfTrainTestlist; the group is (class, performer), which every fold keeps within one split."""
    lists, videos = places["lists"], places["videos"]
    index_of = {name: int(number) - 1 for number, name in _read_list(lists / "classInd.txt", r"(\d+)\s+(\S+)")}
    files = {_stem(path, videos): path for path in find_videos(videos) if not Path(path).is_relative_to(lists)}
    names = tuple(f"{kind}list{fold:02d}.txt" for kind in ("train", "test"))
    items, missing = [], []
    for split, name in zip(SPLITS, names, strict=True):
        for class_name, stem in _read_list(lists / name, r"([^/]+)/(.+?)\.\w+(?:\s+\d+)?"):
            path = files.pop(f"{class_name}/{stem}", None)
            if class_name not in index_of:
                raise LayoutError(f"{lists / name}: class {class_name} of {stem} does not stand in classInd.txt")
            if path is None:
                missing.append(f"{class_name}/{stem}")
                continue
            items.append(Item(stem, path, _performer(class_name, stem), class_name, index_of[class_name], split))
    for stem, path in files.items():
        class_name = stem.split("/")[0]
        group = _performer(class_name, Path(stem).name)
        items.append(Item(Path(stem).name, path, group, class_name, index_of.get(class_name), ""))
    by_index = {index: name for name, index in index_of.items()}
    class_names = tuple(by_index.get(index, "") for index in range(max(by_index, default=-1) + 1))
    return Listing(root, items, class_names, tuple(missing), names)


def _performer(class_name: str, stem: str) -> str:
    """The group of a UCF101 video: what stands before _c in v_<class>_gNN_cNN, which one performer's clips share."""
    found = re.search(r"_(g\d+)_c\d+$", stem)
    return f"{class_name}/{found[1] if found else stem}"


def _reader(group_of: Callable[[str], str]) -> Callable[[Path, Places, int | None], Listing]:
    """A reader for the sets without classes: one folder per split; group_of turns a video id into its group."""

    def read(root: Path, places: Places, fold: int | None) -> Listing:
        items = []
        for split in SPLITS:
            for path in find_videos(places[split]):
                video_id = _stem(path, places[split])
                items.append(Item(video_id, path, group_of(video_id), None, None, split))
        return Listing(root, items)

    return read


def _sky_group(video_id: str) -> str:
    """The source video: the folder above its clips, or (flat copies) the name of a clip without its number."""
    first, nested, _ = video_id.partition("/")
    return first if nested else re.sub(r"_\d+$", "", first)


def _taichi_group(video_id: str) -> str:
    """The source video: clips are named <id>#<start>#<end> by the script that cuts them."""
    return video_id.split("/")[0].split("#")[0]


LAYOUTS = {
    "ucf101": Layout(
        (
            {"videos": "UCF-101", "lists": "ucfTrainTestlist"},
            {"videos": "UCF-101", "lists": "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist"},
            {"videos": "UCF101/UCF-101", "lists": "UCF101/ucfTrainTestlist"},
            {"videos": ".", "lists": "ucfTrainTestlist"},
            {"videos": ".", "lists": "../ucfTrainTestlist"},
        ),
        _read_ucf101,
        folds=3,
    ),
    "skytimelapse": Layout(
        _splits(("sky_train", "sky_test"), ("sky_timelapse/sky_train", "sky_timelapse/sky_test"), ("train", "test")),
        _reader(_sky_group),
    ),
    "faceforensics": Layout(
        _splits(
            ("preprocess_ffs/train/videos", "preprocess_ffs/test/videos"),
            ("train/videos", "test/videos"),
            ("preprocess_ffs/train", "preprocess_ffs/test"),
            ("train", "test"),
        ),
        _reader(lambda video_id: video_id),
    ),
    "taichi": Layout(
        _splits(
            ("taichi-256/frames/train", "taichi-256/frames/test"),
            ("frames/train", "frames/test"),
            ("taichi-256/train", "taichi-256/test"),
            ("train", "test"),
        ),
        _reader(_taichi_group),
    ),
}


def find_videos(folder: Path) -> list[str]:
    """Video files, and folders that hold pictures or nothing at all, at any depth below folder, sorted by path.

    Hidden names are left out; so are files of other kinds, unless a folder holds nothing else: then it is named, so
    that a copy gone wrong does not look like a smaller data set.
    """
    return sorted(_walk(str(folder), top=True))


def _walk(folder: str, top: bool) -> Iterator[str]:
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if not entry.name.startswith(".")]
    folders = [entry.path for entry in entries if entry.is_dir()]
    videos = [entry.path for entry in entries if _has(entry.name, VIDEO_SUFFIXES) and not entry.is_dir()]
    yield from videos
    for path in folders:
        yield from _walk(path, top=False)
    pictures = any(_has(entry.name, PICTURE_SUFFIXES) for entry in entries)
    if not top and (pictures or not (folders or videos)):
        yield folder


def _has(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _stem(path: str, folder: Path) -> str:
    """The id of a video: its path below a folder, without the suffix of a file."""
    relative = Path(path).relative_to(folder)
    return (relative if os.path.isdir(path) else relative.with_suffix("")).as_posix()


def _read_list(path: Path, pattern: str) -> list[tuple[str, ...]]:
    """The groups of pattern for each line of a list file; LayoutError names the line that does not match."""
    if not path.is_file():
        raise LayoutError(f"{path}: no such file, and the data set's lists say what is in which split")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.fullmatch(pattern, line.strip())
        if match:
            rows.append(match.groups())
        elif line.strip():
            raise LayoutError(f"{path}: line {number} is '{line.strip()[:80]}', wanted {pattern}")
    return rows
