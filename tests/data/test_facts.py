"""The data set files: complete, consistent, and wrong keys are refused by name."""

from __future__ import annotations

import pytest

from lavita.data import catalogue
from lavita.data.catalogue import dataset_facts, dataset_names
from lavita.data.layouts import LAYOUTS


@pytest.mark.parametrize("name", ["faceforensics", "skytimelapse", "taichi", "ucf101"])
def test_each_file_is_complete(name):
    known = dataset_facts(name)
    assert known.name == name and known.layout in LAYOUTS and name in dataset_names()
    assert known.flip == (name != "skytimelapse") and known.interval == 3 and known.short_videos in ("error", "skip")
    assert (known.has_classes, known.num_classes) == ((True, 101) if name == "ucf101" else (False, None))
    assert known.homepage.startswith("https://") and known.expected_tree.startswith("ROOT/")


@pytest.mark.parametrize(
    "change, message",
    [(("flip:", "flop:"), "did you mean 'flip'"), (("flip: true\n", ""), "missing key 'flip'")],
)
def test_wrong_keys_are_named(tmp_path, monkeypatch, change, message):
    text = (catalogue.FOLDER / "ucf101.yaml").read_text(encoding="utf-8")
    (tmp_path / "ucf101.yaml").write_text(text.replace(*change), encoding="utf-8")
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=message):
        dataset_facts("ucf101")


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'ucf101'"):
        dataset_facts("ufc101")
