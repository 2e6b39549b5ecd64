"""Untrained clips of networks whose output is 0: made once, the same that each would make, and only where they are."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavita.config.plan import make_plan
from lavita.experiment import untrained
from lavita.experiment.untrained import (
    HELD,
    MINE,
    SCORES,
    THERE,
    NotZero,
    SharedPlace,
    key_of,
    known_zeros,
    probe,
    untrained_scores,
)
from lavita.methods.build import build_method, empty_codec
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.sampling.generate import generate
from lavita.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["sampling.steps=3", "protocol.n_generated=8", "protocol.n_real=8", "sampling.batch_clips=4"]


def setup(tmp_path: Path, name: str, *overrides: str, suite: str = "ucf101", seed: int = 0) -> SimpleNamespace:
    """As much of a run as decides its untrained clips; its autoencoder always has the same weights."""
    (experiment,) = make_plan(suite, "demo", [name], [seed], [*SMALL, *overrides])
    torch.manual_seed(0)
    codec = empty_codec(experiment.codec)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    classes = 3 if suite == "ucf101-class" else None
    method = build_method(experiment, classes, codec).eval()
    real = tmp_path / "real.npz"
    real.write_bytes(b"features")
    shared = SimpleNamespace(
        cache=tmp_path, protocol_hash="p", extractor_hash="e", real=real, num_classes=classes, classes=(0, 1, 2)
    )
    return SimpleNamespace(
        experiment=experiment, method=method, shared=shared, conditions=None, device=torch.device("cpu")
    )


def test_networks_that_end_in_zeros_make_the_same_clips_under_one_key(tmp_path):
    names = ("lavita-v1", "lavita-v2", "lavita-v3", "lavita-v4", "dit", "dit-joint", "vdt")
    found = {name: probe(setup(tmp_path, name)) for name in names}
    assert len(set(found.values())) == 1 and None not in found.values()
    other_seed = setup(tmp_path, "dit", seed=1)
    assert probe(other_seed) == found["dit"]
    keys = {key_of(setup(tmp_path, name), found[name]) for name in names} | {key_of(other_seed, found["dit"])}
    assert len(keys) == 1


def test_an_autoencoder_of_its_own_makes_clips_of_its_own(tmp_path):
    """PVDM's network ends in zeros, too: its clips are those of its autoencoder's starting weights, another by seed."""
    one, again, other = (setup(tmp_path, "pvdm", seed=seed) for seed in (0, 0, 1))
    assert probe(one) == probe(again) != probe(other) and probe(one) != probe(setup(tmp_path, "dit"))
    assert key_of(one, "clips") == key_of(again, "clips") != key_of(other, "clips")


def test_guided_by_classes_zeros_are_zeros(tmp_path):
    found = {probe(setup(tmp_path, name, suite="ucf101-class")) for name in ("dit", "lavita-v2")}
    assert len(found) == 1 and None not in found


def test_a_network_that_gives_anything_else_shares_nothing(tmp_path):
    one = setup(tmp_path, "dit")
    with torch.no_grad():
        one.method.network.final_layer.linear.bias[-1] = 1e-30
    assert probe(one) is None
    assert not one.method.network._forward_hooks
    given = replace(one.experiment, sampling=replace(one.experiment.sampling, task="prediction"))
    assert untrained.shared_key(SimpleNamespace(**vars(one) | {"experiment": given})) is None


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["lavita-v3", "pvdm"])
def test_known_zeros_give_the_same_clips_without_computing_them(name, precision, tmp_path):
    one = setup(tmp_path, name, f"sampling.precision={precision}")
    network, calls = one.method.network, []
    counted = next(network.children()).register_forward_hook(lambda *_: calls.append(1))
    whole = made(one)
    asked = len(calls)
    with known_zeros(network, wanted=True):
        short = made(one)
    assert np.array_equal(whole, short) and 0 < len(calls) - asked < asked
    counted.remove()
    assert "forward" not in vars(network)
    assert np.array_equal(made(one), whole)


def made(one: SimpleNamespace) -> np.ndarray:
    """Six clips in passes of four and two."""
    e = one.experiment
    return generate(one.method, e.sampling, 6, 0, one.shared.classes, lambda *_: None).clips.array()


def test_what_is_no_longer_zero_is_not_taken_for_it(tmp_path):
    one = setup(tmp_path, "dit")
    with torch.no_grad():
        one.method.network.final_layer.linear.bias[-1] = 1e-30
    with known_zeros(one.method.network, wanted=False):
        assert np.isfinite(made(one)).all()
    with known_zeros(one.method.network, wanted=True), pytest.raises(NotZero):
        made(one)


@pytest.mark.parametrize(
    "change",
    ["sampling.steps=4", "sampling.eta=0.5", "sampling.batch_clips=8", "compute.threads=2"],
)
def test_all_that_decides_the_clips_is_in_the_key(change, tmp_path):
    one, other = setup(tmp_path, "dit"), setup(tmp_path, "dit", change)
    assert key_of(one, "clips") != key_of(other, "clips")


@pytest.mark.parametrize("what", ["clips", "protocol_hash", "extractor_hash", "real", "codec", "device"])
def test_and_all_that_decides_their_scores(what, tmp_path):
    one, other = setup(tmp_path, "dit"), setup(tmp_path, "dit")
    assert key_of(one, "clips") == key_of(other, "clips")
    if what in ("protocol_hash", "extractor_hash"):
        setattr(other.shared, what, "other")
    elif what == "real":
        other.shared.real = tmp_path / "other.npz"
        other.shared.real.write_bytes(b"other features")
    elif what == "codec":
        other.method.context.codec.mean.add_(1e-6)
    elif what == "device":
        other.device = torch.device("cuda")
    assert key_of(one, "clips") != key_of(other, "other" if what == "clips" else "clips")


SCORE = Score(metric="fvd", stage="untrained", value=3.25, unit="", lower_is_better=True, ci_low=1.5)


class Cell:
    """One run's folder and store, and how often it has made the untrained clips itself."""

    def __init__(self, base: Path, name: str) -> None:
        self.out, self.store, self.made = base / name / "untrained", ResumeStore(base / name / "progress"), 0
        self.setup = SimpleNamespace(
            shared=SimpleNamespace(cache=base),
            experiment=SimpleNamespace(protocol=SimpleNamespace(n_generated=8)),
        )

    def score(self, _: object) -> list[Score]:
        """Stands in for sampling and scoring, which end with the scores in the store."""

        def make() -> list[dict]:
            self.made += 1
            for ending in (".npz", ".gif"):
                self.out.with_suffix(ending).write_text(f"made{ending}")
            return [SCORE.to_json()]

        return [Score.from_json(one) for one in self.store.get_or_compute(SCORES, make)]

    def scores(self, key: str | None = "k", wait: bool = False) -> list[Score] | None:
        return untrained_scores(self.setup, self.out, self.store, self.score, key, wait)

    def files(self) -> list[str]:
        return [self.out.with_suffix(ending).read_text() for ending in (".npz", ".gif")]


