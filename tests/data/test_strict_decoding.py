"""What passes the check can be read by a run: changing sizes, hidden damage, mirrors, colours and alpha of videos."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.decoding.lossless import stored_as
from lavita.data.scan import scan
from lavita.data.video import each_frame, probe, read_frames, write_video
from tests.fuzzing import fuzzed

RNG = np.random.default_rng(0)


def jpeg_video(path: Path, sizes: list[tuple[int, int]]) -> Path:
    """An AVI of motion JPEG whose pictures have these sizes (width, height)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuvj420p"
        for number, size in enumerate(sizes):
            buffer = io.BytesIO()
            Image.new("RGB", size, (90, 90, 90)).save(buffer, "JPEG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 8)
            packet.is_keyframe = True
            container.mux(packet)
    return path


@pytest.mark.parametrize("place", [1, 10, 21])
@pytest.mark.parametrize("other", [(64, 48), (32, 48), (48, 32)])
def test_a_frame_size_that_changes_is_unreadable_wherever_it_does(tmp_path, place, other):
    """Case frame-size-change: the check passed, and a run stopped in the middle."""
    path = jpeg_video(tmp_path / "changes.avi", [(32, 32)] * place + [other] * (22 - place))
    (content,) = scan([path], tmp_path)
    assert content.status == "unreadable" and f"the frame size changes at frame {place}" in content.reason
    for read in (lambda: read_frames(path, [0, 21]), lambda: list(each_frame(path)), lambda: probe(path)):
        with pytest.raises(UnreadableVideo, match="the frame size changes"):
            read()


def moving(count: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    noise = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, (t, 2 * t), (0, 1)) for t in range(count)])


def decoded_leniently(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """The frames of a file with the decoder's checks off, and what FFmpeg itself calls errors."""
    with av.logging.Capture() as said, av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        try:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        except av.FFmpegError:
            return [], []
    return frames, [text for level, _, text in said if level <= av.logging.ERROR]


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this FFmpeg has no x264")
def test_damage_that_the_decoder_hides_is_found(tmp_path):
    """Case concealed-damage: three wrong bytes, all 24 frames there, and only FFmpeg's log knows."""
    whole = write_video(tmp_path / "whole.mp4", moving(), 8, lossless=False)
    content, hidden = whole.read_bytes(), 0
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        for number in range(24):
            start = int(len(content) * (0.2 + 0.03 * number))
            path = tmp_path / f"{number}.mp4"
            path.write_bytes(
                content[:start] + bytes(byte ^ 0xFF for byte in content[start : start + 3]) + content[start + 3 :]
            )
            frames, errors = decoded_leniently(path)
            if len(frames) == 24 and any("error" in text for text in errors):
                hidden += 1
                (found,) = scan([path], tmp_path)
                assert found.status == "unreadable" and found.reason, (start, errors)
    finally:
        av.logging.set_level(before)
    assert hidden >= 2 and scan([whole], tmp_path)[0].status == "ok"


def with_matrix(content: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4's bytes with another display matrix (a, b, c, d) in its track header (version 0)."""
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    return content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[place + 36 :]


MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0),
            (0, -1, -1, 0)]  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES)
def test_turned_and_mirrored_videos_are_seen_upright(tmp_path, matrix):
    plain = write_video(tmp_path / "plain.mp4", moving(3, 16, 32), 8, lossless=False)
    path = tmp_path / "turned.mp4"
    path.write_bytes(with_matrix(plain.read_bytes(), matrix))
    stored, (a, b, c, d) = read_frames(plain, [0, 2]), matrix
    height, width = stored.shape[1:3]
    rows, columns = np.mgrid[:height, :width]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    wanted = np.zeros((2, y.max() + 1, x.max() + 1, 3), np.uint8)
    wanted[:, y, x] = stored
    assert np.array_equal(read_frames(path, [0, 2]), wanted)
    assert (probe(path).height, probe(path).width) == wanted.shape[1:3]


def test_a_slanted_display_matrix_is_refused(tmp_path):
    plain = write_video(tmp_path / "plain.mp4", moving(3, 16, 32), 8, lossless=False)
    (tmp_path / "slanted.mp4").write_bytes(with_matrix(plain.read_bytes(), (1, 1, -1, 1)))
    with pytest.raises(UnreadableVideo, match="no quarter turn or mirror"):
        probe(tmp_path / "slanted.mp4")


# Kr and Kb of the matrices, by FFmpeg's number for them (ITU-R BT.601, BT.709, BT.2020; ITU-T H.273, table 4).
COEFFICIENTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}


def yuv(rgb: np.ndarray, matrix: int, full: bool, bits: int) -> list[np.ndarray]:
    """Planes of Y, Cb, Cr (H, W) of RGB 0..255, by the formulas of ITU-R BT.709 and BT.2020."""
    red, blue = COEFFICIENTS[matrix]
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    unit = 2 ** (bits - 8)
    luma = (0, 2**bits - 1) if full else (16 * unit, 219 * unit)
    chroma = (128 * unit, 2**bits - 1) if full else (128 * unit, 224 * unit)
    planes = [luma[0] + luma[1] * y, chroma[0] + chroma[1] * cb, chroma[0] + chroma[1] * cr]
    return [np.clip(np.round(plane), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else "<u2") for plane in planes]


