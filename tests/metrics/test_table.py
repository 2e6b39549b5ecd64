"""The metric table: names of scores, and a metric that is added by one row is everywhere."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavita.audit.scores import compared
from lavita.config.compose import read_protocol
from lavita.experiment import scoring
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain
from lavita.metrics.table import (
    METRICS,
    MetricRow,
    NetworkId,
    against_split,
    is_metric,
    metric_key,
    metric_words,
    parse_key,
    with_titles,
)
from lavita.report.write import tables_of
from lavita.results.records import Record, read_record, rows_of, write_record
from lavita.results.rows import Row
from lavita.results.run_folder import Attempt, RunFolder, SharedFolder
from lavita.results.scores import Measurement, Score

EMBEDDED = NetworkId("embedded", "e" * 64)


def test_names_of_scores_are_what_other_programs_read():
    """Spelled out again on purpose, with unit and direction."""
    known = {
        "fvd": ("squared feature distance", True),
        "kvd": ("squared kernel distance", True),
        "fvd-train": ("squared feature distance", True),
        "fvd-heldout": ("squared feature distance", True),
        "memorisation": ("distance of held-out clips", None),
        "fid": ("squared feature distance", True),
        "is": ("effective number of classes", False),
        "psnr": ("dB", False),
        "psnr_average4x4": ("dB", False),
        "ssim": ("1", False),
        "lpips": ("1", True),
        "rfvd": ("squared feature distance", True),
    }
    assert {name: (row.unit, row.lower_is_better) for name, row in METRICS.items()} == known
    assert list(METRICS) == list(known)  # the order of rows.csv
    assert metric_key(METRICS["fvd"], 64, 8, EMBEDDED) == "fvd_embedded_n64_f8"
    assert metric_key(METRICS["psnr_average4x4"], 32, 8) == "psnr_average4x4_n32_f8"
    i3d = METRICS["fvd"].standard
    assert metric_key(METRICS["fvd-train"], 2048, 16, i3d) == "fvd-train_n2048_f16"
    assert metric_key(METRICS["fid"], 2048, 16, i3d) == "fid_i3d_n2048_f16"  # it has no standard network
    assert metric_key(METRICS["is"], 2048, 16, NetworkId("c3d", None)) == "is_c3d_n2048_f16"


@pytest.mark.parametrize("name", METRICS)
def test_a_name_is_taken_apart_again(name):
    row = METRICS[name]
    networks = (None,) if row.array == "pixels" else (EMBEDDED, NetworkId("i3d_pretrained_400", "0"), row.standard)
    for network in networks:
        key = metric_key(row, 12, 16, network)
        found = parse_key(f"{key} ↓ low [another block]")
        assert (found.row, found.n, found.frames) == (row, 12, 16)
        spelled = network is not None and f"_{network.name}_" in key
        assert found.extractor == (network.name if spelled else None) and found.is_standard == (not spelled)
    assert is_metric(f"{name}_n2_f4", name) and not is_metric(f"x{name}_n2_f4", name)


def test_people_read_a_full_name_in_words():
    """Spelled out again on purpose."""
    words = {
        "fvd_embedded_n64_f8": "FVD (in-domain, 64 clips of 8 frames)",
        "fvd_n2048_f16": "FVD (I3D, 2048 clips of 16 frames)",
        "kvd_videomae_n256_f16": "KVD (VideoMAE, 256 clips of 16 frames)",
        "fvd-train_embedded_n64_f8": "FVD to training clips (in-domain, 64 clips of 8 frames)",
        "kvd-heldout_mine.v2_n64_f8": "KVD to held-out clips (mine.v2, 64 clips of 8 frames)",
        "is_c3d_n2048_f16": "IS (C3D, 2048 clips of 16 frames)",
        "memorisation_embedded_n64_f8": "memorization ratio (in-domain, 64 clips of 8 frames)",
        "psnr_average4x4_n32_f8": "PSNR of 4x4 averages (32 clips of 8 frames)",
        "rfvd_embedded_n64_f8": "FVD of reconstructions (in-domain, 64 clips of 8 frames)",
        "clips": "clips",
    }
    assert {metric: metric_words(metric) for metric in words} == words
    said = "by fvd_embedded_n64_f8, kvd-heldout_mine.v2_n64_f8, other_n3_f4; psnr_n32_f8"
    assert with_titles(said) == "by FVD, KVD to held-out clips, other_n3_f4; PSNR"


def test_what_names_no_metric():
    for text in ("", "clips", "fvd", "fvd_n8", "fvd-test_n8_f4", "train TFLOPs", "remark", "kvdx_n8_f4"):
        assert parse_key(text) is None
    assert parse_key("kvd-heldout_i3d_n48_f16").row.against == "heldout"
    with pytest.raises(ValueError, match="fvd: against is 'test', allowed None, 'train', 'heldout'"):
        against_split(METRICS["fvd"], "test")


# A metric that is no other's: how far the means of all features are apart.
NAME, KEY = "gap", "gap_corners_n8_f4"


def gap(protocol, real, generated):
    return Measurement(value=float(generated.rows.mean() - real.rows.mean()))


@pytest.fixture
def added(monkeypatch):
    row = MetricRow(
        NAME,
        unit="feature units",
        direction="lower",
        decimals=4,
        array="features",
        sides=("real", "generated"),
        legend="difference of the mean features; lower is better.",
        compute=gap,
    )
    monkeypatch.setitem(METRICS, NAME, row)


class Corners(Extractor):
    """Features are the first frame's first pixels."""

    name, weights_hash, num_features, num_classes = "corners", "abc", 6, None

    def forward_features(self, clips):
        return clips[:, 0, 0, :2].flatten(1).float()

    def forward_probabilities(self, clips):
        raise NotImplementedError


