"""Which autoencoders a run scores: the suite's where the method works on its latents, and the method's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.experiment import run
from lavita.experiment.reconstruction import score_of_pixels
from lavita.metrics.table import METRICS
from lavita.results.resume_store import ResumeStore

SUITES, OWN = (
    score_of_pixels(METRICS["psnr"], value, 2, 4, stage) for value, stage in ((20, "codec"), (25, "autoencoder"))
)


def setup(owns: bool, codec: PixelCodec | None) -> Any:
    """What is read of a run: method, scores of the suite's autoencoder, data."""
    method = SimpleNamespace(owns_first_stage=owns, first_stage=lambda: codec, perceptual_score=None)
    protocol = SimpleNamespace(
        split="test", frames=4, real_interval=1, windows_per_video=1, n_real=2, clip_seed=0, name="demo"
    )
    clips = SimpleNamespace(heldout_batch=lambda count: {"video": torch.zeros(2, 4, 3, 8, 8)})
    return SimpleNamespace(
        method=method,
        shared=SimpleNamespace(codec_scores=(SUITES,)),
        experiment=SimpleNamespace(protocol=protocol, train=None),
        data=SimpleNamespace(catalogue=None, clips=lambda *_: clips),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("owns", "codec", "wanted"),
    [
        (False, None, [SUITES]),  # a method on the suite's latents
        (True, None, []),  # in pixels
        (True, PixelCodec(), [OWN]),  # with a first stage of its own alone
        (False, PixelCodec(), [SUITES, OWN]),  # with one that it has built on the suite's
    ],
)
def test_both_are_scored_where_there_are_both(owns, codec, wanted, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "real_windows", lambda *_: [])
    monkeypatch.setattr(run, "reconstruction_scores", lambda *_: [OWN])
    found = run.first_stage_scores(setup(owns, codec), None, Path("a.gif"), ResumeStore(tmp_path))
    assert found == wanted
