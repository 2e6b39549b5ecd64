"""The decoder against a full decode by PyAV itself, against known pixels, and on files that are no videos."""

from __future__ import annotations

import pickle

import av
import numpy as np
import pytest
from PIL import Image

from lavita.data import video
from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.video import probe, read_frames, write_video

RNG = np.random.default_rng(0)


def full_decode(path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def as_rgb(frames: list[av.VideoFrame], indices: list[int]) -> np.ndarray:
    return np.stack([frames[index].to_ndarray(format="rgb24") for index in indices])


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_lossless_round_trip_is_bit_for_bit_and_repeatable(tmp_path, size):
    frames = RNG.integers(0, 256, (9, *size, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mkv", frames, 25, lossless=True)
    again = write_video(tmp_path / "b.mkv", frames, 25, lossless=True)
    assert np.array_equal(read_frames(path, range(9)), frames)
    assert path.read_bytes() == again.read_bytes()
    assert (probe(path).frames, probe(path).height, probe(path).width) == (9, *size)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_equal_videos_give_equal_files(tmp_path, name):
    """Pictures of few blocks with moving detail, and reading in between so that memory is used again."""
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    frames = np.stack([np.where(np.arange(64)[:, None, None] < 4 * t, noise, 90) for t in range(8)]).astype(np.uint8)
    written = set()
    for _ in range(40):
        path = write_video(tmp_path / name, frames, 25, lossless=name == "a.mkv")
        written.add(path.read_bytes())
        read_frames(path, range(8))
    assert len(written) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_lossy_files_have_the_frames_in_order(tmp_path, counting_frames, name):
    """Neighbouring frames are 3 levels apart, so half of that distinguishes them; odd sizes gain a row or
    column.
    """
    frames = counting_frames(60, 33, 47)
    path = write_video(tmp_path / name, frames, 12.5, lossless=False)
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.height) == (60, 12.5, 48, 34)
    levels = read_frames(path, [59, 0, 30, 31, 30]).mean(axis=(1, 2, 3))
    assert np.abs(levels - [177, 0, 90, 93, 90]).max() < 1.5


def test_frame_numbers_are_exact_with_b_frames(tmp_path):
    """x264 reorders frames here (B-frames); every subset must equal the same frames of a full decode."""
    noise = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frames = np.stack([np.roll(noise, (t, 2 * t), (0, 1)) for t in range(50)])
    path = write_video(tmp_path / "b.mp4", frames, 25, lossless=False)
    everything = full_decode(path)
    kinds = {int(frame.pict_type) for frame in everything}
    assert int(av.video.frame.PictureType.B) in kinds and len(everything) == 50
    for indices in ([0], [49], [7, 10, 13, 16], [41, 3, 3, 22]):
        assert np.array_equal(read_frames(path, indices), as_rgb(everything, indices))


@pytest.mark.parametrize("name", ["ApplyEyeMakeup_g01_c01", "CricketShot_g04_c01"])
def test_real_ucf101_frames_are_exact(shared, name):
    """The first has one key frame and time stamps out of order, so a seek by time would give other frames."""
    path = shared("ucf101") / "UCF-101" / name.split("_")[0] / f"v_{name}.avi"
    everything = full_decode(path)
    indices = list(range(30, 76, 3))
    assert probe(path).frames == len(everything)
    assert np.array_equal(read_frames(path, indices), as_rgb(everything, indices))


def test_decoding_stops_at_the_last_frame_asked_for(tmp_path, counting_frames, monkeypatch):
    path = write_video(tmp_path / "a.mkv", counting_frames(40), 25, lossless=True)
    seen = []
    decode = video.decode
    monkeypatch.setattr(video, "decode", lambda *given: (seen.append(1) or item for item in decode(*given)))
    assert read_frames(path, [4, 6])[:, 0, 0, 0].tolist() == [12, 18]
    assert len(seen) == 7


def test_frame_folder_counts_by_number(tmp_path, counting_frames):
    for number, frame in zip((1, 2, 10, 11), counting_frames(4), strict=True):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    info = probe(tmp_path)
    assert (info.frames, info.fps, info.width, info.height) == (4, None, 48, 32)
    assert read_frames(tmp_path, [3, 0, 2, 1])[:, 0, 0, 0].tolist() == [9, 0, 6, 3]


def broken_files(folder, frames) -> dict[str, str]:
    """Path of each broken video and a word of the reason that must be given."""
    for suffix in ("avi", "mp4", "mkv"):
        whole = write_video(folder / f"whole.{suffix}", frames, 25, lossless=suffix == "mkv").read_bytes()
        (folder / f"half.{suffix}").write_bytes(whole[: len(whole) // 2])
        (folder / f"last_byte.{suffix}").write_bytes(whole[:-1])
        damaged = whole[:200] + bytes(len(whole) - 200)
        (folder / f"damaged.{suffix}").write_bytes(damaged)
    (folder / "zero.avi").write_bytes(b"")
    (folder / "text.avi").write_text("This is a text.\n" * 100)
    (folder / "empty").mkdir()
    (folder / "cut").mkdir()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "cut" / "1.jpg")
    jpeg = (folder / "cut" / "1.jpg").read_bytes()
    (folder / "cut" / "1.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    cuts = {f"{kind}.{suffix}": "truncated" for kind in ("half", "last_byte") for suffix in ("avi", "mp4", "mkv")}
    damages = {f"damaged.{suffix}": "" for suffix in ("avi", "mp4", "mkv")}
    others = {
        "zero.avi": "empty",
        "text.avi": "not a video",
        "empty": "no picture",
        "cut": "truncated",
        "no": "no such",
    }
    return cuts | damages | others


def test_broken_files_raise_one_line_and_nothing_is_printed(tmp_path, counting_frames, capfd):
    for name, word in broken_files(tmp_path, counting_frames(30)).items():
        for read in (probe, lambda path: read_frames(path, [0, 29])):
            with pytest.raises(UnreadableVideo) as caught:
                read(tmp_path / name)
            message = str(caught.value)
            assert str(tmp_path / name) in message and word in message and "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_unreadable_video_survives_pickling_and_rebuilding():
    error = UnreadableVideo("a.avi", "truncated")
    assert str(pickle.loads(pickle.dumps(error))) == str(UnreadableVideo(str(error))) == "a.avi: truncated"


@pytest.mark.parametrize("indices", [[], [-1], [5]])
def test_frames_that_do_not_exist_are_refused(tmp_path, counting_frames, indices):
    path = write_video(tmp_path / "a.mkv", counting_frames(5), 25, lossless=True)
    with pytest.raises(ValueError, match="got frame ind"):
        read_frames(path, indices)


def test_a_failed_write_leaves_nothing(tmp_path, counting_frames, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(video.np, "ascontiguousarray", fail)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mkv", counting_frames(5), 25, lossless=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, lossless", [("a.mp4", True), ("a.mkv", False), ("a.gif", False)])
def test_write_refuses_other_suffixes(tmp_path, counting_frames, name, lossless):
    with pytest.raises(ValueError, match="allowed"):
        write_video(tmp_path / name, counting_frames(2), 25, lossless=lossless)


def test_write_refuses_other_arrays(tmp_path, counting_frames):
    with pytest.raises(ValueError, match="wanted uint8"):
        write_video(tmp_path / "a.mkv", counting_frames(2).astype(np.float32), 25, lossless=True)
