"""Clips of folders and arrays as a protocol sees them: names, choice, cut, size and codec."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from lavita.config.protocol import Protocol
from lavita.data.clips import centre_crop_resize
from lavita.data.video import write_video
from lavita.metrics.clips import (
    ClipItem,
    Pick,
    TooFew,
    clip_items,
    jpeg,
    mp4,
    names_are_unique,
    picked_frames,
    picks,
    through,
    view,
)

RNG = np.random.default_rng(0)
FOLDER = Path(__file__).parents[2] / "configs" / "protocols"


def protocol(name: str, **changes) -> Protocol:
    base = Protocol.from_dict({"name": name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text())})
    return base.derive(**({"is_splits": 1} | changes))


def moving(frames: int, side: int = 16) -> np.ndarray:
    noise = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, t, 1) for t in range(frames)])


def item(frames: np.ndarray, stored: str = "lossless", name: str = "a") -> ClipItem:
    return ClipItem(name, lambda indices: frames[list(indices)], lambda: len(frames), lambda: stored)


def seen(one: ClipItem, protocol, real: bool, pick: Pick) -> np.ndarray:
    """The clip of an item that a protocol scores."""
    return view(one, one.read(picked_frames(one, protocol, real, pick)), protocol, real)


def test_folders_and_arrays_hold_the_same_clips(tmp_path):
    clips = np.stack([moving(5) for _ in range(3)])
    for number, clip in enumerate(clips):
        write_video(tmp_path / "files" / f"c{number}.mkv", clip, 8, lossless=True)
        (tmp_path / "folders" / f"c{number}").mkdir(parents=True)
        for index, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / "folders" / f"c{number}" / f"{index}.png")
    np.savez(tmp_path / "a.npz", clips=clips)
    np.save(tmp_path / "a.npy", clips)
    for place in ("files", "folders", "a.npz", "a.npy"):
        items = clip_items(tmp_path / place)
        assert [one.stored() for one in items] == ["lossless"] * 3 and [one.count() for one in items] == [5] * 3
        assert np.array_equal(np.stack([one.read(range(5)) for one in items]), clips), place
    assert [one.name for one in clip_items(tmp_path / "files")] == ["c0", "c1", "c2"]
    assert [one.name for one in clip_items(tmp_path / "a.npy")] == ["000000", "000001", "000002"]


def test_how_frames_lie_on_disk_is_known(tmp_path):
    write_video(tmp_path / "b.mp4", moving(4), 8, lossless=False)
    (tmp_path / "a").mkdir()
    Image.fromarray(moving(1)[0]).save(tmp_path / "a" / "1.jpg")
    assert [(one.name, one.stored()) for one in clip_items(tmp_path)] == [("a", "jpeg"), ("b", "video")]


def bad_inputs(folder: Path) -> dict[str, str]:
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("")
    np.save(folder / "float.npy", np.zeros((2, 3, 4, 4, 3)))
    np.save(folder / "flat.npy", np.zeros((2, 3), np.uint8))
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(folder / "key.npz", videos=np.zeros((1, 1, 1, 1, 3), np.uint8))
    (folder / "broken.npz").write_bytes(b"PK\3\4 not a zip")
    return {
        "empty": "no clips", "gone": "no such file", "text.txt": "neither", "float.npy": "got float64",
        "flat.npy": r"wanted uint8 \(N, F, H, W, 3\)", "object.npy": "Python objects",
        "key.npz": "got keys videos, wanted clips", "broken.npz": "not an array",
    }  # fmt: skip


def test_what_is_no_set_of_clips_is_refused_in_one_line(tmp_path):
    for name, words in bad_inputs(tmp_path).items():
        with pytest.raises(ValueError, match=words) as caught:
            clip_items(tmp_path / name)
        assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_two_clips_of_one_name_are_refused(tmp_path):
    for name in ("a.mp4", "a.avi"):
        write_video(tmp_path / name, moving(4), 8, lossless=False)
    with pytest.raises(ValueError, match="two clips are named a"):
        names_are_unique(clip_items(tmp_path), tmp_path)


def test_generated_clips_are_the_first_real_ones_drawn_or_sorted():
    items = [item(moving(16), name=str(number)) for number in range(9)]
    latte, stylegan = protocol("latte-2024", n=4), protocol("stylegan-v", n=4)
    assert picks(items, latte, real=False) == [Pick(n, 0) for n in range(4)]
    assert picks(items, stylegan, real=True) == [Pick(n, None) for n in range(4)]
    drawn = picks(items, latte, real=True)
    assert len(set(drawn)) == 4 and drawn == sorted(drawn) == picks(items, latte, real=True)
    seeds = {tuple(picks(items, protocol("latte-2024", n=4, clip_seed=seed), real=True)) for seed in range(8)}
    assert len(seeds) > 4
    for real in (True, False):
        with pytest.raises(TooFew, match="scores 10 .* clips, there are 9: 1 are missing.*--clips 9"):
            picks(items, protocol("latte-2024", n=10), real)


def test_windows_are_spread_over_the_videos():
    """Videos of 5, 1 and 3 windows of 16 frames: 6 are 2 or 3, 1 and 2; every window is taken once where all are."""
    items = [item(moving(16 * count + 3), name=str(count)) for count in (5, 1, 3)]
    digan = protocol("digan", n=9)
    assert picks(items, digan, real=True) == [
        Pick(number, 16 * k) for number, count in enumerate((5, 1, 3)) for k in range(count)
    ]
    spread = picks(items, protocol("suite", n=6, real_interval=1, windows_per_video=None), real=True)
    counts = [sum(pick.item == number for pick in spread) for number in range(3)]
    assert sorted(counts) == [1, 2, 3] and counts[1] == 1
    with pytest.raises(TooFew, match="1 are missing"):
        picks(items, protocol("digan", n=10), real=True)


def test_evenly_spaced_clips_are_spread_over_the_list_of_videos():
    """256 of 369, as MCVD's preset says: steps of one or two, as many of each as the numbers ask for, none twice."""
    items = [item(moving(20), name=f"{number:03d}") for number in range(369)]
    chosen = [pick.item for pick in picks(items, protocol("mcvd"), real=True)]
    steps = np.diff([*chosen, 369])
    assert len(chosen) == 256 and chosen[0] == 0 and set(steps) == {1, 2} and (steps == 2).sum() == 369 - 256
    # Even: the k-th is never a whole step away from k 369 / 256.
    assert all(0 <= k * 369 / 256 - position < 1 for k, position in enumerate(chosen))
    assert all(pick.start is None for pick in picks(items, protocol("mcvd"), real=True))
    assert [pick.item for pick in picks(items[:6], protocol("mcvd", n=3), real=True)] == [0, 2, 4]
    assert [pick.item for pick in picks(items[:6], protocol("mcvd", n=3), real=False)] == [0, 1, 2]
    with pytest.raises(TooFew, match="scores 256 real clips, there are 255: 1 are missing"):
        picks(items[:255], protocol("mcvd"), real=True)


