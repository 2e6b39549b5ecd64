"""A root folder -> the catalogue of its videos, or one message: the expected tree, what was found, the nearest one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lavita.data.catalogue import SPLITS, Catalogue, VideoEntry, dataset_facts
from lavita.data.manifest import below, conflicts
from lavita.data.scan import Content, Report, fingerprint, scan
from lavita.data.trees import LAYOUTS, LayoutError, Listing

MAX_UNREADABLE = 0.005  # share of the videos that may be left out because they can't be read
SHOWN = 5  # how many of them one message names


def read_layout(
    dataset: str,
    root: Path | str,
    cache_dir: Path | str | None = None,
    fold: int | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    report: Report | None = None,
) -> Catalogue:
    """Return the catalogue of the data set below root: the folder that holds its tree, or the tree's top folder.

    Every video is hashed and its frames counted, in threads; with cache_dir, the results are kept there for the next
    call. Videos that can't be read, and copies within a split, are left out and named in `notes`. Raises LayoutError
    where more than max_unreadable (a share) can't be read, where the lists and the files disagree, and where train and
    held-out videos share an id, a group or their content; ValueError for an unknown data set.
    """
    listing = list_dataset(dataset, root, fold)
    _check_lists(listing)
    paths = [item.path for item in listing.items]
    contents = scan(paths, listing.base, cache_file(cache_dir, dataset, listing.base), report=report)
    unreadable = _unreadable(listing, contents, max_unreadable)
    repeated = _repeated(listing, contents)
    videos, unused = [], []
    for number, (item, content) in enumerate(zip(listing.items, contents, strict=True)):
        usable = content.status == "ok" and number not in repeated
        (videos if usable else unused).append(
            VideoEntry(
                item.video_id, item.path, item.group, item.class_name, item.class_index, item.split,
                content.frames, content.sha256, content.entries if usable else b"",
            )
        )  # fmt: skip
    mark = fingerprint((i.video_id, c.sha256, i.split) for i, c in zip(listing.items, contents, strict=True))
    return Catalogue(
        dataset, listing.base, tuple(videos), listing.class_names, mark,
        num_unreadable=len(unreadable), num_duplicates=len(repeated), notes=(*unreadable, *repeated.values()),
        unused=tuple(unused),
    )  # fmt: skip


def cache_file(cache_dir: Path | str | None, dataset: str, base: Path) -> Path | None:
    """Where a scan is remembered: a file for each base, since two copies of a set hold equal relative paths."""
    if cache_dir is None:
        return None
    return Path(cache_dir) / f"scan-{dataset}-{hashlib.sha256(str(base).encode()).hexdigest()[:12]}.jsonl"


def _check_lists(listing: Listing) -> None:
    """Raise LayoutError unless the data set's own lists and its files name the same videos."""
    if listing.missing:
        raise LayoutError(
            f"{listing.base}: {len(listing.missing)} videos of {' and '.join(listing.list_names)} have no file, "
            f"such as {listing.missing[0]}; complete the download, or shorten the lists"
        )
    stray = [item for item in listing.items if not item.split]
    if stray:
        raise LayoutError(
            f"{listing.base}: {len(stray)} videos stand in neither {' nor '.join(listing.list_names)}, such as "
            f"{stray[0].path}; add them to a list or move them away"
        )


def _unreadable(listing: Listing, contents: Sequence[Content], most: float) -> list[str]:
    """A line "path: reason" for each video that can't be read. Raises LayoutError where they are more than may be."""
    bad = [(i.path, c.reason) for i, c in zip(listing.items, contents, strict=True) if c.status != "ok"]
    lines = [f"{below(path, listing.base)}: {reason}" for path, reason in bad]
    if len(bad) > most * len(contents):
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise LayoutError(
            f"{listing.base}: {len(bad)} of {len(contents)} videos can't be read, {len(bad) / len(contents):.2%}; "
            f"data.max_unreadable allows {most:.2%} (a share: {most:g}):\n  " + "\n  ".join(lines[:SHOWN]) + more
        )
    for split in SPLITS:
        if not any(i.split == split and c.status == "ok" for i, c in zip(listing.items, contents, strict=True)):
            raise LayoutError(f"{listing.base}: no {split} video can be read:\n  " + "\n  ".join(lines[:SHOWN]))
    return lines


