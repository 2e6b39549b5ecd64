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

from lavita.data import latent_cache
from lavita.data.clips import centre_crop_resize, to_tensor
from lavita.data.datamodule import ClipDataModule, TrainClips
from lavita.data.latent_cache import LatentCache, LatentKey, StaleLatents, fill_latents, videos_hash
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
    cost = fill_latents(folder, key, catalogue.split("train"), encode, said.append, lambda done, total: None)
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
                wanted = encode(one[theirs].flatten(0, 1)).unflatten(0, one[theirs].shape[:2])
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
    monkeypatch.setattr(latent_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(ValueError, match="free.*are wanted; make room, give another --cache, or train without"):
        fill(tmp_path / "other", key, catalogue)
    assert not list((tmp_path / "other").glob("latents-*"))


def test_a_full_cache_is_not_filled_again(tmp_path, key, catalogue):
    _, cost = fill(tmp_path, key, catalogue)
    assert fill(tmp_path, key, catalogue, encode=None)[1] == cost


def test_a_failed_fill_resumes_where_it_was_safe(tmp_path, key, catalogue, monkeypatch):
    monkeypatch.setattr(latent_cache, "SAFE_EVERY_SECONDS", -1.0)
    whole, _ = fill(tmp_path / "whole", key, catalogue)
    calls = []

    def stops(frames):
        calls.append(len(frames))
        if len(calls) == 25:
            raise KeyboardInterrupt
        return encode(frames)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, key, catalogue, stops)
    assert not (tmp_path / key.name()).exists()
    said, again = [], []
    fill(tmp_path, key, catalogue, lambda frames: (again.append(len(frames)), encode(frames))[1], said)
    # 72 frames are 5 calls in each direction, so call 25 fell into the third video: two were safe, ten were left.
    assert "resuming after 2 of 12 videos" in said[0] and len(again) == 100
    stored = (tmp_path / key.name() / "moments.f32").read_bytes()
    assert stored == (tmp_path / "whole" / key.name() / "moments.f32").read_bytes()


KILLED = """
import pickle, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import lavita.data.latent_cache as latents
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
    """Kills after 3, 17, 40 calls; then two processes at once: one cache, equal to that of one undisturbed process."""
    (tmp_path / "given").write_bytes(pickle.dumps((tmp_path / "cache", key, catalogue)))
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(root), str(tmp_path / "given")]

    def start():
        environment = os.environ | {"PYTHONPATH": "src"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)

    for calls in (3, 17, 40):
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


CHANGES = {"codec": "other", "data": "f" * 64, "videos": "0", "resolution": 32, "crop": "none", "interval": 1}


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
