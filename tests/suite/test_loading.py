"""The loader of a stage: videos too short for what the stage reads are refused, or left out, before it trains."""

from dataclasses import replace

import pytest

from lavita.config.compose import Experiment
from lavita.config.plan import make_plan
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.experiment.stage_data import StageData
from lavita.training.stage import TrainedStage


class ReadsThePast(TrainedStage):
    context_frames = 8


def catalogue(*lengths: int) -> Catalogue:
    """Training and held-out videos of these lengths, none of them on disk."""
    videos = [
        VideoEntry(f"{split}{n}", f"/data/{split}{n}", f"{split}{n}", None, None, split, n)
        for split in ("train", "heldout")
        for n in lengths
    ]
    return Catalogue("skytimelapse", "/data", tuple(videos), (), "f")


def source(experiment: Experiment, videos: Catalogue) -> StageData:
    return StageData(experiment.data, experiment.compute, videos, 0, experiment.method)


def test_videos_without_room_for_the_past_are_refused_or_left_out():
    """8 frames at interval 3 span 22, with the 8 before them 46."""
    (experiment,) = make_plan(
        "skytimelapse", "demo", ["pvdm"], [0], ["model.previous_clip=true", "data.short_videos=error"]
    )
    plain, past = TrainedStage(experiment.train, 0), ReadsThePast(experiment.train, 0)
    videos = catalogue(22, 45, 46)
    assert len(source(experiment, videos).clips(plain, 0, 8).clips.videos) == 3
    with pytest.raises(ValueError, match=r"4 of 6 videos.*8 of these frames are those before each clip of pvdm"):
        source(experiment, videos).clips(past, 0, 8)
    skipping = replace(experiment, data=replace(experiment.data, short_videos="skip"))
    data = source(skipping, videos).clips(past, 0, 8)
    assert [video.frames for video in data.clips.videos] == [46] and data.clips.num_starts.tolist() == [1]
    with pytest.raises(ValueError, match="skipping leaves no"):
        source(skipping, catalogue(22, 45)).clips(past, 0, 8)


def test_a_batch_that_does_not_go_into_its_passes_is_refused():
    (experiment,) = make_plan("skytimelapse", "demo", ["pvdm"], [0], ["compute.accumulate_batches=3"])
    with pytest.raises(ValueError, match="3 does not divide the batch of 8 clips of pvdm"):
        source(experiment, catalogue(22)).clips(TrainedStage(experiment.train, 0), 0, 8)


def test_a_batch_that_does_not_go_into_its_processes_is_refused():
    overrides = ["compute.accumulate_batches=2", "compute.devices=3", "compute.nodes=2"]
    (experiment,) = make_plan("skytimelapse", "demo", ["pvdm"], [0], overrides)
    with pytest.raises(ValueError, match="6 processes with 2 passes each do not divide the batch of 8 clips of pvdm"):
        source(experiment, catalogue(22)).clips(TrainedStage(experiment.train, 0), 0, 8)


def test_a_stage_of_alternating_updates_that_begins_inside_a_batch_is_refused_where_parts_would_differ():
    class Alternating(TrainedStage):
        alternating_updates = 2

    (alone,) = make_plan("skytimelapse", "demo", ["pvdm"], [0], [])
    (two,) = make_plan("skytimelapse", "demo", ["pvdm"], [0], ["compute.devices=2"])
    module = Alternating(alone.train, 0)
    assert source(alone, catalogue(22)).clips(module, 4, 12).start == 4
    assert source(two, catalogue(22)).clips(module, 8, 16).start == 8
    with pytest.raises(ValueError, match="alternates its updates by batches of 8 clips and begins at clip 4"):
        source(two, catalogue(22)).clips(module, 4, 12)


def test_loader_processes_share_the_machines_cores(monkeypatch):
    """96 cores, of which 8 tasks at a time with one device each get 12, and two devices of one task 16 at most."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(96)), raising=False)
    (experiment,) = make_plan("ucf101", "small", ["dit"], [0], [])
    assert experiment.data.num_workers is None
    for tasks, devices, wanted in (("8", 1, 12), ("1", 2, 16), ("4", 4, 6), (None, 1, 16)):
        monkeypatch.delenv("LAVITA_TASKS", raising=False)
        if tasks is not None:
            monkeypatch.setenv("LAVITA_TASKS", tasks)
        compute = replace(experiment.compute, devices=devices)
        data = StageData(experiment.data, compute, catalogue(22), 0, "dit")
        assert data.workers() == wanted
    asked = replace(experiment.data, num_workers=3)
    assert StageData(asked, experiment.compute, catalogue(22), 0, "dit").workers() == 3