def _repeated(listing: Listing, contents: Sequence[Content]) -> dict[int, str]:
    """A line for each video that repeats one of its split. Raises LayoutError where it stands in the other split."""
    lines = {}
    for number, (kind, other) in conflicts(listing.items, contents).items():
        video, first = listing.items[number], listing.items[other]
        value = {"content": contents[number].sha256, "video id": video.video_id, "group": video.group}[kind]
        if first.split != video.split:
            raise LayoutError(
                f"{first.path} ({first.split}) and {video.path} ({video.split}) have the same {kind} '{value}': train "
                "and held-out videos must differ; remove one of them"
            )
        paths = [below(item.path, listing.base) for item in (video, first)]
        lines[number] = f"{paths[0]}: same {kind} as {paths[1]}"
    return lines


def list_dataset(dataset: str, root: Path | str, fold: int | None = None) -> Listing:
    """Return what the tree of a data set holds below root: the folder that holds it, or the tree's top folder.

    fold: of the data set's own lists, from 1 (None: the one in its facts). Items come train before held-out, then by
    id. No video is opened. Raises LayoutError; ValueError for an unknown data set or fold.
    """
    facts = dataset_facts(dataset)
    layout = LAYOUTS[facts.layout]
    fold = facts.fold if fold is None else fold
    if (fold is not None) != bool(layout.folds) or (fold is not None and not 1 <= fold <= layout.folds):
        allowed = f"1 to {layout.folds}" if layout.folds else "none: this data set has no folds"
        raise ValueError(f"data.fold: got {fold} for {dataset}, allowed {allowed}")
    root = Path(root).expanduser().resolve()
    places = layout.locate(root)
    if places is None:
        raise LayoutError(mismatch(dataset, root))
    try:
        listing = layout.read(root, places, fold)
    except LayoutError as error:
        raise LayoutError(f"{error}\n{expected(dataset)}") from None
    for split in SPLITS:
        if not any(item.split == split for item in listing.items):
            raise LayoutError(f"{root}: no {split} video for data set {dataset}\n{expected(dataset)}")
    listing.items.sort(key=lambda item: (not item.split, SPLITS.index(item.split or "train"), item.video_id))
    return listing


def mismatch(dataset: str, root: Path) -> str:
    """One message for a root that does not hold the data set's tree."""
    if not root.exists():
        found = "no such folder"
    elif not root.is_dir():
        found = "a file, not a folder"
    else:
        names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
        found = f"found {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" if names else "the folder is empty"
    hint = _hint(dataset, root) if root.is_dir() else ""
    return f"{root}: not a {dataset} tree: {found}{hint}\n{expected(dataset)}"


def _hint(dataset: str, root: Path) -> str:
    """The nearest known layout: the same tree one folder up or down, another data set's, or one that is begun."""
    for near in (root.parent, *sorted(path for path in root.iterdir() if path.is_dir())):
        if LAYOUTS[dataset].locate(near):
            return f"; its tree begins at {near}: give that as the root"
    others = [name for name, layout in LAYOUTS.items() if name != dataset and layout.locate(root)]
    if others:
        return f"; this looks like {' or '.join(others)}"
    closest = {name: LAYOUTS[name].closest(root) for name in (dataset, *LAYOUTS)}
    name = max(closest, key=lambda key: closest[key][0])
    return f"; nearest known layout: {name} ({closest[name][1]})" if closest[name][0] else ""


def expected(dataset: str) -> str:
    """The expected tree and where the data come from, in a few lines."""
    facts = dataset_facts(dataset)
    tree = facts.expected_tree.rstrip().replace("\n", "\n  ")
    return f"expected tree:\n  {tree}\nwhere it comes from: {facts.homepage}\n  {facts.how_to_get}"