@pytest.fixture
def scored(added, tmp_path, monkeypatch):
    """What a Scorer leaves of 8 clips: (protocol, scores, real, generated clips), and its arrays in tmp_path."""
    rng = np.random.default_rng(0)
    real, generated = (rng.integers(0, 256, (8, 4, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    network = Corners()
    shared = SimpleNamespace(extractor=None, num_classes=None, real=tmp_path / "shared/key/real.npz", splits={})
    shared.real.parent.mkdir(parents=True)
    np.savez(shared.real, features=network.features(real).numpy(), names=np.arange(8).astype(str))
    changes = {"n": 8, "is_splits": 1, "extractor": "corners", "extractor_hash": "abc"}
    protocol = read_protocol("latte-2024", changes | {"frames": 4, "resolution": 16})
    monkeypatch.setattr(scoring, "load_extractors", lambda *_: {"distance": network, "classes": network})
    scorer = scoring.Scorer(shared, SimpleNamespace(protocol=protocol, weights=None), "cpu")
    (tmp_path / "cells/x-s0").mkdir(parents=True)
    scores = scorer.score(generated, tmp_path / "cells/x-s0/samples.npz", stage="train")
    return protocol, scores, real, generated


def test_an_added_metric_is_in_the_scores_of_a_run(scored):
    _, scores, real, generated = scored
    (found,) = [score for score in scores if score.metric == KEY]
    wanted = generated[:, 0, 0, :2].astype(float).mean() - real[:, 0, 0, :2].astype(float).mean()
    assert found.value == pytest.approx(wanted, rel=1e-12)
    assert (found.stage, found.unit, found.lower_is_better) == ("train", "feature units", True)
    assert (found.extractor, found.extractor_hash) == ("corners", "abc")


def test_an_added_metric_is_recomputed_by_the_audit(scored, tmp_path):
    protocol, scores, _, _ = scored
    shared = SharedFolder(None, SimpleNamespace(protocol_used=protocol))
    run = RunFolder(tmp_path, None, {"key": shared}, [], [], "")

    def audited(changed: float) -> tuple[list[str], int]:
        found = tuple(replace(one, value=one.value + changed * (one.metric == KEY)) for one in scores)
        record = Record(cell="x-s0", label="x", status="ok", row=Row(), shared="key", scores=found)
        write_record(tmp_path / "cells/x-s0", record)
        return compared(run, Attempt("x-s0", read_record(tmp_path / "cells/x-s0")))

    assert audited(0.0) == ([], 3)
    (wrong,), _ = audited(0.5)
    assert wrong.startswith(f"train {KEY}: value ")


def test_an_added_metric_stands_in_the_tables_of_the_report(added):
    score = Score(metric=KEY, stage="train", value=1 / 3, unit="feature units", lower_is_better=True)
    row = Row(cell="x-s0", method="x", seed=0, guidance=1.0)
    rows = rows_of(Record(cell="x-s0", label="x", status="ok", row=row, scores=(score,)))
    texts, _ = tables_of(rows, ["x"], {}, "d" * 64)
    (line,) = csv.DictReader(texts["table.csv"].splitlines())
    assert line[f"{KEY} ↓"] == "0.3333"
    assert f"* gap, `{KEY}` in CSV files: difference of the mean features; lower is better.\n" in texts["table.md"]
    assert "gap (corners, 8 clips of 4 frames) ↓" in texts["table.md"]
    assert "* KVD" not in texts["table.md"]  # no column of it


def test_an_added_metric_is_in_what_evaluate_writes(added, script, tmp_path):
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        np.savez(tmp_path / f"{side}.npz", clips=rng.integers(0, 256, (8, 4, 16, 16, 3), dtype=np.uint8))
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(3), {}), tmp_path / "net.safetensors")
    sides = ["--real", tmp_path / "real.npz", "--generated", tmp_path / "generated.npz"]
    how = ["--extractor", f"embedded:{tmp_path}/net.safetensors", "--protocol", "stylegan-v", "--clips", 8]
    more = ["protocol.resolution=16", "protocol.frames=4", "--no-sanity", "--metrics", NAME]
    call = script("evaluate")
    done = call(*sides, *how, *more, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    real, generated = (
        np.load(tmp_path / "out" / f"{side}.npz")["features"].astype(float) for side in ("real", "generated")
    )
    record = json.loads((tmp_path / "out/record.json").read_text())
    (score,) = [one for one in record["scores"] if one["metric"] == "gap_embedded_n8_f4"]
    assert score["value"] == pytest.approx(generated.mean() - real.mean(), rel=1e-12)
    assert record["metric_names"][NAME] == "gap_embedded_n8_f4"
    assert "| gap_embedded_n8_f4 ↓ |" in done.out
    with open(tmp_path / "out/rows.csv", newline="") as file:
        assert "gap_embedded_n8_f4" in {row["metric"] for row in csv.DictReader(file)}
    assert call("--from-features", tmp_path / "out").code == 0