def ffv1(path: Path, planes: list[np.ndarray], pixels: str, transfer: int = 1, **tags: int) -> Path:
    """A Matroska file of FFV1, two equal frames of these planes, with tags of its colours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        height, width = planes[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for key, value in tags.items():
            setattr(stream.codec_context, key, value)
        stream.codec_context.color_trc = transfer
        for number in range(2):
            frame = av.VideoFrame(width, height, pixels)
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.zeros((height, plane.line_size), np.uint8)
                packed = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
                rows[:, : packed.shape[1]] = packed
                plane.update(rows.tobytes())
            frame.pts = number
            for key, value in tags.items():
                setattr(frame, {"color_range": "color_range", "colorspace": "colorspace"}[key], value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


COLOURS = RNG.integers(0, 256, (16, 24, 3)).astype(np.uint8)


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixels", "bits"), [("yuv444p", 8), ("yuv444p10le", 10)])
def test_colours_are_those_that_the_file_says(tmp_path, matrix, full, pixels, bits):
    """Half a step of each plane is at most 2 levels of RGB in 8 bits; a wrong matrix or range is above 10."""
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = ffv1(tmp_path / "a.mkv", yuv(COLOURS, matrix, full, bits), pixels, **tags)
    seen = read_frames(path, [0])[0].astype(int)
    assert np.abs(seen - COLOURS).max() <= 3


def test_untagged_videos_are_bt601_of_limited_range(tmp_path):
    """As FFmpeg, OpenCV and decord have it; documented, since nobody can know."""
    path = ffv1(tmp_path / "a.mkv", yuv(COLOURS, 5, False, 8), "yuv444p", transfer=2)
    assert np.abs(read_frames(path, [0])[0].astype(int) - COLOURS).max() <= 3


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused_by_name(tmp_path, transfer, name):
    path = ffv1(tmp_path / "a.mkv", yuv(COLOURS, 5, False, 8), "yuv444p", transfer=transfer)
    with pytest.raises(UnreadableVideo, match=name):
        probe(path)


@pytest.mark.parametrize("least", [255, 254])
def test_alpha_is_opaque_or_refused(tmp_path, least):
    alpha = np.full((16, 24, 1), 255, np.uint8)
    alpha[3, 4] = least
    bgra = np.concatenate([COLOURS[..., ::-1], alpha], 2)
    path = ffv1(tmp_path / "a.mkv", [bgra], "bgra")
    (content,) = scan([path], tmp_path)
    if least == 255:
        assert content.status == "ok" and np.array_equal(read_frames(path, [1])[0], COLOURS)
    else:
        assert content.status == "unreadable" and "transparent" in content.reason


def encoded(path: Path, codec: str, pixels: str, options: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for frame in moving(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options", "stored"),
    [
        ("a.mkv", "ffv1", "bgr0", {}, "lossless"),
        ("a.avi", "ffv1", "yuv420p", {}, "lossless"),
        ("a.avi", "rawvideo", "bgr24", {}, "lossless"),
        ("a.avi", "huffyuv", "yuv422p", {}, "lossless"),
        ("a.mkv", "mpeg4", "yuv420p", {}, "video"),
        ("a.avi", "mpeg4", "yuv420p", {}, "video"),
        ("a.mkv", "libx264", "yuv420p", {"crf": "18"}, "video"),
        ("a.mp4", "libx264", "yuv420p", {"crf": "18"}, "video"),
        ("a.mp4", "libx264", "yuv444p", {"crf": "18"}, "video"),
        ("a.mp4", "libx264", "yuv420p", {"qp": "0"}, "lossless"),
        ("a.mkv", "libx264", "yuv444p", {"qp": "0"}, "lossless"),
        ("a.avi", "libx264", "yuv444p", {"qp": "0"}, "lossless"),
    ],
)
def test_the_codec_says_whether_anything_was_lost(tmp_path, name, codec, pixels, options, stored):
    """Case mkv-lossy: the same packets scored 68.4 in .mkv and 64.7 in .mp4."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    assert stored_as(encoded(tmp_path / name, codec, pixels, options)) == stored


def test_a_folder_with_any_jpeg_is_jpeg_whatever_its_name(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert stored_as(tmp_path) == "lossless"
    Image.new("RGB", (8, 8)).save(tmp_path / "2.png", "JPEG")
    assert stored_as(tmp_path) == "jpeg"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[bytes, np.ndarray]:
    frames = moving(3, 8, 12)
    return write_video(tmp_path_factory.mktemp("small") / "a.mkv", frames, 8, lossless=True).read_bytes(), frames


@fuzzed(60)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_a_changed_file_is_right_or_refused(small, tmp_path_factory, where, change, cut):
    """FFV1 has checksums: no changed byte may give other frames, a traceback or a hang."""
    content, frames = small
    place = int(where * len(content))
    path = tmp_path_factory.getbasetemp() / "changed.mkv"
    path.write_bytes(content[:place] + (b"" if cut else bytes([content[place] ^ change]) + content[place + 1 :]))
    try:
        info = probe(path, thorough=True)
        found = read_frames(path, range(info.frames))
    except UnreadableVideo as error:
        assert "\n" not in str(error)
    else:
        assert info.frames <= 3 and np.array_equal(found, frames[: info.frames])
