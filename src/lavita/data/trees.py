"""The published folder trees of the four data sets and their usual variants: folder -> list of files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lavita.data.catalogue import SPLITS
from lavita.data.decoding.containers import VIDEO_SUFFIXES
from lavita.data.decoding.pictures import PICTURE_SUFFIXES


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
    and the names of these lists. passed_over: what lies there and was not taken, in one line, or ''.
    """

    base: Path
    items: list[Item]
    class_names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    list_names: tuple[str, ...] = ()
    passed_over: str = ""


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
            # As they are named, links or not: a video's path must lie below the root.
            places = {name: Path(os.path.normpath(root / place)) for name, place in tree.items()}
            really = {place.resolve() for place in places.values()}
            if all(place.is_dir() for place in places.values()) and len(really) == len(places):
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
    found = _beside(find_videos(videos), lists)
    files = {_stem(path, videos): path for path in (*found.videos, *found.empty)}
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
    over = Found([], [], found.others).passed_over(root)
    return Listing(root, items, class_names, tuple(missing), names, over)


def _beside(found: Found, lists: Path) -> Found:
    """What was found, without the folder of the data set's own lists."""
    inside = [
        [path for path in paths if not Path(path).is_relative_to(lists)]
        for paths in (found.videos, found.empty, found.others)
    ]
    return Found(*inside)


def _performer(class_name: str, stem: str) -> str:
    """The group of a UCF101 video: what stands before _c in v_<class>_gNN_cNN, which one performer's clips share."""
    found = re.search(r"_(g\d+)_c\d+$", stem)
    return f"{class_name}/{found[1] if found else stem}"


def _reader(group_of: Callable[[str], str]) -> Callable[[Path, Places, int | None], Listing]:
    """A reader for the sets without classes: one folder per split; group_of turns a video id into its group."""

    def read(root: Path, places: Places, fold: int | None) -> Listing:
        items, others = [], []
        for split in SPLITS:
            found = find_videos(places[split])
            others += found.others
            # A folder that holds nothing is named, so that a copy gone wrong does not look like a smaller data set.
            for path in sorted((*found.videos, *found.empty)):
                video_id = _stem(path, places[split])
                items.append(Item(video_id, path, group_of(video_id), None, None, split))
        return Listing(root, items, passed_over=Found([], [], others).passed_over(root))

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


# What archives, network drives and systems leave beside files; passed over as hidden names are.
RUBBISH = frozenset(
    {
        "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information", "thumbs.db",
        "desktop.ini",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a folder holds, each sorted by path. videos: files, and folders that hold pictures; empty: folders that hold
    neither these nor such folders; others: files that are nothing of this.
    """

    videos: list[str]
    empty: list[str]
    others: list[str]

    def passed_over(self, folder: Path) -> str:
        """What was not taken, in one line: "3 files (.txt 2, .mov 1; such as a.mov)", or ''."""
        kinds = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in self.others)
        said = []
        if self.others:
            each = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
            first = os.path.relpath(self.others[0], folder)
            said.append(f"{len(self.others)} file{'s' * (len(self.others) > 1)} ({each}; such as {first})")
        if self.empty:
            first = os.path.relpath(self.empty[0], folder)
            said.append(
                f"{len(self.empty)} folder{'s' * (len(self.empty) > 1)} without pictures or videos (such as {first})"
            )
        return " and ".join(said)


def find_videos(folder: Path) -> Found:
    """What lies at any depth below folder. Hidden names and known rubbish are left out, and so is a link that leads
    back to a folder on the way to it.
    """
    found = Found([], [], [])
    _walk(str(folder), found, (), top=True)
    for paths in (found.videos, found.empty, found.others):
        paths.sort()
    return found


def _walk(folder: str, found: Found, above: tuple[tuple[int, int], ...], top: bool) -> bool:
    """Whether there is any video in or below a folder. above: device and inode of the folders that are being walked."""
    status = os.stat(folder)
    here = (*above, (status.st_dev, status.st_ino))
    with os.scandir(folder) as scanned:
        entries = [one for one in scanned if not one.name.startswith(".") and one.name.lower() not in RUBBISH]
    any_below, pictures = False, False
    for entry in entries:
        if entry.is_dir():
            target = entry.stat()
            if (target.st_dev, target.st_ino) not in here:
                any_below |= _walk(entry.path, found, here, top=False)
        elif _has(entry.name, VIDEO_SUFFIXES):
            found.videos.append(entry.path)
            any_below = True
        elif _has(entry.name, PICTURE_SUFFIXES):
            pictures = True
            if top:
                found.others.append(entry.path)  # no clip of its own, and no frame of one
        else:
            found.others.append(entry.path)
    if pictures and not top:
        found.videos.append(folder)
        any_below = True
    if not any_below and not top and not any(entry.is_dir() for entry in entries):
        found.empty.append(folder)
    return any_below


def _has(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _stem(path: str, folder: Path) -> str:
    """The id of a video: its path below a folder, without the suffix of a file."""
    relative = Path(path).relative_to(folder)
    return (relative if os.path.isdir(path) else relative.with_suffix("")).as_posix()


def _text(path: Path) -> str:
    """A list file's text, with or without a byte order mark. Raises LayoutError where it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path}: byte {error.start} is no UTF-8; store the list as UTF-8") from None


def _read_list(path: Path, pattern: str) -> list[tuple[str, ...]]:
    """The groups of pattern for each line of a list file; LayoutError names the line that does not match."""
    if not path.is_file():
        raise LayoutError(f"{path}: no such file, and the data set's lists say what is in which split")
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        match = re.fullmatch(pattern, line.strip())
        if match:
            rows.append(match.groups())
        elif line.strip():
            raise LayoutError(f"{path}: line {number} is '{line.strip()[:80]}', wanted {pattern}")
    return rows