def test_the_first_makes_them_and_the_others_take_them(tmp_path):
    first, second, third, alone = (Cell(tmp_path, name) for name in ("a", "b", "c", "d"))
    second.store.save("sample untrained-000000", ".npz", lambda file: file.write(b"a part of its own"))
    for cell in (first, second, third):
        assert cell.scores() == [SCORE] and cell.files() == ["made.npz", "made.gif"]
    assert [cell.made for cell in (first, second, third)] == [1, 0, 0]
    assert second.store.names("sample untrained-", ".npz") == []
    assert second.scores() == [SCORE] and second.made == 0  # resumed: from its own store
    assert alone.scores(key=None) == [SCORE] and alone.made == 1
    assert Cell(tmp_path, "e").scores(key="other") == [SCORE]
    assert sorted(path.name for path in tmp_path.glob("untrained-*")) == ["untrained-k", "untrained-other"]
    assert not list(tmp_path.glob(".untrained-*.part"))


def test_who_finds_another_at_it_goes_on_and_comes_back(tmp_path, monkeypatch):
    maker, other = SharedPlace(tmp_path, "k"), Cell(tmp_path, "b")
    assert maker.look() == MINE and SharedPlace(tmp_path, "k").look() == HELD
    assert other.scores() is None and other.made == 0
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            first = Cell(tmp_path, "a")
            first.score(None)
            maker.put(first.out, [SCORE.to_json()])
            maker.release()

    monkeypatch.setattr(untrained, "time", SimpleNamespace(sleep=sleep))
    assert other.scores(wait=True) == [SCORE] and len(looks) == 3 and other.made == 0
    assert SharedPlace(tmp_path, "k").look() == THERE