def test_long_items_are_cut_and_cut_ones_left(monkeypatch):
    video = moving(60, side=256)
    latte = protocol("latte-2024", n=4, real_codec="lossless", generated_codec="lossless")
    assert np.array_equal(seen(item(video), latte, False, Pick(0, 0)), video[:16])
    real = seen(item(video), latte, True, Pick(0, None))
    (start,) = [s for s in range(15) if np.array_equal(real, video[s : s + 46 : 3])]
    assert np.array_equal(seen(item(video), latte, True, Pick(0, None)), real)
    others = {seen(item(video), latte, True, Pick(n, None)).tobytes() for n in range(12)}
    assert len(others) > 5, start
    assert np.array_equal(seen(item(video[:16]), latte, True, Pick(0, None)), video[:16])
    with pytest.raises(ValueError, match=r"clip a: 45 frames; .*16 at interval 3, which span 46"):
        seen(item(video[:45]), latte, True, Pick(0, None))


def test_frames_come_to_the_protocols_size():
    video = RNG.integers(0, 256, (20, 40, 60, 3), dtype=np.uint8)
    mcvd = protocol("mcvd", n=4)
    assert np.array_equal(seen(item(video), mcvd, True, Pick(0, None)), centre_crop_resize(video, 64))
    with pytest.raises(ValueError, match="60x40 pixels, crop none wants square"):
        seen(item(video), protocol("mcvd", n=4, crop="none"), True, Pick(0, None))


def smooth(frames: int) -> np.ndarray:
    ramp = np.linspace(0, 255, 64)
    return np.stack([np.stack([np.roll(ramp, t)[None].repeat(64, 0)] * 3, -1) for t in range(frames)]).astype(np.uint8)


def test_jpeg_is_pillows_own():
    clip = smooth(2)
    buffer = io.BytesIO()
    Image.fromarray(clip[1]).save(buffer, "JPEG")  # quality 75 is Pillow's default
    assert np.array_equal(jpeg(clip)[1], np.asarray(Image.open(buffer)))


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this FFmpeg has no x264")
def test_mp4_keeps_the_frames_in_order_and_loses_little():
    """CRF 5 is nearly lossless on a smooth ramp; 4:2:0 moves grey levels by rounding only."""
    clip = smooth(9)
    after = mp4(clip)
    assert after.shape == clip.shape and not np.array_equal(after, clip)
    errors = [[np.abs(after[a].astype(int) - clip[b]).mean() for b in range(9)] for a in range(9)]
    assert [int(np.argmin(row)) for row in errors] == list(range(9)) and max(row[k] for k, row in enumerate(errors)) < 2
    with pytest.raises(ValueError, match="even sides"):
        mp4(clip[:, :63])


def test_frames_go_through_a_codec_once():
    clip = smooth(4)
    for codec, stored, wanted in (
        ("lossless", "lossless", clip),
        ("jpeg-q75", "lossless", jpeg(clip)),
        ("jpeg-q75", "video", jpeg(clip)),
        ("jpeg-q75", "jpeg", clip),
        ("mp4-crf5+jpeg-q75", "lossless", jpeg(mp4(clip))),
        ("mp4-crf5+jpeg-q75", "video", jpeg(clip)),
        ("mp4-crf5+jpeg-q75", "jpeg", clip),
    ):
        assert np.array_equal(through(codec, stored, clip), wanted), (codec, stored)
