"""A folder -> the list of its videos: UCF101, SkyTimelapse, FaceForensics, Taichi-HD, each in its published
tree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .catalogue import SPLITS, Catalogue, VideoEntry
from .facts import dataset_facts
from .scan import fingerprint, scan
from .video import PICTURE_SUFFIXES, VIDEO_SUFFIXES


class LayoutError(ValueError):
    """A root that is missing, empty or not in the layout of the data set: what was found, what was
    expected.
    """


def read_layout(dataset: str, root: Path | str, cache_dir: Path | str | None = None) -> Catalogue:
    """Return the catalogue of the data set below root: the folder that holds its tree, or the tree's top
    folder.

    Every video is hashed and its frames counted, in threads; with cache_dir, the results are kept there for
    the next call. Raises LayoutError, UnreadableVideo; ValueError for an unknown data set.
    """
    facts = dataset_facts(dataset)
    layout = LAYOUTS[facts.layout]
    root = Path(root).expanduser().resolve()
    places = layout.locate(root)
    if places is None:
        raise LayoutError(_mismatch(dataset, root))
    listed, class_names = layout.list_videos(places)
    for split in SPLITS:
        if not any(video.split == split for video in listed):
            raise LayoutError(f"{root}: no {split} video for data set {dataset}\n{_expected(dataset)}")
    cache_file = None
    if cache_dir is not None:
        # Two copies of a data set may hold the same relative paths, so each root has a cache of its own.
        cache_file = Path(cache_dir) / f"scan-{dataset}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}.json"
    listed = sorted(listed, key=lambda video: (SPLITS.index(video.split), video.video_id))
    contents = scan([video.path for video in listed], places["base"], cache_file)
    videos = tuple(
        replace(video, frames=content.frames, sha256=content.sha256)
        for video, content in zip(listed, contents, strict=True)
    )
    _assert_disjoint(videos)
    mark = fingerprint((video.video_id, video.sha256, video.split) for video in videos)
    return Catalogue(dataset, root, videos, class_names, mark)


@dataclass(frozen=True)
class Layout:
    """One published tree.

    trees: where its named folders lie below the root, the published place first; list_videos reads them.
    """

    trees: tuple[dict[str, str], ...]
    list_videos: Callable[[dict[str, Path]], tuple[list[VideoEntry], tuple[str, ...]]]

    def locate(self, root: Path) -> dict[str, Path] | None:
        """The folders of the first tree found, and 'base', which holds them all; None without one."""
        for tree in self.trees:
            places = {name: (root / place).resolve() for name, place in tree.items()}
            if all(place.is_dir() for place in places.values()):
                return places | {"base": root.parent if ".." in "".join(tree.values()) else root}
        return None


def _list_ucf101(places: dict[str, Path]) -> tuple[list[VideoEntry], tuple[str, ...]]:
    """Fold 1 of ucfTrainTestlist; the group is (class, performer), which fold 1 keeps within one split."""
    class_lines = _read_list(places["lists"] / "classInd.txt", r"(\d+)\s+(\S+)")
    index_of = {name: int(number) - 1 for number, name in class_lines}
    files = {path.relative_to(places["videos"]).with_suffix("").as_posix(): path for path in _find(places["videos"])}
    entries, absent = [], []
    for split, name in (("train", "trainlist01.txt"), ("heldout", "testlist01.txt")):
        for class_name, stem, group in _read_list(places["lists"] / name, r"(\S+)/(\S+_(g\d+)_c\d+)\.\w+(?:\s+\d+)?"):
            path = files.pop(f"{class_name}/{stem}", None)
            if path is None or class_name not in index_of:
                absent.append(f"{class_name}/{stem}")
                continue
            index = index_of[class_name]
            entries.append(VideoEntry(stem, path, f"{class_name}/{group}", class_name, index, split))
    if absent:
        raise LayoutError(
            f"{places['lists']}: {len(absent)} listed videos have no file below {places['videos']} or no "
            f"class in classInd.txt, such as {absent[0]}; complete the download, or shorten the lists"
        )
    if files:
        raise LayoutError(
            f"{places['videos']}: {len(files)} videos stand in neither trainlist01.txt nor testlist01.txt, "
            f"such as {sorted(files)[0]}; add them to a list or move them away"
        )
    names = {index: name for name, index in index_of.items()}
    return entries, tuple(names.get(index, "") for index in range(max(names) + 1))


def _lister(
    group_of: Callable[[str], str],
) -> Callable[[dict[str, Path]], tuple[list[VideoEntry], tuple[str, ...]]]:
    """A reader for the sets without classes: a folder a split; group_of turns a video id into its group."""

    def list_videos(places: dict[str, Path]) -> tuple[list[VideoEntry], tuple[str, ...]]:
        entries = []
        for split in SPLITS:
            for path in _find(places[split]):
                relative = path.relative_to(places[split])
                video_id = (relative if path.is_dir() else relative.with_suffix("")).as_posix()
                entries.append(VideoEntry(video_id, path, group_of(video_id), None, None, split))
        return entries, ()

    return list_videos


LAYOUTS = {
    "ucf101": Layout(
        (
            {"videos": "UCF-101", "lists": "ucfTrainTestlist"},
            {"videos": ".", "lists": "ucfTrainTestlist"},
            {"videos": ".", "lists": "../ucfTrainTestlist"},
        ),
        _list_ucf101,
    ),
    "skytimelapse": Layout(
        (
            {"train": "sky_train", "heldout": "sky_test"},
            {"train": "sky_timelapse/sky_train", "heldout": "sky_timelapse/sky_test"},
        ),
        _lister(lambda video_id: video_id.split("/")[0]),
    ),
    "faceforensics": Layout(
        (
            {"train": "preprocess_ffs/train/videos", "heldout": "preprocess_ffs/test/videos"},
            {"train": "train/videos", "heldout": "test/videos"},
        ),
        _lister(lambda video_id: video_id),
    ),
    # Clips of one YouTube video are named <youtube id>#<start>#<end> by the script that cuts them.
    "taichi": Layout(
        (
            {"train": "taichi-256/frames/train", "heldout": "taichi-256/frames/test"},
            {"train": "frames/train", "heldout": "frames/test"},
        ),
        _lister(lambda video_id: video_id.split("/")[0].split("#")[0]),
    ),
}


def _find(folder: Path) -> list[Path]:
    """Video files, and folders that hold pictures, at any depth below folder, sorted; hidden names are left
    out.
    """
    found, has_pictures = [], False
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += _find(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found.append(path)
        has_pictures = has_pictures or path.suffix.lower() in PICTURE_SUFFIXES
    return [folder] if has_pictures and not found else found


def _read_list(path: Path, pattern: str) -> list[tuple[str, ...]]:
    """The groups of pattern for each line of a list file; LayoutError names the line that does not match."""
    if not path.is_file():
        raise LayoutError(f"{path}: no such file\n{_expected('ucf101')}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.fullmatch(pattern, line.strip())
        if match:
            rows.append(match.groups())
        elif line.strip():
            raise LayoutError(f"{path}: line {number} is '{line.strip()[:80]}', wanted {pattern}")
    return rows


def _assert_disjoint(videos: tuple[VideoEntry, ...]) -> None:
    """Ids are unique, and neither group nor content stands in both splits."""
    seen: dict[tuple[str, str], VideoEntry] = {}
    for video in videos:
        for kind, value in (("video id", video.video_id), ("group", video.group), ("content", video.sha256)):
            other = seen.setdefault((kind, value), video)
            if other is not video and (kind == "video id" or other.split != video.split):
                raise LayoutError(
                    f"{other.path} ({other.split}) and {video.path} ({video.split}) have the same {kind} "
                    f"'{value}': train and held-out videos must differ; remove one of them"
                )


def _mismatch(dataset: str, root: Path) -> str:
    """One message for a root that does not hold the data set's tree."""
    if not root.exists():
        found = "no such folder"
    elif not root.is_dir():
        found = "a file, not a folder"
    else:
        names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
        found = f"found {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" if names else "the folder is empty"
    near = [name for name, layout in LAYOUTS.items() if name != dataset and layout.locate(root)]
    hint = f"; this looks like {near[0]}" if near else ""
    return f"{root}: not a {dataset} tree: {found}{hint}\n{_expected(dataset)}"


def _expected(dataset: str) -> str:
    facts = dataset_facts(dataset)
    tree = facts.expected_tree.rstrip().replace("\n", "\n  ")
    return f"expected tree:\n  {tree}\nwhere it comes from: {facts.homepage}\n  {facts.how_to_get}"
