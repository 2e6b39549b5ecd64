"""Manifests: what is written and read back, what repeats what, and a million rows."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys

import pytest

from lavita.data.manifest import (
    COLUMNS,
    conflicts,
    counts,
    differences,
    fingerprint_of,
    read_manifest,
    rows_of,
    write_manifest,
)
from lavita.data.scan import Content
from lavita.data.trees import Item, Listing


def listing_of(tmp_path, items) -> Listing:
    return Listing(
        tmp_path, [Item(i, str(tmp_path / path), group, None, None, split) for i, path, group, split in items]
    )


ITEMS = [
    ("a", "train/a.mp4", "A", "train"),
    ("b", "train/b.mp4", "B", "train"),
    ("c", "train/ü, \"x\".mp4", "C", "train"),
    ("d", "test/d.mp4", "D", "heldout"),
    ("e", "test/e.mp4", "A", "heldout"),
    ("a", "test/a.avi", "F", "heldout"),
    ("g", "test/g.mp4", "A", "heldout"),
]  # fmt: skip
CONTENTS = [
    Content(20, "1" * 64, 29.97002997, 64, 48),
    Content(5, "2" * 64, None, 64, 48),
    Content(30, "1" * 64, 25.0, 64, 48),
    Content(0, "4" * 64, status="unreadable", reason="truncated: 1 bytes of 2"),
    Content(30, "5" * 64, 25.0, 64, 48),
    Content(30, "6" * 64, 25.0, 64, 48),
    Content(30, "2" * 64, 25.0, 64, 48),
]


def test_rows(tmp_path):
    rows = rows_of(listing_of(tmp_path, ITEMS), CONTENTS, least_frames=16)
    assert [(row.status, row.reason) for row in rows] == [
        ("ok", ""),
        ("too_short", "5 frames, wanted at least 16"),
        ("duplicate", "same content as train/a.mp4 (train)"),
        ("unreadable", "truncated: 1 bytes of 2"),
        ("duplicate", "same group as train/a.mp4 (train)"),
        ("duplicate", "same video id as train/a.mp4 (train)"),
        ("duplicate", "same content as train/b.mp4 (train)"),
    ]
    assert rows[0].fps == "29.97" and rows[1].fps == "" and rows[3].frames == "" and rows[1].frames == "5"
    assert counts(rows) == {
        "ok": 1, "unreadable": 1, "too_short": 1, "duplicate": 4, "empty": 0, "not_video": 0,
    }  # fmt: skip


def test_a_group_may_hold_many_videos_of_one_split(tmp_path):
    items = listing_of(tmp_path, [("a", "a", "G", "train"), ("b", "b", "G", "train"), ("c", "c", "", "")]).items
    assert conflicts(items, [Content(1, str(n)) for n in range(3)]) == {}


def test_file_and_fingerprint_by_hand(tmp_path):
    rows = rows_of(listing_of(tmp_path, ITEMS), CONTENTS, 16)
    write_manifest(tmp_path / "m.csv", rows)
    with open(tmp_path / "m.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(COLUMNS)
    assert ",".join(COLUMNS) == "path,video_id,group,class,split,frames,fps,width,height,sha256,status,reason"
    assert table[2]["path"] == 'train/ü, "x".mp4'
    lines = sorted(f"{row['video_id']} {row['sha256']} {row['split']}\n" for row in table)
    assert fingerprint_of(rows) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert read_manifest(tmp_path / "m.csv") == rows


def test_fingerprint_depends_on_no_threshold(tmp_path):
    listing = listing_of(tmp_path, ITEMS)
    assert fingerprint_of(rows_of(listing, CONTENTS, 1)) == fingerprint_of(rows_of(listing, CONTENTS, 1000))


def test_differences_name_every_change(tmp_path):
    before = rows_of(listing_of(tmp_path, ITEMS[:3]), CONTENTS[:3], 1)
    now = rows_of(listing_of(tmp_path, [ITEMS[0], ITEMS[1], ITEMS[3]]), [CONTENTS[4], *CONTENTS[1:2], CONTENTS[3]], 1)
    assert differences(before, before) == []
    assert differences(before, now) == [
        'train/ü, "x".mp4: gone',
        f"train/a.mp4: frames 20 -> 30, fps 29.97 -> 25, sha256 {'1' * 64} -> {'5' * 64}",
        "test/d.mp4: added (unreadable)",
    ]


@pytest.mark.parametrize(
    "text, words",
    [("a,b\n", "wanted path,video_id"), (",".join(COLUMNS) + "\na,b,c\n", "line 2 is no row"), ("", "got columns ''")],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text, words):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_manifest(tmp_path / "m.csv")


LISTED = """
import tracemalloc
from pathlib import Path
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.manifest import conflicts, fingerprint_of, rows_of
from lavita.data.scan import Content
from lavita.data.trees import Item, Listing

tracemalloc.start()
ids = [f"v_Archery_g{n // 7:06d}_c{n % 7:02d}" for n in range(200_000)]
items = [Item(i, f"/data/UCF-101/Archery/{i}.avi", f"Archery/{i[:-4]}", "Archery", 0, "train") for i in ids]
contents = [Content(186, f"{n:064x}", 25.0, 320, 240) for n in range(200_000)]
rows = rows_of(Listing(Path("/data"), items), contents, 46)
videos = tuple(
    VideoEntry(i.video_id, i.path, i.group, i.class_name, 0, i.split, c.frames, c.sha256, c.entries)
    for i, c in zip(items, contents)
)
catalogue = Catalogue("ucf101", Path("/data"), videos, ("Archery",), fingerprint_of(rows)).long_enough(16, 3)
assert len(catalogue.split("train")) == 200_000
print(5 * tracemalloc.get_traced_memory()[1])
"""


def test_a_million_videos_fit_in_two_gib():
    """Listing, contents, manifest rows and catalogue held at once: what Python has given out for 200,000 videos at its
    peak, times five. The resident set says less: it begins with that of the process which started this one. (A million
    at once, by hand: 1.50 GB resident.)
    """
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 2 * 2**30
