"""The latent cache against encoding by hand, after kills, beside another process, and where it is not what it says."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavita.data import latent_cache, latent_filling
from lavita.data.clips import centre_crop_resize, normalised, to_tensor
from lavita.data.datamodule import ClipDataModule, TrainClips
from lavita.data.latent_cache import LatentCache, LatentKey, StaleLatents, videos_hash
from lavita.data.latent_filling import bytes_missing, decoded, fill_latents, precision_lost
from lavita.data.video import read_frames

SIDE, RESOLUTION = 4, 16


def encode(frames: torch.Tensor) -> torch.Tensor:
    """An autoencoder that sees left from right: mean colour of 4 x 4 blocks, and their first pixel."""
    blocks = frames.unfold(2, 4, 4).unfold(3, 4, 4)  # (n, 3, 4, 4, 4, 4)
    return torch.cat([blocks.mean((4, 5)), blocks[..., 0, 0]], dim=1)  # (n, 6, 4, 4)


@pytest.fixture(scope="module")
def catalogue(synthetic_catalogue):
    """12 training videos of the synthetic UCF101."""
    whole = synthetic_catalogue("ucf101")
    return replace(whole, videos=whole.split("train")[:12] + whole.split("heldout")[:2])


@pytest.fixture
def key(catalogue) -> LatentKey:
    return key_of(catalogue)


def key_of(catalogue) -> LatentKey:
    videos = videos_hash(catalogue.split("train"))
    return LatentKey("codec", catalogue.fingerprint, videos, RESOLUTION, "centre", 3, True, 6, SIDE)


def fill(folder, key, catalogue, encode=encode, said=None):
    said = [] if said is None else said
    cost = fill_latents(folder, key, catalogue.split("train"), [lambda: encode], said.append, lambda done, total: None)
    return LatentCache(folder / key.name(), key, catalogue.split("train")), cost


def test_moments_are_those_of_the_frames(tmp_path, key, catalogue):
    cache, cost = fill(tmp_path, key, catalogue)
    videos = catalogue.split("train")
    frames = 2 * sum(video.frames for video in videos)
    assert (cost["frames"], cost["bytes"], cost["videos"]) == (frames, frames * 6 * SIDE * SIDE * 4, 12)
    assert (tmp_path / key.name() / "moments.f32").stat().st_size == cost["bytes"]
    for video in (videos[0], videos[5], videos[11]):
        pixels = centre_crop_resize(read_frames(video.path, [3, 50, 71]), RESOLUTION)
        assert torch.equal(cache.clip(video, [3, 50, 71], False), encode(to_tensor(pixels)))
        assert torch.equal(cache.clip(video, [3, 50, 71], True), encode(to_tensor(pixels[:, :, ::-1])))


def test_clips_are_those_of_training_from_pixels(tmp_path, key, catalogue):
    """Same clips, same mirroring, same images: encoding the batch by hand gives what the cache gives."""
    cache, _ = fill(tmp_path, key, catalogue)
    setting = dict(frames=8, interval=3, resolution=RESOLUTION, flip=True, seed=3, batch=8, start=0, stop=24, images=2)
    for workers in (0, 2):
        pixels = ClipDataModule(catalogue, **setting).train_dataloader()
        stored = ClipDataModule(catalogue, **setting, latents=cache, num_workers=workers).train_dataloader()
        for one, other in zip(pixels, stored, strict=True):
            assert set(other) == {"moments", "image_moments", "label", "clip_index", "image_labels"}
            for ours, theirs in (("moments", "video"), ("image_moments", "images")):
                wanted = encode(normalised(one[theirs].flatten(0, 1))).unflatten(0, one[theirs].shape[:2])
                # One call of the autoencoder per video or per batch: float32 sums may differ in their last bit.
                torch.testing.assert_close(other[ours], wanted, rtol=0, atol=1e-6)
            for same in ("label", "clip_index", "image_labels"):
                assert torch.equal(one[same], other[same])


def test_context_frames_are_not_cached(tmp_path, key, catalogue):
    cache, _ = fill(tmp_path, key, catalogue)
    with pytest.raises(ValueError, match="wanted as pixels"):
        TrainClips(catalogue, 8, 3, RESOLUTION, True, 0, context_frames=8, latents=cache)


def test_the_disk_it_needs_is_said_first_and_refused_where_it_is_not_there(tmp_path, key, catalogue, monkeypatch):
    said = []
    fill(tmp_path, key, catalogue, said=said)
    assert said[0].startswith("latent cache: 1728 frames in both directions, 0.000618 GiB on disk, ")
    monkeypatch.setattr(latent_filling.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(ValueError, match="free.*are wanted; make room, give another --cache, or train without"):
        fill(tmp_path / "other", key, catalogue)
    assert not list((tmp_path / "other").glob("latents-*"))


def test_a_full_cache_is_not_filled_again(tmp_path, key, catalogue):
    _, cost = fill(tmp_path, key, catalogue)
    assert fill(tmp_path, key, catalogue, encode=None)[1] == cost


def test_a_failed_fill_resumes_where_it_was_safe(tmp_path, key, catalogue, monkeypatch):
    monkeypatch.setattr(latent_filling, "SAFE_EVERY_SECONDS", -1.0)
    whole, _ = fill(tmp_path / "whole", key, catalogue)
    calls = []

    def stops(frames):
        calls.append(len(frames))
        if len(calls) == 11:
            raise KeyboardInterrupt
        return encode(frames)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, key, catalogue, stops)
    assert not (tmp_path / key.name()).exists()
    said, again = [], []
    fill(tmp_path, key, catalogue, lambda frames: (again.append(len(frames)), encode(frames))[1], said)
    # 72 frames are 2 calls in each direction, so call 11 fell into the third video: two were safe, ten were left.
    assert "resuming after 2 of 12 videos" in said[0] and len(again) == 40
    stored = (tmp_path / key.name() / "moments.f32").read_bytes()
    assert stored == (tmp_path / "whole" / key.name() / "moments.f32").read_bytes()


KILLED = """
import pickle, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import lavita.data.latent_filling as latents
from tests.data.test_latent_cache import encode, fill

