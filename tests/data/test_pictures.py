"""The door of pictures: every kind is seen as it is meant, or refused by name; an independent PNG writer makes them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.decoding.pictures import picture_paths, picture_size, read_picture
from lavita.data.scan import scan
from lavita.data.video import probe, read_frames
from tests.fuzzing import fuzzed

RNG = np.random.default_rng(0)
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, kind: int, bits: int = 8, **chunks: bytes) -> bytes:
    """A PNG of values (H, W, channels), by RFC 2083, written without any library of pictures."""
    height, width, _ = values.shape
    rows = values.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    parts = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


LEVELS = RNG.integers(0, 256, (5, 7, 1))
COLOURS = RNG.integers(0, 256, (5, 7, 3))
OPAQUE = np.full((5, 7, 1), 255)


@pytest.mark.parametrize(
    ("values", "kind", "bits", "chunks", "wanted"),
    [
        (LEVELS, GREY, 8, {}, LEVELS.repeat(3, 2)),
        (LEVELS * 257, GREY, 16, {}, LEVELS.repeat(3, 2)),
        (COLOURS, RGB, 8, {}, COLOURS),
        (COLOURS * 257, RGB, 16, {}, COLOURS),
        (np.concatenate([COLOURS, OPAQUE], 2), RGB_ALPHA, 8, {}, COLOURS),
        (np.concatenate([COLOURS, OPAQUE], 2) * 257, RGB_ALPHA, 16, {}, COLOURS),
        (np.concatenate([LEVELS, OPAQUE], 2), GREY_ALPHA, 8, {}, LEVELS.repeat(3, 2)),
        (LEVELS % 3, PALETTE, 8, {"PLTE": bytes(range(9))}, np.arange(9).reshape(3, 3)[LEVELS[..., 0] % 3]),
    ],
)
def test_kinds_of_png(tmp_path, values, kind, bits, chunks, wanted):
    """Case png16: 16-bit grey was white; here are all its kin."""
    path = written(tmp_path / "1.png", png(values, kind, bits, **chunks))
    assert np.array_equal(read_picture(path), wanted)
    assert picture_size(path, True) == picture_size(path, False) == (7, 5)


def test_the_same_pictures_in_16_and_8_bits_are_the_same_clip(tmp_path):
    """Case png16: FVD was 1398 and 934 for these."""
    for number in range(4):
        for name, scale, bits in (("16", 257, 16), ("8", 1, 8)):
            (tmp_path / name).mkdir(exist_ok=True)
            written(tmp_path / name / f"{number}.png", png(np.roll(LEVELS, number, 1) * scale, GREY, bits))
    assert np.array_equal(read_frames(tmp_path / "16", range(4)), read_frames(tmp_path / "8", range(4)))
    assert [one.status for one in scan([tmp_path / "16", tmp_path / "8"], tmp_path)] == ["ok", "ok"]


def half_seen() -> np.ndarray:
    alpha = OPAQUE.copy()
    alpha[2, 3] = 254
    return alpha


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(np.concatenate([COLOURS, half_seen()], 2), RGB_ALPHA), "transparent"),
        (png(np.concatenate([LEVELS, half_seen()], 2), GREY_ALPHA), "transparent"),
        (png(LEVELS, GREY, tRNS=struct.pack(">H", int(LEVELS[0, 0, 0]))), "transparent"),
        (png(LEVELS * 257, GREY, 16, tRNS=struct.pack(">H", 0)), "transparent"),
        (png(LEVELS % 3, PALETTE, PLTE=bytes(range(9)), tRNS=b"\xff\x00"), "transparent"),
        (png(LEVELS, GREY, acTL=struct.pack(">II", 2, 0), fcTL=struct.pack(">IIIIIHHBB", 0, 7, 5, 0, 0, 1, 10, 0, 0)),
         "animated"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (png(COLOURS, RGB)[:-30], "truncated"),
        (b"", "not a picture"),
    ],
)  # fmt: skip
def test_what_nobody_can_know_is_refused_by_name(tmp_path, content, reason):
    path = written(tmp_path / "1.png", content)
    for door in (read_picture, lambda one: picture_size(one, True)):
        with pytest.raises(UnreadableVideo, match=reason):
            door(path)
    (content_of,) = scan([tmp_path], tmp_path)
    assert content_of.status == "unreadable" and reason in content_of.reason


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("F", "tiff"), ("LAB", "tiff"), ("I", "tiff")])
def test_other_kinds_of_colour_are_refused_by_name(tmp_path, mode, suffix):
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, {"jpg": "JPEG", "tiff": "TIFF"}[suffix])
    with pytest.raises(UnreadableVideo, match=f"mode {mode}"):
        read_picture(written(tmp_path / "1.jpg", buffer.getvalue()))


# Where the stored pixel (row, column) of a picture of H rows and W columns is seen, by EXIF's table (JEITA CP-3451).
SEEN_AT = {
    1: lambda r, c, h, w: (r, c), 2: lambda r, c, h, w: (r, w - 1 - c), 3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),
    4: lambda r, c, h, w: (h - 1 - r, c), 5: lambda r, c, h, w: (c, r), 6: lambda r, c, h, w: (c, h - 1 - r),
    7: lambda r, c, h, w: (w - 1 - c, h - 1 - r), 8: lambda r, c, h, w: (w - 1 - c, r),
}  # fmt: skip


@pytest.mark.parametrize("tag", SEEN_AT)
@pytest.mark.parametrize("kind", ["png", "grey16", "rgba", "jpg"])
def test_orientation_tags(tmp_path, tag, kind):
    exif = Image.Exif()
    exif[0x0112] = tag
    path, stored = tmp_path / f"1.{kind[-3:] if kind == 'jpg' else 'png'}", COLOURS.astype(np.uint8)
    if kind == "png":
        Image.fromarray(stored).save(path, exif=exif)
    elif kind == "grey16":
        stored = LEVELS.repeat(3, 2).astype(np.uint8)
        written(path, png(LEVELS * 257, GREY, 16, eXIf=exif.tobytes().removeprefix(b"Exif\0\0")))
    elif kind == "rgba":
        Image.fromarray(np.concatenate([stored, OPAQUE.astype(np.uint8)], 2)).save(path, exif=exif)
    else:
        Image.fromarray(stored).save(path, exif=exif, quality=95)
        stored = np.asarray(Image.open(path))  # as stored, whatever JPEG made of it
    height, width = stored.shape[:2]
    wanted = np.zeros((width, height, 3) if tag >= 5 else stored.shape, np.uint8)
    for row in range(height):
        for column in range(width):
            wanted[SEEN_AT[tag](row, column, height, width)] = stored[row, column]
    assert np.array_equal(read_picture(path), wanted)
    assert picture_size(path, True) == picture_size(path, False) == (wanted.shape[1], wanted.shape[0])


def frame_folder(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        kind = "JPEG" if name.lower().endswith(("jpg", "jpeg")) else "PNG"
        Image.new("RGB", (8, 8)).save(folder / name, kind)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("1.png", "01.png"), ("frame1.png", "frame01.jpg"), ("3.jpg", "3.png"), ("3.jpg", "3.JPEG"),
        ("f1.png", "f1 (1).png"), ("f1.png", "f1(2).png"), ("f1.png", "f1 copy.png"), ("f1.png", "f1 - Copy.png"),
        ("f1.png", "F1.jpg"),
    ],
)  # fmt: skip
def test_two_pictures_of_one_number_are_refused(tmp_path, names):
    folder = frame_folder(tmp_path / "clip", "0.png", *names)
    with pytest.raises(UnreadableVideo, match="have one number|is a copy of"):
        picture_paths(folder)
    assert scan([folder], tmp_path)[0].status == "unreadable"


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    names = [f"frame{number}.png" for number in range(1, 21)]
    folder = frame_folder(tmp_path / "clip", *sorted(names))
    assert [path.name for path in picture_paths(folder)] == names
    assert [path.name for path in picture_paths(frame_folder(tmp_path / "b", "²3.png", "²20.png"))] == [
        "²3.png",
        "²20.png",
    ]


WHOLE = png(np.concatenate([COLOURS, OPAQUE], 2), RGB_ALPHA)


@fuzzed(150)
@given(st.integers(8, len(WHOLE) - 1), st.integers(1, 255), st.integers(0, len(WHOLE)))
def test_a_changed_png_is_never_seen_wrongly(tmp_path_factory, place, change, cut):
    """Its checksums tell: right pixels, or refused, never a traceback."""
    changed = bytearray(WHOLE)
    changed[place] ^= change
    for content in (bytes(changed), WHOLE[:cut]):
        path = written(tmp_path_factory.getbasetemp() / "fuzz.png", content)
        try:
            assert np.array_equal(read_picture(path), COLOURS)
        except UnreadableVideo as error:
            assert "\n" not in str(error)


@fuzzed(100)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0"]),
)
def test_any_bytes_are_refused_in_one_line(tmp_path_factory, content, magic):
    path = written(tmp_path_factory.getbasetemp() / "any.jpg", magic + content)
    try:
        read_picture(path)
    except UnreadableVideo as error:
        assert "\n" not in str(error)


def test_a_folder_of_pictures_is_counted_by_what_can_be_read(tmp_path):
    folder = frame_folder(tmp_path / "clip", "1.png", "2.png")
    assert (probe(folder, thorough=True).frames, probe(folder).frames) == (2, 2)
    Image.new("RGB", (8, 9)).save(folder / "3.png")
    with pytest.raises(UnreadableVideo, match="different sizes"):
        probe(folder)
