"""Where evaluate writes is judged before anything is decoded, nothing of others is written over, memory is bounded."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from lavita.config.compose import read_protocol
from lavita.data.video import write_video
from lavita.metrics.clips import clip_items, picks
from lavita.metrics.extract import Job, Networks, extract
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain

SMALL = ["protocol.resolution=16", "protocol.frames=4", "--no-sanity", "--clips", "4", "--metrics", "fvd"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    base = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    for name in ("real", "generated", "third"):
        np.savez(base / f"{name}.npz", clips=rng.integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8))
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(3), {}), base / "net.safetensors")
    return base


@pytest.fixture
def compare(given, script):
    def call(out, generated="generated", protocols="suite"):
        return script("evaluate")(
            "--real", given / "real.npz", "--generated", given / f"{generated}.npz", "--protocol", protocols,
            "--extractor", f"embedded:{given}/net.safetensors", "--out", out, *SMALL,
        )  # fmt: skip

    return call


def test_nothing_that_another_command_wrote_is_replaced(compare, tmp_path):
    """Case evaluate-out-overwrites: a run's rows.csv was replaced by four lines."""
    run = tmp_path / "run"
    (run / "cells").mkdir(parents=True)
    (run / "rows.csv").write_text("a run's rows\n")
    done = compare(run)
    assert done.code == 2 and "which evaluate did not write" in done.err
    assert (run / "rows.csv").read_text() == "a run's rows\n" and sorted(p.name for p in run.iterdir()) == [
        "cells",
        "rows.csv",
    ]


def test_another_comparison_is_not_replaced(compare, given, tmp_path):
    """Case evaluate-out-overwrites: by name before the work, by the clips themselves after it."""
    assert compare(tmp_path / "e").code == 0
    first = (tmp_path / "e" / "record.json").read_bytes()
    other = compare(tmp_path / "e", generated="third")
    assert other.code == 2 and "holds the comparison of generated.npz with real.npz" in other.err
    assert "another folder" in compare(tmp_path / "e", protocols="pvdm").err
    assert compare(tmp_path / "e").code == 0  # the same one again
    kept = given / "kept.npz"
    shutil.move(given / "generated.npz", kept)
    shutil.copy(given / "third.npz", given / "generated.npz")
    try:
        again = compare(tmp_path / "e")
        assert again.code == 0 and f"written to {tmp_path / 'e.2'}" in again.err
        assert (tmp_path / "e" / "rows.csv").is_file() and (tmp_path / "e.2" / "rows.csv").is_file()
    finally:
        shutil.move(kept, given / "generated.npz")
    assert len(first) and (tmp_path / "e" / "record.json").read_bytes()[:100] == first[:100]


def test_a_folder_that_cannot_be_is_said_before_the_work(compare, monkeypatch):
    """Case evaluate-out-overwrites: it was said after everything was decoded and scored."""
    import lavita.metrics.folders as folders

    monkeypatch.setattr(folders, "extract", lambda *_: pytest.fail("it was decoded"))
    done = compare("/proc/nope")
    assert done.code == 2 and "can't be written" in done.err and done.err.count("\n") == 1


def test_the_folder_of_several_protocols_gives_its_numbers_again(compare, script, tmp_path):
    first = compare(tmp_path / "e", protocols="suite,pvdm")
    again = script("evaluate")("--from-features", tmp_path / "e")
    assert again.code == 0, again.err
    assert sorted(line for line in first.out.splitlines() if line.startswith("|")) == sorted(
        line for line in again.out.splitlines() if line.startswith("|")
    )
    assert compare(tmp_path / "e", protocols="suite,pvdm").code == 0


@pytest.mark.parametrize("clips", [2, 3])
def test_too_few_clips_are_said_at_once(script, given, clips):
    """Case clips-two: it was said after all clips were decoded and described."""
    words = ["--real", given / "real.npz", "--generated", given / "real.npz", "--protocol", "suite", "--offline"]
    assert "wanted at least 4" in script("evaluate")(*words, "--clips", clips).err
    said = script("evaluate")(*words, f"protocol.n={clips}", "protocol.is_splits=1")
    assert said.code == 2 and "wanted at least 4" in said.err and said.err.count("\n") == 1


def peak_of(folder, frames: int, selection: str) -> int:
    """Most bytes of Python and numpy while 4 clips of 8 frames are taken from videos of so many."""
    for number in range(2):
        still = np.zeros((frames, 48, 64, 3), np.uint8)
        write_video(folder / str(frames) / f"{number}.mkv", still, 8, lossless=True)
    protocol = read_protocol("suite", {"n": 4, "frames": 8, "resolution": 16, "real_interval": 1, "is_splits": 1})
    protocol = replace(protocol, clip_selection=selection, windows_per_video=None)
    items = clip_items(folder / str(frames))
    job = Job(protocol, Networks(None, None, None), picks(items, protocol, True))
    tracemalloc.start()
    try:
        extract(items, [job], True, 1, lambda done, total: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_length_of_videos(tmp_path):
    """Case long-videos: items were decoded whole, eight ahead. 400 frames here are 3.7 MB, 60 are 0.55 MB."""
    short, long = (peak_of(tmp_path, frames, "windows") for frames in (60, 400))
    assert long < 1.5 * short
