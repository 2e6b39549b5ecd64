"""A task's real clips: held-out windows in turn, those of every seed and method alike."""

import numpy as np
import torch

from lavita.config.plan import make_plan
from lavita.data.clips import load_window, to_tensor, window_starts
from lavita.data.layouts import read_layout
from lavita.data.synthetic import write_synthetic
from lavita.sampling.generate import conditions_of, generate

TASK = ["sampling.task=prediction", "model.tasks=[prediction]", "protocol.n_generated=7"]


def experiment_of(changes):
    (experiment,) = make_plan("skytimelapse", "demo", ["vdt"], [0], changes)
    return experiment


def conditions(experiment, catalogue):
    return conditions_of(experiment.data, experiment.protocol, experiment.sampling.task, catalogue)


def test_conditions_are_held_out_windows_in_turn(tmp_path):
    catalogue = read_layout("skytimelapse", write_synthetic("skytimelapse", tmp_path / "data"), cache_dir=tmp_path)
    assert conditions(experiment_of([]), catalogue) is None
    found = conditions(experiment_of(TASK), catalogue)
    every = {
        to_tensor(load_window(video, start, 8, 3, 32)).numpy().tobytes()
        for video in catalogue.split("heldout")
        for start in window_starts(video.frames, 8, 3)
    }
    video, there = found[0:7], len(found.windows)
    assert video.shape == (7, 8, 3, 32, 32) and video.dtype == torch.float32
    assert torch.equal(found[2:5], video[2:5])
    kept = [clip.numpy().tobytes() for clip in video]
    assert set(kept) <= every and len(set(kept)) == there == min(7, len(every))
    assert torch.equal(found[there : there + 3], video[:3])
    assert found.remark == f"prediction of 7 clips from {there} held-out windows"


class Echo:
    """Gives back what it was found, a seed's grey level brighter."""

    class context:
        num_classes = None

    def networks(self):
        return []

    def sample(self, seeds, classes, sampling, condition):
        return condition + torch.tensor(seeds)[:, None, None, None, None] / 127.5


def test_every_clip_gets_its_own_condition_in_any_batch():
    video = torch.arange(7.0)[:, None, None, None, None].expand(7, 8, 3, 4, 4) / 127.5 * 10 - 1
    sampling = experiment_of([*TASK, "sampling.batch_clips=3"]).sampling
    clips, _, seeds, _ = generate(Echo(), sampling, 7, 0, [], lambda *_: None, video)
    assert seeds == list(range(7))
    assert np.array_equal(clips[:][:, 0, 0, 0, 0], 11 * np.arange(7))
