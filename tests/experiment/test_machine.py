"""What a machine has, read from files as they are found, and runs that do not fit it."""

from dataclasses import replace
from pathlib import Path

import pytest

from lavita.config.plan import make_plan
from lavita.experiment import preflight
from lavita.experiment.budget import on_meta
from lavita.experiment.disk import working_bytes
from lavita.experiment.machine import cgroup_limits, device_memory, free_disk, host_memory
from lavita.experiment.preflight import check_disk, check_loader
from lavita.methods.base import VideoMethod
from lavita.results.records import Passes
from lavita.training.stage import StagePlan


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups_are_found_in_either_version(tmp_path):
    write(tmp_path / "memory.max", "max\n")
    write(tmp_path / "slurm/job_7/memory.max", "34359738368\n")
    write(tmp_path / "slurm/job_7/step_0/memory.max", "max\n")
    assert cgroup_limits(["0::/slurm/job_7/step_0"], tmp_path) == [34359738368]
    write(tmp_path / "memory/memory.limit_in_bytes", "17179869184\n")
    assert cgroup_limits(["5:cpu:/a", "4:memory:/process/b"], tmp_path) == [17179869184]
    assert cgroup_limits(["0::/elsewhere"], tmp_path) == [] and cgroup_limits([], tmp_path) == []


def test_this_machine_has_some_of_everything(tmp_path):
    assert 2**28 < host_memory() < 2**46
    memory = device_memory()
    assert 0 < memory.usable < memory.bytes
    assert free_disk(tmp_path / "not" / "there") > 0


@pytest.fixture
def run():
    (e,) = make_plan("ucf101", "paper", ["lavita-v1"], [0], ["model.size=S"])
    method, _ = on_meta(e, None)
    return e, method


def test_loaders_that_need_more_shared_memory_than_there_is_are_refused(run, monkeypatch):
    """40 clips of 16 frames of 256x256, two batches ready in each of four processes."""
    e, method = run
    stage = StagePlan("train", 1.0, method)
    monkeypatch.setattr(preflight, "shared_memory", lambda: 64 * 2**20)
    with pytest.raises(ValueError) as error:
        check_loader(e, [(stage, Passes(40, False))])
    said = str(error.value)
    assert "GiB of /dev/shm, which has 0.0625 free" in said and "--shm-size" in said and said.endswith("num_workers=0")
    monkeypatch.setattr(preflight, "shared_memory", lambda: 2**33)
    check_loader(e, [(stage, Passes(40, False))])
    monkeypatch.setattr(preflight, "shared_memory", lambda: None)
    check_loader(e, [(stage, Passes(40, False))])


def test_too_few_open_files_are_refused(run, monkeypatch):
    e, method = run
    monkeypatch.setattr(preflight, "open_files", lambda: 128)
    with pytest.raises(ValueError, match=r"need 320 open files, this process may have 128; set `ulimit -n 320`"):
        check_loader(e, [(StagePlan("train", 1.0, method), Passes(1, False))])


def needs(e, method: VideoMethod) -> float:
    """GiB: 2,048 clips as raw RGB, once kept and once on the way, and little else (S/2 has 0.13 GiB of weights)."""
    return 2 * 2048 * 16 * 256 * 256 * 3 / 2**30


def test_a_disk_that_is_too_small_is_refused(run, monkeypatch, tmp_path):
    e, method = run
    monkeypatch.setattr(preflight, "free_disk", lambda _: int(0.9 * needs(e, method) * 2**30))
    with pytest.raises(
        ValueError, match=r"1 runs need 12\.\d GiB more of disk, .* has 10\.8 free; give --out on a larger"
    ):
        check_disk([(e, method)], tmp_path)
    monkeypatch.setattr(preflight, "free_disk", lambda _: int(1.1 * needs(e, method) * 2**30))
    check_disk([(e, method)], tmp_path)
    # What lies there already is not needed again.
    monkeypatch.setattr(preflight, "free_disk", lambda _: int(0.9 * needs(e, method) * 2**30))
    with open(tmp_path / "clip", "wb") as file:
        file.truncate(6 * 2**30)
    (tmp_path / "cells").mkdir()
    (tmp_path / "clip").rename(tmp_path / "cells" / "clip")
    check_disk([(e, method)], tmp_path)


def test_a_run_of_one_step_keeps_fewer_checkpoints(run):
    """Of a network that is large beside its clips: weights, average and two moments, three times, or twice."""
    e, method = run
    few = replace(e.protocol, n_generated=4, is_splits=1)
    batch = method.train_config.batch_clips
    needed = [working_bytes(few, method, replace(e.budget, currency="clips", clips=n * batch)) for n in (1, 2, 1000)]
    assert [one / needed[0] for one in needed] == [1, 1.5, 1.5]
    assert working_bytes(few, method, replace(e.budget, currency="flops", flops=1.0)) == needed[2]
