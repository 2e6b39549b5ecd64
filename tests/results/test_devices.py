"""Clips a second and MFU of a stage, by arithmetic; nothing is guessed of a device that is not known."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from lavita.report.charts import speed_texts
from lavita.results import devices
from lavita.results.devices import PEAKS, Speed, speed_of
from lavita.results.records import StageRecord
from lavita.results.typed_json import from_json, to_json


@pytest.fixture
def on(monkeypatch):
    """on(name) lets this machine have a device of that name."""
    return lambda name: monkeypatch.setattr(devices, "device_name", lambda: name)


def test_mfu_by_hand(on):
    """1000 clips of 15.54 TFLOP in 30 s are 518 TFLOP/s: 52.4 % of 989.4; on four such devices a quarter of that."""
    on("NVIDIA H100 80GB HBM3")
    found = speed_of(1000, 1000 * 15.54e12, 30.0, "bf16-mixed")
    assert found.clips_per_second == pytest.approx(100 / 3) and found.mfu == pytest.approx(518 / 989.4)
    assert speed_of(1000, 1000 * 15.54e12, 30.0, "bf16-mixed", 4).mfu == pytest.approx(518 / 989.4 / 4)
    on("NVIDIA A100-SXM4-80GB")
    assert speed_of(10, 195e12, 20.0, "32-true").mfu == pytest.approx(0.5)
    assert speed_of(10, 195e12, 20.0, "bf16-mixed").mfu == pytest.approx(0.5 * 19.5 / 312)


@pytest.mark.parametrize("name", ["", "NVIDIA GeForce GT 710", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_an_unknown_device_has_no_mfu(name, on):
    on(name)
    assert speed_of(10, 1e12, 2.0, "32-true") == Speed(5.0, None)
    assert speed_of(10, 1e12, 0.0, "32-true") is None


def test_a_cpu_has_no_name():
    assert devices.device_name() == ""


def test_the_name_is_what_torch_says(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "NVIDIA L4")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert devices.device_name() == "NVIDIA L4" in PEAKS


def test_it_stands_in_the_record_and_in_the_tables():
    stage = StageRecord("train", 8, 2.0, 1e12, speed=Speed(4.0, 0.4567), compiled_blocks=28)
    assert from_json(StageRecord, to_json(stage), "stage") == stage
    assert speed_texts(stage) == ("4", "45.7 %")
    assert speed_texts(StageRecord("train", 8, 2.0, 1e12, speed=Speed(0.123456, None))) == ("0.123", "")
    assert speed_texts(StageRecord("latent cache", 0, 2.0, 1e12)) == speed_texts(None) == ("", "")
