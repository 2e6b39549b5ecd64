"""Stand-ins for published files have their interface and their function; drawn trees are those of UCF101."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch

from lavita.data.layouts import read_layout
from lavita.metrics.features.i3d import I3D, I3DExtractor
from lavita.metrics.features.torchscript import TorchScriptC3D, TorchScriptI3D
from lavita.speed import rehearsal, stand_ins


def clips(count: int, frames: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, frames, side, side, 3), dtype=np.uint8)


def test_the_packaged_i3d_is_our_i3d(tmp_path):
    packaged = TorchScriptI3D(stand_ins.write_i3d(tmp_path / "i3d.pt", frames=9))
    torch.manual_seed(1)
    ours = I3DExtractor(I3D().eval(), "the same weights")
    found, wanted = packaged.features(clips(2, 9, 48)), ours.features(clips(2, 9, 48))
    assert found.shape == (2, 400)
    # Both resize, scale and average in float32; the packaging up to rounding.
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_c3d_has_the_published_shape_and_gives_probabilities(tmp_path):
    with torch.device("meta"):
        sizes = {name: tuple(p.shape) for name, p in stand_ins.C3D().named_parameters() if p.ndim > 1}
    # Tran et al. 2015: eight convolutions, then 8192 values into 4096, 4096 and the classes.
    assert [size[0] for size in sizes.values()] == [64, 128, 256, 256, 512, 512, 512, 512, 4096, 4096, 101]
    assert sizes["classes.0.weight"] == (4096, 8192)
    network = TorchScriptC3D(stand_ins.write_c3d(tmp_path / "c3d.pt", stand_ins.C3D((4,) * 8, 16)))
    rows = network.probabilities(clips(2, 9, 24))
    assert rows.shape == (2, 101) and torch.allclose(rows.sum(dim=1), torch.ones(2), atol=1e-5)


def test_a_tree_of_ucf101_with_few_encoded_videos(tmp_path):
    root = stand_ins.write_ucf101(tmp_path, train=150, heldout=40, frames=12, files=3, side=48)
    found = read_layout("ucf101", root)
    assert Counter(video.split for video in found.videos) == {"train": 150, "heldout": 40}
    assert len({video.sha256 for video in found.videos}) == 190 and not found.notes
    assert {video.frames for video in found.videos} == {12} and len(found.class_names) == 101


def test_the_rehearsal_says_how_a_run_failed(tmp_path):
    with pytest.raises(ValueError, match=r"status 3: the last line"):
        rehearsal.run([sys.executable, "-c", "print('x'); import sys; print('the last line'); sys.exit(3)"], 60)
    with pytest.raises(TimeoutError, match="not done after"):
        rehearsal.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.1)
    with pytest.raises(ValueError, match="not there"):
        rehearsal.stages(tmp_path)
    rehearsal.run([sys.executable, "-c", "import lavita"], 60)