latents.SAFE_EVERY_SECONDS = -1.0
folder, key, catalogue = pickle.loads(Path(sys.argv[2]).read_bytes())

def slow(frames):
    print("call", flush=True)
    time.sleep(0.02)
    return encode(frames)

fill(folder, key, catalogue, slow)
print("done", flush=True)
"""


def test_killed_at_any_moment_and_two_at_once(tmp_path, key, catalogue):
    """Kills after 3, 9, 17 calls; then two processes at once: one cache, equal to that of one undisturbed process."""
    (tmp_path / "given").write_bytes(pickle.dumps((tmp_path / "cache", key, catalogue)))
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(root), str(tmp_path / "given")]

    def start():
        environment = os.environ | {"PYTHONPATH": "src"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)

    for calls in (3, 9, 17):
        process = start()
        for _ in range(calls):
            assert process.stdout.readline() == "call\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (tmp_path / "cache" / key.name()).exists()
    both = [start(), start()]
    outputs = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(lines[-1] for lines in outputs) == ["done", "done"]
    assert min(len(lines) for lines in outputs) == 1  # the one that waited found it full
    fill(tmp_path / "whole", key, catalogue)
    names = [tmp_path / place / key.name() / "moments.f32" for place in ("cache", "whole")]
    assert names[0].read_bytes() == names[1].read_bytes()


CHANGES = {
    "codec": "other", "data": "f" * 64, "videos": "0", "resolution": 32, "crop": "none", "interval": 1,
    "dtype": "float16", "arithmetic": "TF32",
}  # fmt: skip


@pytest.mark.parametrize("name", [*CHANGES, "mirrored"])
def test_everything_that_decides_it_is_in_its_name(key, name):
    other = replace(key, **{name: CHANGES.get(name, False)})
    assert other.name() != key.name()


def test_foreign_stale_and_damaged_caches_are_refused(tmp_path, key, catalogue):
    cache, _ = fill(tmp_path, key, catalogue)
    videos, folder = catalogue.split("train"), cache.folder
    other = replace(key, codec="other", interval=1)
    folder.rename(tmp_path / other.name())  # a cache of another autoencoder put in the place of this one
    with pytest.raises(StaleLatents, match=r"codec 'codec', wanted 'other'; interval 3, wanted 1; delete it"):
        LatentCache(tmp_path / other.name(), other, videos)
    with pytest.raises(StaleLatents, match="codec 'codec'"):
        fill(tmp_path, other, catalogue)
    (tmp_path / other.name()).rename(folder)

    values = folder / "moments.f32"
    whole = values.read_bytes()
    values.write_bytes(whole[:-4])
    with pytest.raises(StaleLatents, match=f"moments.f32 of {len(whole) - 4} bytes, wanted {len(whole)}"):
        LatentCache(folder, key, videos)
    values.write_bytes(whole)
    for text in ("{", "[1]", json.dumps({"version": 1})):
        (folder / "header.json").write_text(text)
        with pytest.raises(StaleLatents):
            LatentCache(folder, key, videos)


def test_a_frame_is_tried_against_the_codec(tmp_path, key, catalogue):
    """A header can say anything; the numbers must be those of this autoencoder."""
    cache, _ = fill(tmp_path, key, catalogue)
    video = catalogue.split("train")[4]
    cache.check_frame(video, encode)
    with pytest.raises(StaleLatents, match="differ from what the autoencoder gives now"):
        cache.check_frame(video, lambda frames: encode(frames) * 1.001)
    with pytest.raises(StaleLatents, match="differ"):
        cache.check_frame(video, lambda frames: encode(frames.flip(-1)))


def through_a_network(frames: torch.Tensor, rounding: float = 0.0) -> torch.Tensor:
    """Convolutions whose sums depend in their last bits on how many frames go through at once; rounding: of the result,
    relative, as another arithmetic rounds."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.conv2d(frames, torch.randn(64, 3, 4, 4, generator=generator), stride=4)
    moments = torch.nn.functional.conv2d(wide, torch.randn(6, 64, 1, 1, generator=generator))
    return moments * (1 + rounding * torch.randn(moments.shape, generator=generator).clamp(-1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_accepts_what_it_wrote_and_no_other_arithmetic(dtype, tmp_path, key, catalogue, monkeypatch):
    """Written 64 frames a call and tried with one; TF32 in its place gives moments 2e-3 away, and is refused."""
    key = replace(key, dtype=dtype)
    cache, cost = fill(tmp_path, key, catalogue, through_a_network)
    size = {"float32": 4, "float16": 2}[dtype]
    assert cost["bytes"] == 1728 * 6 * SIDE * SIDE * size == (cache.folder / key.file).stat().st_size
    for video in catalogue.split("train"):
        cache.check_frame(video, through_a_network)
        with pytest.raises(StaleLatents, match="differ from what the autoencoder gives now by"):
            cache.check_frame(video, lambda frames: through_a_network(frames, rounding=2e-3))
    monkeypatch.setattr(latent_cache, "FRAMES_AT_ONCE", 5)
    fill(tmp_path / "other", key, catalogue, through_a_network)[0].check_frame(video, through_a_network)


def test_float16_is_what_float32_rounds_to(tmp_path, key, catalogue):
    exact, _ = fill(tmp_path, key, catalogue)
    half, _ = fill(tmp_path, replace(key, dtype="float16"), catalogue)
    video = catalogue.split("train")[3]
    one, other = (cache.clip(video, [0, 20, 71], True) for cache in (exact, half))
    assert one.dtype == other.dtype == torch.float32 and not torch.equal(one, other)
    assert torch.equal(one.half().float(), other)
    with pytest.raises(ValueError, match=r"finite in float16 \(data.latent_dtype\)"):
        fill(tmp_path / "large", replace(key, dtype="float16"), catalogue, lambda frames: 1e5 + encode(frames))


def test_what_float16_loses_is_far_below_what_is_ever_added(tmp_path):
    """Means of a few units and variances down to e^-24, as Stable Diffusion's autoencoder gives them: rounding to 11
    bits moves a mean m by at most 2^-11 |m|, and a standard deviation by half of 2^-11 of its logarithm. The least
    noise that training adds has 0.01 of the latents' spread (beta_1 = 1e-4)."""
    generator = torch.Generator().manual_seed(0)
    mean = 5 * torch.randn(64, 4, 8, 8, generator=generator)
    log_variance = -24 * torch.rand(64, 4, 8, 8, generator=generator)
    moments = torch.cat([mean, log_variance], dim=1)
    lost = precision_lost(moments, "float16")
    assert 0 < lost["mean"] < 2.0**-12 and lost["mean"] < lost["mean_largest"] < 0.01 / 4
    assert lost["mean_largest"] <= float(mean.abs().max()) / float(mean.std()) * 2.0**-11
    assert 0 < lost["std"] < 0.5 * 24 * 2.0**-11 * 1.01
    assert precision_lost(moments, "float32") == dict.fromkeys(lost, 0.0)


class Maker:
    """Makes a codec's call in another process; broken: one that fails there at its third call."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __call__(self):
        calls = []

        def call(frames: torch.Tensor) -> torch.Tensor:
            calls.append(len(frames))
            if self.broken and len(calls) > 10:
                raise ValueError("no more")
            return encode(frames)

        return call


def test_processes_share_the_videos_and_resume_what_others_left(tmp_path, key, catalogue):
    videos, reports = catalogue.split("train"), []
    whole, _ = fill(tmp_path / "whole", key, catalogue)

    def together(folder, makers):
        fill_latents(folder, key, videos, makers, lambda text: None, lambda done, total: reports.append((done, total)))
        return (folder / key.name() / key.file).read_bytes()

    wanted = (whole.folder / key.file).read_bytes()
    assert together(tmp_path / "two", [Maker(), Maker()]) == wanted
    assert reports[-1] == (12, 12)
    with pytest.raises(RuntimeError, match="one of 2 processes failed: ValueError: no more"):
        together(tmp_path / "broken", [Maker(), Maker(broken=True)])
    assert not (tmp_path / "broken" / key.name()).exists()
    assert together(tmp_path / "broken", [Maker()]) == wanted


def test_what_is_still_to_be_stored_is_known_beforehand(tmp_path, key, catalogue, monkeypatch):
    monkeypatch.setattr(latent_filling, "SAFE_EVERY_SECONDS", -1.0)
    videos, calls = catalogue.split("train"), []
    every = 1728 * 6 * SIDE * SIDE * 4
    assert bytes_missing(tmp_path, key, videos) == every

    def stops(frames):
        calls.append(1)
        if len(calls) > 4 * 4:
            raise KeyboardInterrupt
        return encode(frames)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, key, catalogue, stops)
    assert bytes_missing(tmp_path, key, videos) == every * 8 // 12
    fill(tmp_path, key, catalogue)
    assert bytes_missing(tmp_path, key, videos) == 0


def test_videos_are_decoded_ahead_in_order_and_their_errors_come_where_they_belong(catalogue, tmp_path):
    videos = catalogue.split("train")[:5]
    with decoded(videos, RESOLUTION, threads=3) as pixels:
        for video in videos:
            found = np.concatenate(list(pixels(video)))
            assert np.array_equal(found, centre_crop_resize(read_frames(video.path, range(video.frames)), RESOLUTION))
    lost = replace(videos[1], path=tmp_path / "none.avi")
    with decoded([videos[0], lost, videos[2]], RESOLUTION, threads=2) as pixels:
        assert len(np.concatenate(list(pixels(videos[0])))) == videos[0].frames
        with pytest.raises(Exception, match="none.avi"):
            list(pixels(lost))
    with pytest.raises(KeyError), decoded(videos, RESOLUTION, threads=2):
        raise KeyError  # nobody takes the frames: the threads end all the same


def test_a_frame_whose_moments_are_all_zero_is_itself(tmp_path, key, catalogue):
    def black(frames: torch.Tensor) -> torch.Tensor:
        return 0 * encode(frames)

    cache, _ = fill(tmp_path, key, catalogue, black)
    video = catalogue.split("train")[4]
    cache.check_frame(video, black)
    with pytest.raises(StaleLatents, match="differ"):
        cache.check_frame(video, encode)


def test_a_codec_that_gives_something_else_is_refused(tmp_path, key, catalogue):
    for wrong in (lambda frames: encode(frames)[:, :4], lambda frames: encode(frames) * np.inf):
        with pytest.raises(ValueError, match="the autoencoder gave"):
            fill(tmp_path, key, catalogue, wrong)
