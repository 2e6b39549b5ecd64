"""The training loader: the same clips whatever the workers, batch, cache or resume, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lavita.data.clips import load_window, normalised, to_pixels, training_draw
from lavita.data.datamodule import ClipDataModule, ResizedFrames, TrainClips

SETTING = dict(frames=8, interval=3, resolution=16, flip=True, seed=3)


def loaded(catalogue, **change) -> dict[str, torch.Tensor]:
    module = ClipDataModule(catalogue, **(SETTING | dict(batch=8, start=0, stop=48) | change))
    batches = list(module.train_dataloader())
    assert all(len(batch["video"]) == module.batch for batch in batches)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


@pytest.fixture(scope="module")
def catalogue(synthetic_catalogue):
    return synthetic_catalogue("ucf101")


@pytest.fixture(scope="module")
def clips(catalogue):
    """The first epoch."""
    return loaded(catalogue)


def test_batches_have_the_shape_range_and_labels(clips):
    assert clips["video"].shape == (48, 8, 3, 16, 16) and clips["video"].dtype == torch.uint8
    assert clips["video"].min() < 32 and clips["video"].max() > 224
    assert clips["clip_index"].tolist() == list(range(48)) and clips["label"].dtype == torch.int64
    assert clips["label"].bincount().tolist() == [12, 12, 12, 12]  # an epoch: every video once


def test_each_clip_is_what_its_draw_says(catalogue, clips):
    """Read again one by one from the files, mirrored by numpy."""
    videos = catalogue.split("train")
    num_starts = [video.frames - 21 for video in videos]
    mirrored_clips = 0
    for index in range(0, 48, 5):
        position, start, mirrored = training_draw(3, index, num_starts, True)
        window = load_window(videos[position], start, 8, 3, 16)
        wanted = np.flip(window, axis=2) if mirrored else window
        mirrored_clips += mirrored
        # What a loss gets of it is what numpy makes of the pixels, bit for bit.
        numbers = np.moveaxis(wanted, -1, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
        assert torch.equal(normalised(clips["video"][index]), torch.from_numpy(numbers))
        assert clips["label"][index] == videos[position].class_index
    assert 0 < mirrored_clips < 10


@pytest.mark.parametrize(
    "change",
    [dict(cache_bytes=0), dict(num_workers=2), dict(batch=4), dict(cache_bytes=10 * 72 * 16 * 16 * 3)],
)
def test_cache_workers_and_batch_change_nothing(catalogue, clips, change):
    got = loaded(catalogue, **change)
    assert all(torch.equal(clips[key], got[key]) for key in clips)


def test_resuming_continues_the_same_clips(catalogue, clips):
    rest = loaded(catalogue, start=24)
    assert all(torch.equal(clips[key][24:], rest[key]) for key in clips)


def test_loading_leaves_the_global_generator_alone(catalogue):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded(catalogue, stop=8)
    assert torch.equal(before, torch.get_rng_state())


def test_the_store_keeps_its_limit(catalogue):
    video_bytes = 72 * 16 * 16 * 3
    store = ResizedFrames(16, 3 * video_bytes + 1)
    for video in catalogue.split("train")[:5]:
        store.clip(video, range(0, 22, 3), False)
    assert store.num_bytes == 3 * video_bytes


def test_heldout_clips_are_fixed_and_cover_the_classes(catalogue):
    first = ClipDataModule(catalogue, **SETTING, batch=8, start=0, stop=48)
    second = ClipDataModule(catalogue, **(SETTING | dict(seed=9)), batch=4, start=8, stop=16)
    one, other = first.heldout_batch(8), second.heldout_batch(8)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert one["video"].shape == (8, 8, 3, 16, 16)
    assert one["label"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(first.heldout_batch(48)["video"].flatten(1).unique(dim=0)) == 48  # 16 videos of 3 windows, all different
    assert len(first.heldout_batch(99)["video"]) == 48  # there are no more


def test_context_frames_are_those_before_the_clip(catalogue):
    """8 context frames and the clip of 8 after them are one window of 16 frames, which has draws of its own."""
    both, whole = loaded(catalogue, context_frames=8), loaded(catalogue, frames=16)
    assert torch.equal(torch.cat([both["context_frames"], both["video"]], dim=1), whole["video"])
    heldout = ClipDataModule(catalogue, **SETTING, batch=8, start=0, stop=8, context_frames=8).heldout_batch(8)
    assert heldout["context_frames"].shape == heldout["video"].shape == (8, 8, 3, 16, 16)


def test_images_are_single_frames_of_the_whole_split(catalogue, clips):
    """Every image is a frame of a training video of its label; clips are those of training without images."""
    got = loaded(catalogue, images=3, flip=False)
    assert got["images"].shape == (48, 3, 3, 16, 16) and got["image_labels"].shape == (48, 3)
    assert torch.equal(got["clip_index"], clips["clip_index"])
    frames = {label: [] for label in range(4)}
    for video in catalogue.split("train"):
        frames[video.class_index].append(to_pixels(load_window(video, 0, video.frames, 1, 16)))
    frames = {label: torch.cat(parts) for label, parts in frames.items()}
    for image, label in zip(got["images"].flatten(0, 1), got["image_labels"].flatten().tolist(), strict=True):
        assert (frames[label] == image).flatten(1).all(1).any()
    # 144 draws from 48 videos: with equal chances about 46 of them appear (48 (1 - (47/48)^144) = 45.7).
    assert len(got["images"].flatten(0, 1).flatten(1).unique(dim=0)) > 130
    again = loaded(catalogue, images=3, flip=False, start=24, num_workers=2)
    assert torch.equal(again["images"], got["images"][24:])
    heldout = ClipDataModule(catalogue, **SETTING, batch=8, start=0, stop=8, images=3).heldout_batch(8)
    assert heldout["images"].shape == (8, 3, 3, 16, 16) and heldout["image_labels"].shape == (8, 3)


def test_sets_without_classes_have_label_minus_one(synthetic_catalogue):
    clips = TrainClips(synthetic_catalogue("skytimelapse"), 8, 3, 16, flip=False, seed=0)
    assert clips[0]["label"] == -1 and clips[0]["clip_index"] == 0


@pytest.mark.parametrize("change", [dict(stop=47), dict(start=4), dict(stop=-8), dict(batch=0)])
def test_only_full_batches(catalogue, change):
    with pytest.raises(ValueError, match="allowed: a whole number of batches"):
        loaded(catalogue, **change)


def test_short_videos_are_refused(catalogue):
    videos = (replace(catalogue.videos[0], frames=20), *catalogue.videos[1:])
    with pytest.raises(ValueError, match="1 of 64 videos are shorter than the 22 frames"):
        loaded(replace(catalogue, videos=videos))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("passes", [1, 2])
def test_processes_share_the_clips_of_every_pass(catalogue, clips, world, passes):
    """Pass by pass, rank by rank, the clips of one process in their order; step k is clips 8 k to 8 k + 7."""
    setting = SETTING | dict(batch=8 // passes, start=0, stop=48, world=world)
    parts = [list(ClipDataModule(catalogue, **setting, rank=rank).train_dataloader()) for rank in range(world)]
    assert [len(part) for part in parts] == [6 * passes] * world
    for key in ("clip_index", "video", "label"):
        in_turn = [part[k][key] for k in range(6 * passes) for part in parts]
        assert all(len(batch) == 8 // passes // world for batch in in_turn)
        assert torch.equal(torch.cat(in_turn), clips[key])


def test_a_batch_that_does_not_go_into_the_processes_is_refused(catalogue):
    with pytest.raises(ValueError, match="a pass of 8 clips does not go into 3 processes"):
        ClipDataModule(catalogue, **SETTING, batch=8, start=0, stop=48, world=3).train_dataloader()
