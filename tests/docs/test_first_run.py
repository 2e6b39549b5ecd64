"""README's table is the one that docs/first_run.py makes of a run's rows, as are its lines of numbers.csv."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lavita.suite.variation import Varied, as_csv

ROOT = Path(__file__).resolve().parents[2]
METRICS = {"FVD (in-domain, 64 clips of 8 frames) ↓": "fvd_in-domain", "IS (in-domain, 64 clips of 8 frames) ↑": "is_x"}


@pytest.fixture
def first_run(tmp_path, monkeypatch):
    """The script, which writes to copies."""
    spec = importlib.util.spec_from_file_location("first_run", ROOT / "docs" / "first_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    for name in ("RECORDED", "PICTURE"):
        copy = tmp_path / getattr(module, name).name
        shutil.copyfile(getattr(module, name), copy)
        monkeypatch.setattr(module, name, copy)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def run(first_run, tmp_path) -> Path:
    """A results folder whose scores are those of README, and its variation."""
    with first_run.RECORDED.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["document"] == "README.md"]
    names = {title: method for method, title in first_run.NOTES.items()}
    rows, variation, metric = [], [], ""
    for start in range(0, len(lines), 6):
        values = lines[start : start + 6]
        for one in values[:4]:
            metric = METRICS.get(one["metric"], metric)
            stage = "untrained" if one["metric"] == "untrained" else "train"
            rows.append(
                {
                    "method": names.get(one["method"], one["method"]),
                    "stage": stage,
                    "metric": metric,
                    "value": float(one["value"]),
                    "clips_seen": int(values[4]["value"]),
                    "train_flops": float(values[5]["value"]) * 1e12,
                    "status": "ok",
                    "dirty": False,
                    "commit": one["commit"] + "0" * 33,
                    "hardware": "a processor",
                }
            )
            if one["allowed"] != "not measured":
                share = float(one["allowed"].removesuffix(" %")) / 100
                variation.append(Varied("", "", stage, metric, "", 2, 0.0, 0.0, share / 4, share, 1, one["commit"]))
    folder = tmp_path / "run"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    (folder / "overview.webp").write_bytes(b"picture")
    (tmp_path / "variation.csv").write_text(as_csv(variation), encoding="utf-8")
    return folder


def test_what_it_writes_is_what_is_there(first_run, run, tmp_path, capsys):
    before = [(ROOT / "README.md").read_text("utf-8"), (ROOT / "docs" / "numbers.csv").read_text("utf-8")]
    assert first_run.main([str(run), "--variation", str(tmp_path / "variation.csv")]) == 0
    assert [(tmp_path / "README.md").read_text("utf-8"), first_run.RECORDED.read_text("utf-8")] == before
    assert first_run.PICTURE.read_bytes() == b"picture"
    assert "on a processor" in capsys.readouterr().out


@pytest.mark.parametrize("column, value", [("status", "failed"), ("dirty", True)])
def test_a_folder_that_proves_nothing_is_refused(column, value, first_run, run, capsys):
    rows = pd.read_csv(run / "rows.csv")
    rows.loc[0, column] = value
    rows.to_csv(run / "rows.csv", index=False)
    with pytest.raises(SystemExit):
        first_run.main([str(run)])
    assert "all ok, made by a clean commit" in capsys.readouterr().err
