"""Data that several tests read: the synthetic sets, and the small real ones where the checkout has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavita.data import synthetic
from lavita.data.layouts import read_layout
from lavita.data.synthetic import PLANS, write_synthetic
from lavita.data.video import write_video

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def synthetic_catalogue(tmp_path_factory) -> Callable:
    """The catalogue of a synthetic data set, written on first use: all its videos, two of the sets in 24
    frames.
    """
    folder, catalogues = tmp_path_factory.mktemp("embedded"), {}
    shorter = {name: replace(PLANS[name], frames=24) for name in ("faceforensics", "taichi")}

    def get(dataset: str):
        if dataset not in catalogues:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(synthetic, "PLANS", PLANS | shorter)
                catalogues[dataset] = read_layout(dataset, write_synthetic(dataset, folder))
        return catalogues[dataset]

    return get


@pytest.fixture
def shared() -> Callable:
    """The path of a small real data set; the test is skipped where they are absent."""

    def get(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"no ../shared/data/{name} beside the repository")
        return SHARED / name

    return get


@pytest.fixture
def counting_frames() -> Callable:
    """Frames that say their own number: frame t is grey level 3 t."""

    def make(count: int, height: int = 32, width: int = 48) -> np.ndarray:
        levels = (3 * np.arange(count)).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()

    return make


@pytest.fixture
def ucf101_tree(tmp_path) -> Path:
    """A UCF-101 tree of two classes and two groups, one clip each; every video differs from every other."""
    root = tmp_path / "data"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Bend\n2 Wave\n")
    (lists / "trainlist01.txt").write_text("Bend/v_Bend_g01_c01.avi 1\nWave/v_Wave_g01_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Bend/v_Bend_g02_c01.avi\nWave/v_Wave_g02_c01.avi\n")
    for number, name in enumerate(("Bend_g01", "Wave_g01", "Bend_g02", "Wave_g02")):
        frames = np.full((5 + number, 16, 16, 3), 40 * number, np.uint8)
        write_video(root / "UCF-101" / name[:4] / f"v_{name}_c01.avi", frames, 25, lossless=False)
    return root
