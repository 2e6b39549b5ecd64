"""Making, keeping, writing and scoring clips takes the memory of a few of them, however many there are."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavita.config.plan import make_plan
from lavita.data.clip_folder import read_clips, write_clips
from lavita.data.video import write_video
from lavita.experiment.samples import external_clips
from lavita.experiment.scoring import Scorer
from lavita.metrics.clips import clip_items
from lavita.results.resume_store import ResumeStore
from lavita.sampling.generate import ClipsInParts, Part, generate, joined, save_samples, seconds_of

CLIPS, SHAPE = 120, (4, 64, 64, 3)
CLIP_BYTES = int(np.prod(SHAPE))
ALL_BYTES = CLIPS * CLIP_BYTES


class Noise:
    """A method whose clips are noise of their seed."""

    class context:
        num_classes = None

    def networks(self) -> list:
        return []

    def sample(self, seeds, classes, sampling, condition):
        frames, height, width, channels = SHAPE
        made = [torch.rand(frames, channels, height, width, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(made) * 2 - 1


def peak_of(call: Callable[[], object]) -> int:
    """The largest number of bytes that Python and numpy held at once for a call, beyond what was there."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def sampling_of(batch: int):
    return make_plan("ucf101", "demo", ["lavita-v1"], [0], [f"sampling.batch_clips={batch}"])[0].sampling


def test_clips_are_made_written_and_scored_a_few_at_a_time(tmp_path):
    sampling, peaks = sampling_of(5), {}

    class Mean:
        def features(self, clips):
            assert len(clips) <= 16
            return torch.from_numpy(clips.mean(axis=(1, 2, 3)))

    scorer = SimpleNamespace(extractors={"distance": Mean()}, has_classes=False)

    def run(count: int) -> None:
        folder = tmp_path / str(count)
        store = ResumeStore(folder / "kept")
        made = generate(Noise(), sampling, count, 0, [], lambda *_: None, kept=store)
        save_samples(folder / "samples", made, "noise", "noise-s0", sampling, keep_clips=True)
        run.rows = Scorer.features(scorer, made.clips, store, "score")["features"]

    for count in (20, CLIPS):
        peaks[count] = peak_of(lambda count=count: run(count))
    # The picture of the first 16 clips takes some memory, however many there are.
    assert peaks[CLIPS] < peaks[20] + 20 * CLIP_BYTES
    clips = read_clips(tmp_path / str(CLIPS) / "samples")
    assert clips.shape == (CLIPS, *SHAPE)
    np.testing.assert_allclose(run.rows, clips.mean(axis=(1, 2, 3)), rtol=1e-6)


def test_the_measure_sees_what_reads_everything(tmp_path):
    """The other way round: a test of memory that nothing can fail says nothing."""
    sampling = sampling_of(5)
    made = generate(Noise(), sampling, CLIPS, 0, [], lambda *_: None, kept=ResumeStore(tmp_path))
    assert peak_of(lambda: np.stack(list(made.clips))) > ALL_BYTES


def test_clips_in_parts_are_the_clips():
    whole = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 4, 3), dtype=np.uint8)
    parts = [Part({"clips": whole[start : start + 3], "seconds": np.array(1.5)}) for start in (0, 3, 6)]
    clips = ClipsInParts(parts, 3, 7)
    assert len(clips) == 7 and all(np.array_equal(a, b) for a, b in zip(clips, whole, strict=True))
    assert np.array_equal(clips[2:5], whole[2:5]) and np.array_equal(clips[-1], whole[6])
    assert np.array_equal(clips[:16], whole) and seconds_of(parts) == 4.5
    with pytest.raises(IndexError):
        clips[7]
    assert np.array_equal(clips.array(), whole)


def test_a_part_on_disk_is_the_part(tmp_path):
    arrays = {"clips": np.arange(12).reshape(3, 4), "seconds": np.array(2.0)}
    with (tmp_path / "part.npz").open("wb") as file:
        np.savez(file, **arrays)
    part = Part(tmp_path / "part.npz")
    assert list(part) == list(arrays) and len(part) == 2
    assert np.array_equal(joined([part, Part(arrays)], "clips"), np.concatenate([arrays["clips"]] * 2))


def external(tmp_path: Path):
    """The demo's protocol for as many clips, and clips of its frames and size."""
    overrides = [f"protocol.n_real={CLIPS}", f"protocol.n_generated={CLIPS}"]
    (experiment,) = make_plan("ucf101", "demo", ["dit"], [0], overrides)
    p = experiment.protocol
    clips = np.random.default_rng(0).integers(0, 256, (CLIPS, p.frames, p.resolution, p.resolution, 3), dtype=np.uint8)
    return p, clips


@pytest.mark.parametrize("listed", [True, False])
def test_external_clips_are_read_one_by_one(tmp_path, listed):
    protocol, clips = external(tmp_path)
    if listed:
        write_clips(tmp_path / "in", clips)
    else:
        for number, clip in enumerate(clips):
            write_video(tmp_path / "in" / f"{number:03d}.mkv", clip, 8, lossless=True)
    found = external_clips(tmp_path / "in", protocol)
    assert peak_of(lambda: write_clips(tmp_path / "out", found)) < clips.nbytes / 2
    assert np.array_equal(read_clips(tmp_path / "out"), clips) and np.array_equal(found[3:5], clips[3:5])


def test_an_external_clip_of_another_size_or_content_is_named(tmp_path):
    protocol, clips = external(tmp_path)
    write_clips(tmp_path / "in", clips[:, :, ::2, ::2])
    with pytest.raises(ValueError, match="in: clip 0 has 8 frames of 16x16, the protocol wants 8 of 32x32"):
        external_clips(tmp_path / "in", protocol)[0]
    write_clips(tmp_path / "edited", clips)
    file = tmp_path / "edited" / "000002.mkv"
    write_video(file, clips[0], 8, lossless=True)
    found = external_clips(tmp_path / "edited", protocol)
    assert np.array_equal(found[1], clips[1])
    with pytest.raises(ValueError, match="000002.mkv: is not the file that was written"):
        found[2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_mapped(tmp_path, save):
    clips = np.random.default_rng(0).integers(0, 256, (CLIPS, *SHAPE), dtype=np.uint8)
    save(tmp_path / "clips.npz", clips=clips)
    found: list[np.ndarray] = []

    def read() -> None:
        found[:] = [item.read()[0, 0, 0].copy() for item in clip_items(tmp_path / "clips.npz")]

    assert peak_of(read) < ALL_BYTES / 4
    assert np.array_equal(np.stack(found), clips[:, 0, 0, 0])
