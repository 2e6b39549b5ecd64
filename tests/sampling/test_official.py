"""An official-format file, made from a recorded case, samples through sample.py; a wrong one changes nothing."""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lavita.data.clip_folder import read_clips
from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.parity.cases import fill_by_formula

ROOT = Path(__file__).resolve().parents[2]
CASE = json.loads((ROOT / "tests" / "parity" / "latte_class.json").read_text())
SETTING = [
    "--suite", "ucf101-class", "--method", "lavita-v1", "model.depth=4", "model.width=48", "model.num_heads=4",
    "data.frames=4", "protocol.frames=4", "data.resolution=16", "protocol.resolution=16", "--steps", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The case's state dict as the official trainer stores it, and a small autoencoder as a local folder."""
    folder = tmp_path_factory.mktemp("official")
    network = Lavita(LavitaConfig(1, 4, 48, 4, 2, 4, 4, 8, num_classes=101))
    fill_by_formula(network)
    state = network.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == CASE["state_dict"]
    torch.save({"ema": state, "args": argparse.Namespace(lr=1e-4), "train_steps": 3}, folder / "ucf101.pt")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4).save_pretrained(folder / "vae")
    return folder


def sample(*arguments: str) -> int:
    """sample.py's own main, in this process: its exit status."""
    spec = importlib.util.spec_from_file_location("sample_script", ROOT / "benchmarks" / "sample.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main(list(arguments))


def of_case(folder: Path, out: Path, *arguments: str) -> int:
    given = ["--checkpoint", str(folder / "ucf101.pt"), "--out", str(out), "--clips", "2"]
    return sample(*given, f"codec.path={folder / 'vae'}", *arguments)


def test_an_official_file_samples(official, tmp_path):
    assert of_case(official, tmp_path / "clips", *SETTING) == 0
    clips = read_clips(tmp_path / "clips")
    assert clips.shape == (2, 4, 16, 16, 3) and clips.dtype == np.uint8 and clips.std() > 0


def test_a_wrong_size_is_named_with_what_the_file_holds(official, tmp_path, capsys):
    assert of_case(official, tmp_path / "clips", *SETTING, "model.depth=6") == 2
    said = capsys.readouterr().err
    assert "missing: blocks.4." in said and "The file holds depth 4, width 48, patch 2" in said
    assert not (tmp_path / "clips").exists()


def test_without_a_setting_it_says_what_is_missing(official, tmp_path, capsys):
    assert of_case(official, tmp_path / "clips") == 2
    assert "--suite SUITE --method METHOD" in capsys.readouterr().err


def test_a_method_of_two_files_asks_for_both(official, tmp_path, capsys):
    setting = ["--suite", "ucf101", "--tier", "demo", "--method", "pvdm"]
    assert of_case(official, tmp_path / "clips", *setting) == 2
    assert "--checkpoint AUTOENCODER --checkpoint UNET" in capsys.readouterr().err
