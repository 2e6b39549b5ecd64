"""Stated lengths of hand-made containers, byte by byte."""

from __future__ import annotations

import pytest

from lavita.data.decoding.containers import Defect, defect


def riff(payload: int) -> bytes:
    return b"RIFF" + (payload + 4).to_bytes(4, "little") + b"AVI " + bytes(payload)


def box(kind: bytes, payload: int, wide: bool = False) -> bytes:
    if wide:
        return (1).to_bytes(4, "big") + kind + (payload + 16).to_bytes(8, "big") + bytes(payload)
    return (payload + 8).to_bytes(4, "big") + kind + bytes(payload)


def ebml(header_size: bytes, header: int, segment_size: bytes, segment: int) -> bytes:
    head = b"\x1a\x45\xdf\xa3" + header_size + bytes(header)
    return head + b"\x18\x53\x80\x67" + segment_size + bytes(segment)


WHOLE = {
    "avi": riff(50),
    "avi of two RIFF chunks": riff(40) + riff(30).replace(b"AVI ", b"AVIX"),
    "mp4": box(b"ftyp", 16) + box(b"moov", 40) + box(b"mdat", 20),
    "mp4 with a 64-bit box": box(b"ftyp", 16) + box(b"mdat", 100, wide=True) + box(b"moov", 4),
    # Sizes of 1, 2 and 8 bytes: the leading zero bits say how many follow.
    "matroska": ebml(b"\x8a", 10, b"\x40\x32", 50),
    "matroska, long size": ebml(b"\x40\x0a", 10, b"\x01" + (60).to_bytes(7, "big"), 60),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_cut_is_found(tmp_path, name):
    """Cut where one part ends and the next begins, a file may look whole: only AVI and MP4 have such
    places.
    """
    whole, path = WHOLE[name], tmp_path / "file"
    path.write_bytes(whole)
    assert defect(path) is None
    seams = {"avi of two RIFF chunks": range(52, 60), "mp4": [24, 72, *range(25, 32), *range(73, 80)]}
    seams["mp4 with a 64-bit box"] = [24, *range(25, 40), 140, *range(141, 148)]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert defect(path) is not None or length in seams.get(name, []), length


@pytest.mark.parametrize(
    "content",
    [
        riff(50) + b"\0" * 5,
        box(b"ftyp", 16) + (0).to_bytes(4, "big") + b"mdat" + bytes(9),
        box(b"ftyp", 16) + box(b"mdat", 5) + b"\0" * 40,
        ebml(b"\x8a", 10, b"\x01" + b"\xff" * 7, 33),
    ],
    ids=["padding after AVI", "box to the end", "padding after MP4", "Matroska of unknown length"],
)
def test_unstated_lengths_count_as_whole(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert defect(tmp_path / "file") is None


def test_reasons_name_both_lengths(tmp_path):
    (tmp_path / "file").write_bytes(riff(50)[:40])
    assert defect(tmp_path / "file") == Defect("unreadable", "truncated: 40 bytes of 62")
