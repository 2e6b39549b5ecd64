"""Checkpoints in folders as diffusers writes them: which files are read, under which names, and what they hash to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from lavita.methods.checkpoint_files import INDEX, WHOLE, files_of, hash_of, read_published, size_of
from lavita.methods.checkpoints import CheckpointError


def write(folder: Path, **values: float) -> Path:
    """A network of one number a name, in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({name: torch.tensor([value]) for name, value in values.items()}, folder / WHOLE)
    return folder


def shard(folder: Path) -> None:
    """The same network in a file for each name."""
    state, names = load((folder / WHOLE).read_bytes()), {}
    for number, (name, value) in enumerate(sorted(state.items())):
        names[name] = f"diffusion_pytorch_model-{number + 1:05d}-of-{len(state):05d}.safetensors"
        save_file({name: value}, folder / names[name])
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / WHOLE).unlink()


def numbers(path: Path) -> dict[str, float]:
    return {name: float(value) for name, value in read_published(path).items()}


def pipeline(folder: Path) -> Path:
    write(folder / "unet", a=1.0, b=2.0)
    write(folder / "vae", a=3.0)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "image_encoder").mkdir()
    save_file({"c": torch.zeros(1)}, folder / "image_encoder" / "model.safetensors")
    return folder


def test_networks_of_a_folder_are_read_under_their_names(tmp_path):
    folder = pipeline(tmp_path)
    assert numbers(folder) == {"unet.a": 1.0, "unet.b": 2.0, "vae.a": 3.0}
    assert numbers(folder / "unet") == {"a": 1.0, "b": 2.0}
    assert numbers(folder / "unet" / WHOLE) == {"a": 1.0, "b": 2.0}
    shard(folder / "unet")
    assert numbers(folder) == {"unet.a": 1.0, "unet.b": 2.0, "vae.a": 3.0}
    assert len(files_of(folder)) == 4  # the index, two shards, one file


def test_a_variant_is_read_where_there_is_nothing_else(tmp_path):
    folder = write(tmp_path / "unet", a=1.0)
    save_file({"a": torch.full((1,), 9.0, dtype=torch.float16)}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert numbers(folder) == {"a": 1.0}
    (folder / WHOLE).unlink()
    assert numbers(folder) == {"a": 9.0}
    save_file({"a": torch.zeros(1)}, folder / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(CheckpointError, match=r"holds diffusion_pytorch_model.fp16.safetensors, .*one of these alone"):
        read_published(folder)


def test_hash_and_size_are_of_all_files_that_are_read(tmp_path):
    folder = pipeline(tmp_path)
    files = [folder / "unet" / WHOLE, folder / "vae" / WHOLE]
    marks = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    text = "".join(f"{name}/{WHOLE} {mark}\n" for name, mark in zip(("unet", "vae"), marks, strict=True))
    assert hash_of(folder) == hashlib.sha256(text.encode()).hexdigest()
    assert hash_of(files[0]) == marks[0]
    assert (
        size_of(folder) == sum(file.stat().st_size for file in files) and size_of(files[0]) == files[0].stat().st_size
    )
    (folder / "scheduler" / "more.json").write_text("{}")
    assert hash_of(folder) == hashlib.sha256(text.encode()).hexdigest()
    write(folder / "vae", a=4.0)
    assert hash_of(folder) != hashlib.sha256(text.encode()).hexdigest()


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(CheckpointError, match="holds no network of diffusers"):
        read_published(tmp_path)
    index = tmp_path / "unet" / INDEX
    for text, words in (
        ("no json", "is no index of weights"),
        ("{}", "is no index of weights"),
        ('{"weight_map": {"a": 3}}', "is no index of weights"),
        ('{"weight_map": {}}', "lists no files"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "lists gone.safetensors, wanted files beside it"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "lists ../other.safetensors"),
    ):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=words):
            read_published(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_published(tmp_path / "none")