def test_of_a_maker_that_dies_the_next_takes_the_place(tmp_path, monkeypatch):
    maker, other = SharedPlace(tmp_path, "k"), Cell(tmp_path, "b")
    assert maker.look() == MINE and other.scores() is None
    monkeypatch.setattr(untrained, "time", SimpleNamespace(sleep=lambda _: maker.release()))
    assert other.scores(wait=True) == [SCORE] and other.made == 1
    assert Cell(tmp_path, "c").scores() == [SCORE]


def test_an_error_lets_go_of_the_place_and_a_stop_is_heard_while_waiting(tmp_path, monkeypatch):
    cell = Cell(tmp_path, "a")
    monkeypatch.setattr(cell, "score", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cell.scores()
    maker = SharedPlace(tmp_path, "k")
    assert maker.look() == MINE
    monkeypatch.setattr(checkpoint._Asked, "yes", True)
    with pytest.raises(checkpoint.Stopped):
        Cell(tmp_path, "b").scores(wait=True)
    maker.release()


TINY = [
    "budget.clips=64", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip


def run(out: Path, cache: Path, methods: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--tier", "demo"]
    command += ["--methods", methods, "--out", str(out), "--cache", str(cache), "--workers", "1", *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)


def test_a_run_takes_what_it_would_have_made(tmp_path):
    """DiT takes the clips of VDT, which costs more and begins first; alone, it makes the very same. Both runs pass
    their audit.
    """
    both = run(tmp_path / "both", tmp_path / "cache", "dit,vdt")
    assert both.returncode == 0, both.stdout + both.stderr
    for kept in (tmp_path / "cache").glob("untrained-*"):
        shutil.rmtree(kept)
    alone = run(tmp_path / "alone", tmp_path / "cache", "dit")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    for done in (both, alone):
        assert " checks, 0 failed (" in done.stdout
    logs = {
        name: (tmp_path / path / "log.txt").read_text()
        for name, path in {
            "dit": "both/cells/dit-s0", "vdt": "both/cells/vdt-s0", "alone": "alone/cells/dit-s0"
        }.items()
    }  # fmt: skip
    took = {name: "untrained clips: those of every network whose output is 0" in log for name, log in logs.items()}
    assert took == {"dit": True, "vdt": False, "alone": False}
    files = [tmp_path / folder / "cells" / "dit-s0" for folder in ("both", "alone")]
    for name in ("untrained.npz", "untrained.gif"):
        assert files[0].joinpath(name).read_bytes() == files[1].joinpath(name).read_bytes()
    values = [scores_of(folder) for folder in files]
    assert values[0] == values[1] and len(values[0]) > 2
    table = [row for row in rows(tmp_path / "both") if row["stage"] == "untrained"]
    of = {name: [row["value"] for row in table if row["method"] == name] for name in ("dit", "vdt")}
    assert of["dit"] == of["vdt"] and len(of["dit"]) > 1


def scores_of(folder: Path) -> list[tuple]:
    """Metric, stage, value and interval of all scores of a record."""
    scores = json.loads((folder / "record.json").read_text())["scores"]
    return [(one["metric"], one["stage"], one["value"], one.get("ci_low"), one.get("ci_high")) for one in scores]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rows.csv", newline="") as file:
        return list(csv.DictReader(file))
