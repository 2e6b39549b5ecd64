"""The library's functions beside the commands: the same plan, clips and scores, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lavita
from lavita.api import as_overrides, samples_of
from lavita.config.plan import make_plan
from lavita.config.schema import ConfigError
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    """An extractor that knows nothing, by its name."""
    path = tmp_path_factory.mktemp("network") / "extractor.safetensors"
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(3), {}), path)
    return f"embedded:{path}"


def clips(seed: int, n: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 32, 32, 3), dtype=np.uint8)


def test_overrides_as_a_mapping_are_those_of_the_command_line():
    words = ["budget.clips=64", "train.learning_rate=1e-05", "data.root=null", "sampling.steps=4", "data.flip=false"]
    flat = {
        "budget.clips": 64, "train.learning_rate": 1e-5, "data.root": None, "sampling.steps": 4, "data.flip": False,
    }  # fmt: skip
    nested = {"budget": {"clips": 64}, "train": {"learning_rate": 1e-5}, "data": {"root": None, "flip": False}}
    wanted = make_plan("ucf101", "demo", ["dit"], [3], words)
    assert lavita.compose("ucf101", "demo", ["dit"], [3], words) == wanted
    assert lavita.compose("ucf101", "demo", ["dit"], [3], flat) == wanted
    assert lavita.compose("ucf101", "demo", ["dit"], [3], nested | {"sampling": {"steps": "4"}}) == wanted


@pytest.mark.parametrize("text", ["null", "1e3", "a: b", "with 'quotes' \"and\" \\", "[x]", "#", "Ωmega", ""])
def test_a_text_stays_that_text(text):
    overrides = {"pretraining.checkpoint": Path("/some/file"), "pretraining.origin": f"x{text}"}
    (experiment,) = lavita.compose("ucf101", "demo", ["dit"], overrides=overrides)
    assert experiment.pretraining.origin == f"x{text}" and experiment.pretraining.checkpoint == "/some/file"
    assert json.loads(as_overrides({"a.b": text})[0].removeprefix("a.b=")) == text


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: lavita.compose("ucf11"), "did you mean 'ucf101'"),
        (lambda: lavita.compose("ucf101", overrides="budget.clips=3"), "wanted a list of section.key=value"),
        (lambda: lavita.compose("ucf101", overrides={"budget.clip": 3}), "did you mean 'budget.clips'"),
        (lambda: lavita.compose("ucf101", plugins=["./nowhere"]), "--plugin ./nowhere: no such folder"),
        (lambda: lavita.run_suite("ucf101", "demo", workers=0), "workers: got 0, wanted at least 1"),
        (lambda: lavita.run_suite("ucf101", "demo", samples={"dit": "."}), "the name 'dit' is taken"),
        (lambda: lavita.load("nowhere"), "no file nowhere"),
        (lambda: lavita.sample("nowhere", 0), "num_clips: got 0, wanted at least 1"),
        (lambda: lavita.sample("nowhere", 1, seed_start=-1), "seed_start: got -1, wanted at least 0"),
        (lambda: lavita.evaluate("a", "b", "demo", clips=1), "clips: got 1, wanted at least 4"),
        (lambda: lavita.evaluate("a", "b", "demo", metrics=["fdv"]), "metrics: got 'fdv', allowed fvd, kvd, is"),
        (lambda: lavita.evaluate("a", "b", "demo", weights={"i3": "f"}), "weights: got 'i3', allowed i3d"),
        (lambda: lavita.evaluate(clips(0), clips(1), "dmeo"), "did you mean 'demo'"),
        (lambda: lavita.evaluate(clips(0).astype(float), clips(1), "demo"), "got float64 (6, 8, 32, 32, 3), wanted"),
    ],
)
def test_what_is_wrong_is_one_line(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_samples_need_a_name_that_is_free_and_a_folder(tmp_path):
    assert samples_of([("mine", tmp_path)], ["dit"]) == {"mine": tmp_path.resolve()}
    for pairs, message in (([("a b", tmp_path)], "wanted NAME=DIR"), ([("mine", tmp_path / "x")], "no folder")):
        with pytest.raises(ConfigError, match=message):
            samples_of(pairs, [])


def test_arrays_of_numpy_and_torch_score_as_the_same_clips_from_a_file_and_by_the_command(network, tmp_path, script):
    real, generated = clips(0), clips(1)
    np.save(tmp_path / "real.npy", real)
    np.savez(tmp_path / "generated.npz", clips=generated)
    options = {"clips": 6, "extractor": network, "sensitivity": False}
    (memory,), none = lavita.evaluate(real, torch.from_numpy(generated), "demo", **options)
    (files,), _ = lavita.evaluate(tmp_path / "real.npy", str(tmp_path / "generated.npz"), "demo", **options)
    assert memory.scores == files.scores and not none
    assert [memory.record[side]["name"] for side in ("real", "generated")] == ["real", "generated"]
    sides = ["--real", tmp_path / "real.npy", "--generated", tmp_path / "generated.npz", "--protocol", "demo"]
    more = ["--clips", 6, "--extractor", network, "--no-sanity", "--out", tmp_path / "scores"]
    assert script("evaluate")(*sides, *more).code == 0
    assert json.loads((tmp_path / "scores" / "record.json").read_text())["scores"] == files.to_json()["scores"]


def test_out_holds_what_the_command_reads_again(network, tmp_path, script):
    said: list[str] = []
    lavita.evaluate(
        clips(0), clips(1), ["demo", "demo"], clips=6, extractor=network, out=tmp_path / "scores", say=said.append
    )
    assert "real clips 6/6" in said and "generated clips 6/6" in said
    again = script("evaluate")("--from-features", tmp_path / "scores")
    assert again.code == 0 and "fvd_embedded_n6_f8" in again.out
