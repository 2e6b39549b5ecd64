"""Known traps of published FVD code, in how clips are found, cut and stored: a faulty stand-in fails, ours passes.

The numbers of the traps are those of docs/traps.md.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import lavita
from lavita.data.clips import centre_crop_resize, to_uint8
from lavita.data.decoding.pictures import picture_paths
from lavita.data.video import probe, read_frames, write_video
from lavita.metrics.clips import Pick, array_items, clip_items, picked_frames, view
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain
from tests.traps.faulty import protocol

RNG = np.random.default_rng(0)


def counting(frames: int) -> np.ndarray:
    """Frame t is grey level 10 t."""
    return np.broadcast_to((10 * np.arange(frames, dtype=np.uint8))[:, None, None, None], (frames, 16, 16, 3)).copy()


def test_12_frames_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(1, 21):
        Image.fromarray(counting(21)[number]).save(tmp_path / f"frame{number}.png")
    by_text = [Path(name).stem for name in sorted(path.name for path in tmp_path.iterdir())]
    assert by_text[:3] == ["frame1", "frame10", "frame11"]
    assert [path.stem for path in picture_paths(tmp_path)] == [f"frame{number}" for number in range(1, 21)]
    assert read_frames(tmp_path, range(20))[:, 0, 0, 0].tolist() == [10 * number for number in range(1, 21)]


def test_13_clips_do_not_depend_on_the_order_of_a_directory(tmp_path):
    names = [f"c{number}" for number in range(6)]
    for folder, order in (("a", names), ("b", names[::-1])):
        for name in order:
            write_video(tmp_path / folder / f"{name}.mkv", counting(4 + int(name[1])), 8, lossless=True)
    first, second = (clip_items(tmp_path / folder) for folder in "ab")
    assert [one.name for one in first] == [one.name for one in second] == names
    assert [one.count() for one in first] == [one.count() for one in second]


def next_instead(videos: list[np.ndarray], frames: int) -> list[int]:
    """Trap 14: a video that is too short is replaced by the one after it."""
    return [k if len(videos[k]) >= frames else (k + 1) % len(videos) for k in range(len(videos))]


def test_14_a_short_video_is_an_error_and_no_other_one(tmp_path):
    videos = [counting(3 if k == 2 else 8) for k in range(4)]
    assert next_instead(videos, 4) == [0, 1, 3, 3]
    for number, frames in enumerate(videos):
        write_video(tmp_path / f"v{number}.mkv", frames, 8, lossless=True)
    items = clip_items(tmp_path)
    with pytest.raises(ValueError, match="clip v2: 3 frames; protocol .* takes 4"):
        [picked_frames(item, protocol(4), False, Pick(k, 0)) for k, item in enumerate(items)]


def test_15_the_stride_is_applied_before_cutting():
    video = counting(20)
    assert len(video[:4][::3]) == 2  # 2 frames, called 4
    (item,) = array_items(video[None])
    indices = picked_frames(item, protocol(1 + 1, interval=3), True, Pick(0, 0))
    assert indices == [0, 3, 6, 9]
    seen = view(item, item.read(indices), protocol(2, interval=3), True)
    assert seen[:, 0, 0, 0].tolist() == [0, 30, 60, 90]


def test_16_frames_are_counted_and_not_played(tmp_path):
    """A GIF of 16 frames became 128 by its delays; frames of a variable rate are 16, whatever their time stamps."""
    frames = [Image.fromarray(frame) for frame in counting(16)]
    (tmp_path / "clips").mkdir()
    frames[0].save(tmp_path / "clips" / "a.gif", save_all=True, append_images=frames[1:], duration=80)
    with Image.open(tmp_path / "clips" / "a.gif") as gif:
        played = sum(int(gif.info["duration"]) // 10 for _ in range(gif.n_frames))
    assert played == 128
    with pytest.raises(ValueError, match="found 1 file .*gif"):
        clip_items(tmp_path / "clips")
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        for number, frame in enumerate(counting(16)):
            shown = av.VideoFrame.from_ndarray(frame, format="rgb24")
            shown.pts, shown.time_base = number * number, Fraction(1, 8)
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    assert probe(path).frames == 16
    assert read_frames(path, range(16))[:, 0, 0, 0].tolist() == counting(16)[:, 0, 0, 0].tolist()


def test_17_levels_are_rounded_and_not_cut_off():
    """Cutting off makes one side darker by half a level; the standard error of 200,000 uniform rests is 0.0007."""
    levels = RNG.uniform(10, 240, (4, 128, 128, 3))
    assert levels.astype(np.uint8).mean() - levels.mean() == pytest.approx(-0.5, abs=0.01)
    video = torch.from_numpy(levels / 127.5 - 1).permute(0, 3, 1, 2).float()
    assert to_uint8(video).mean() - levels.mean() == pytest.approx(0, abs=0.01)


def test_18_reducing_averages():
    """A chessboard of single pixels reduced by two: grey by a filter that widens, black or white without."""
    board = np.indices((32, 32)).sum(0) % 2 * 255
    frame = np.repeat(board[..., None], 3, 2).astype(np.uint8)
    assert set(np.unique(frame[::2, ::2])) <= {0, 255}
    inside = centre_crop_resize(frame[None], 16)[0, 2:-2, 2:-2]
    assert np.abs(inside.astype(int) - 127.5).max() <= 1


@pytest.mark.parametrize("scale", [lambda clips: clips / 255.0, lambda clips: clips / 127.5 - 1])
def test_20_arrays_of_another_range_are_refused(scale):
    clips = RNG.integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    for kind in (np.float32, np.float64):
        with pytest.raises(ValueError, match="wanted uint8"):
            array_items(scale(clips).astype(kind))
    assert np.abs(scale(clips).astype(int)).max() <= 1  # what a silent conversion would score


def test_25_8_frames_of_9_are_missing_by_name():
    (item,) = array_items(counting(8)[None])
    with pytest.raises(ValueError, match="8 frames; protocol .* takes 9"):
        picked_frames(item, protocol(2, frames=9), False, Pick(0, 0))


def test_26_reference_features_are_those_of_the_clips_at_hand(tmp_path):
    """A cache named by its extractor scored the second data set against the first."""
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(3), {}), tmp_path / "net.safetensors")
    one, other, generated = RNG.integers(0, 256, (3, 4, 4, 16, 16, 3), dtype=np.uint8)
    other //= 2
    (tmp_path / "real").mkdir()

    def fvd(clips: np.ndarray) -> float:
        np.save(tmp_path / "real.npy", clips)  # the same name again
        (found,), failed = lavita.evaluate(
            tmp_path / "real.npy", generated, "suite", clips=4, extractor=f"embedded:{tmp_path}/net.safetensors",
            overrides={"protocol.frames": 4, "protocol.resolution": 16}, metrics=["fvd"], sensitivity=False,
        )  # fmt: skip
        assert not failed
        return next(score.value for score in found.scores if score.stage == "generated")

    kept: dict[str, float] = {}
    stale = [kept.setdefault("features of embedded", fvd(clips)) for clips in (one, other)]
    assert stale[0] == stale[1]
    assert fvd(one) == stale[0] and abs(fvd(other) - stale[0]) > 1e-3 * stale[0]
