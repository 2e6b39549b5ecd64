"""A pickle that runs code is given at every door that reads weights or arrays: nothing runs, one line says why."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lavita.audit.clips import read_arrays
from lavita.codecs.kl import STATISTICS, load_codec, load_kl
from lavita.experiment import scoring
from lavita.methods.checkpoints import load, load_official, read_state, read_tensors
from lavita.methods.perceptual import LPIPS
from lavita.metrics.clips import clip_items
from lavita.metrics.features.frame_encoders import load_frame_encoder
from lavita.metrics.features.i3d import load_i3d
from lavita.metrics.features.in_domain import load_in_domain
from lavita.metrics.features.load import load_extractor
from lavita.metrics.features.torchscript import TorchScriptC3D, TorchScriptI3D
from lavita.metrics.features.weights import read_state_dict
from lavita.metrics.folder_record import recomputed
from tests.safety.evil import Evil, arrays, files_of_weights, one_line

KINDS = ("bare", "ema", "old", "script", "plain pickle", "named safetensors")


def in_domain(path: Path):
    """A file of the in-domain extractor with the hash that it should have."""
    facts = {"num_classes": None, "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(facts))
    return load_in_domain(path)


def codec_folder(path: Path) -> Path:
    """The folder of a small AutoencoderKL whose weights are the file, under both names that diffusers knows."""
    folder = path.parent / "codec"
    small = AutoencoderKL(block_out_channels=(8,), norm_num_groups=2, latent_channels=2)
    small.save_config(folder)
    (folder / STATISTICS).write_text(json.dumps({"mean": [0], "std": [1], "bound": 1, "name": "", "trained_clips": 1}))
    suffix = "safetensors" if path.suffix == ".safetensors" else "bin"
    (folder / f"diffusion_pytorch_model.{suffix}").write_bytes(path.read_bytes())
    return folder


def beside(path: Path) -> Path:
    """The file with a configuration beside it, as a checkpoint of ours has."""
    path.with_suffix(".json").write_text("{}")
    return path


DOORS = {
    "official": lambda path: load_official(path, torch.nn.Linear(2, 2)),
    "pretraining": read_state,
    "tensors": read_tensors,
    "ours": lambda path: load(beside(path)),
    "lpips": lambda path: LPIPS.from_files(path, path),
    "state dict": lambda path: read_state_dict(path, "network"),
    "extractor": lambda path: load_extractor(str(path)),
    "i3d of a run": TorchScriptI3D,
    "c3d of a run": TorchScriptC3D,
    "i3d": load_i3d,
    "frames": load_frame_encoder,
    "in-domain extractor": in_domain,
    "given codec": lambda path: load_kl(str(codec_folder(path)), None),
    "codec of a run": lambda path: load_codec(codec_folder(path)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_no_file_of_weights_is_run(tmp_path, door, kind):
    marker = tmp_path / "marker"
    path = files_of_weights(tmp_path / "files", marker)[kind]
    with pytest.raises(ValueError) as caught:
        DOORS[door](path)
    assert not marker.exists() and len(one_line(caught.value)) < 800


def test_the_pickles_are_dangerous(tmp_path):
    """Each of them does make the folder where it is read without care: these tests can fail."""
    marker = tmp_path / "marker"
    found = files_of_weights(tmp_path / "files", marker)
    for name in ("bare", "ema", "old", "plain pickle", "named safetensors"):
        if name in ("bare", "ema", "old"):
            torch.load(found[name], weights_only=False)
        else:
            pickle.loads(found[name].read_bytes())
        assert marker.is_dir(), name
        marker.rmdir()


@pytest.mark.parametrize("kind", KINDS)
def test_sample_refuses_it_as_an_official_file(tmp_path, script, kind):
    marker = tmp_path / "marker"
    path = files_of_weights(tmp_path / "files", marker)[kind]
    where = ["--suite", "ucf101", "--tier", "demo", "--out", tmp_path / "out", "--clips", 1, "codec.kind=pixels"]
    given = ["--checkpoint", path, "--checkpoint", path, "--method", "pvdm"]
    for arguments in (given, [*given[:2], "--method", "lavita-v1", "model.patch_size=4"]):
        done = script("sample")(*arguments, *where)
        assert done.code == 2 and len(done.err.strip().splitlines()) == 1 and path.name in done.err, done.err
        assert not marker.exists()


ARRAYS = ("objects.npy", "objects.npz", "pickle.npy", "pickle.npz")


@pytest.mark.parametrize("kind", ARRAYS)
def test_no_array_of_clips_is_unpickled(tmp_path, kind):
    marker = tmp_path / "marker"
    path = arrays(tmp_path / "files", marker)[kind]
    with pytest.raises(ValueError) as caught:
        clip_items(path)
    assert kind in one_line(caught.value) and not marker.exists()


@pytest.mark.parametrize("kind", ["objects.npz", "pickle.npz"])
def test_no_stored_features_are_unpickled(tmp_path, kind, monkeypatch):
    marker = tmp_path / "marker"
    path = arrays(tmp_path / "files", marker)[kind]
    monkeypatch.setattr(scoring, "load_extractors", lambda *_: {"distance": None, "classes": None})

    class OneExperiment:
        protocol = None
        weights = None

    doors = {
        "audit": lambda: read_arrays(path),
        "real clips": lambda: scoring.Scorer(SimpleNamespace(extractor=None, real=path), OneExperiment, "cpu"),
        "again": lambda: recomputed(folder_of_features(tmp_path / "again", path.read_bytes())),
    }
    for name, read in doors.items():
        with pytest.raises(ValueError) as caught:
            read()
        assert one_line(caught.value) and not marker.exists(), name


def folder_of_features(folder: Path, content: bytes) -> Path:
    """What evaluate.py --out writes, with these bytes as features and their true hashes."""
    from lavita.config.compose import read_protocol

    folder.mkdir()
    files = {}
    for side in ("real", "generated"):
        (folder / f"{side}.npz").write_bytes(content)
        files[f"{side}.npz"] = hashlib.sha256(content).hexdigest()
    record = {"protocol": read_protocol("latte-2024", {}).to_dict(), "files": files, "metric_names": {}, "scores": []}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_the_marker_is_made_by_unpickling(tmp_path):
    import numpy as np

    marker = tmp_path / "marker"
    path = arrays(tmp_path / "files", marker)["objects.npy"]
    np.load(path, allow_pickle=True)
    assert marker.is_dir() and Evil(marker).__reduce__()[1] == (str(marker),)
