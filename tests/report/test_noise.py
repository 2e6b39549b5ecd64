"""Whether samples are more than noise: the rule on inception scores, and on features that a run stores."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from lavita.report.noise import AgainstNoise, against_noise, by_classes
from lavita.report.write import tables_of_run
from lavita.results.records import read_record, write_record
from lavita.results.run_folder import RunFolder, read_run
from lavita.results.shared import read_shared, write_shared
from tests.report.folder_of_run import KEY, make_run


def test_with_classes_the_middle_between_noise_and_real_clips_decides():
    for samples, wanted in ((0.9, False), (1.0, False), (2.49, False), (2.51, True), (4.0, True)):
        assert by_classes("x-s0", samples, 1.0, 4.0).distinguished is wanted
    assert by_classes("x-s0", 1.25, 1.0, 4.0).line == (
        "* x-s0: no, 8 % of the way from noise to real clips: inception score 1.250, of the noise 1.000, of the real "
        "clips 4.000"
    )
    assert by_classes("x-s0", 1.2, 1.3, 1.3).distinguished is None


def test_a_run_with_classes_needs_its_record_alone(tmp_path):
    found = against_noise(read_run(make_run(tmp_path / "out")))
    # The hand-made scores: 2 trained, 1.1 untrained, 3 of the real clips.
    assert [(one.cell, one.distinguished, one.said[:4]) for one in found] == [
        ("dit-s0", False, "47 %"), ("pvdm-s0", False, "47 %"),
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A run without classes: dit's samples lie with the real clips but for two of ten, pvdm's were not kept."""
    folder = make_run(tmp_path / "out")
    shared = folder / "shared" / KEY
    values = read_shared(shared)
    write_shared(shared, replace(values, sanity=replace(values.sanity, inception=None)))
    rng = np.random.default_rng(0)
    real, noise = (rng.normal(mean, 1, (12, 6)).astype(np.float32) for mean in (4, 0))
    np.savez(shared / "r.npz", features=real, names=np.arange(12).astype(str))
    np.savez(folder / "cells/dit-s0/untrained.npz", features=noise)
    samples = np.concatenate([rng.normal(3.5, 1, (8, 6)), rng.normal(0, 1, (2, 6))]).astype(np.float32)
    np.savez(folder / "cells/dit-s0/samples.npz", features=samples)
    return folder


def of_dit(run: RunFolder) -> AgainstNoise:
    return next(one for one in against_noise(run) if one.cell == "dit-s0")


def test_without_classes_the_nearer_mean_of_features_decides(folder):
    run = read_run(folder)
    arrays = {
        name: np.load(path)["features"].astype(float)
        for name, path in {
            "real": folder / "shared" / KEY / "r.npz",
            "noise": folder / "cells/dit-s0/untrained.npz",
            "samples": folder / "cells/dit-s0/samples.npz",
        }.items()
    }
    to = {name: np.linalg.norm(arrays["samples"] - arrays[name].mean(0), axis=1) for name in ("real", "noise")}
    near = int(np.sum(to["real"] < to["noise"]))
    assert near == 8
    found = of_dit(run)
    assert found.distinguished and found.said.startswith(f"the features of {near} of 10 clips are nearer to the real")
    assert found.said.endswith("(of the noise itself 0 of 12, of the real clips 12 of 12)")
    assert found.line in tables_of_run(run).texts["table.md"]
    np.savez(folder / "cells/dit-s0/samples.npz", features=arrays["samples"][::-1][:4])
    assert of_dit(run).distinguished is False, "half is not more than half"


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda path: path.unlink(), "samples.npz was not kept"),
        (lambda path: path.write_bytes(b"PK nothing"), "holds no features that can be read"),
        (lambda path: np.savez(path, names=np.zeros(3)), "holds no features that can be read"),
        (lambda path: np.savez(path, features=np.array([{}])), "holds no features that can be read"),
        (lambda path: np.savez(path, features=np.full((3, 6), np.nan)), "holds no finite features of clips"),
        (lambda path: np.savez(path, features=np.zeros((3, 5))), "features of different lengths"),
        (lambda path: (path.unlink(), os.symlink("untrained.npz", path)), "which is a link there"),
    ],
)
def test_what_is_not_there_or_broken_is_not_known(folder, spoil, said):
    spoil(folder / "cells/dit-s0/samples.npz")
    found = of_dit(read_run(folder))
    assert found.distinguished is None and said in found.said and "\n" not in found.line


def test_a_run_that_failed_has_no_line(folder):
    assert [one.cell for one in against_noise(read_run(folder))] == ["dit-s0", "pvdm-s0"]
    for path in folder.glob("cells/*"):
        write_record(path, replace(read_record(path), status="failed", reason="x"))
    run = read_run(folder)
    assert against_noise(run) == [] and "Distinguished from noise" not in tables_of_run(run).texts["table.md"]
