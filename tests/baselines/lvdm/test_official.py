"""Official checkpoints of LVDM: Lightning files with doubled convolutions and averages under names without dots."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lavita.baselines.lvdm.module import load_official
from lavita.baselines.lvdm.official import load_official_pair
from lavita.baselines.lvdm.unet import UNetConfig, VideoUNet
from lavita.config.schema import ConfigError
from lavita.data.clip_folder import read_clips
from lavita.methods.checkpoints import CheckpointError
from lavita.parity.cases import weight

from .test_module import build
from .test_networks import UNET

State = dict[str, Tensor]
ROOT = Path(__file__).resolve().parents[3]
SIZES = {
    "autoencoder_width": 4, "norm_groups": 4, "reductions": [2, 4, 4], "latent_channels": 3, "width": 32,
    "multiples": [1, 2], "attention": [2], "depth": 1, "num_heads": 2,
}  # fmt: skip


def drawn(state: State, name: str) -> State:
    """A state of the same names and shapes with values of its own."""
    return {key: weight(f"{name}/{key}", tuple(value.shape)) for key, value in state.items()}


def files(
    method: Any, folder: Path, **changes: dict[str, Any]
) -> tuple[Path, Path, dict[str, Tensor], dict[str, Tensor]]:
    """Both files as Lightning writes them, and what must come of them: the autoencoder's state, the averaged U-Net's.

    changes: entries of either file's state dict that are replaced, or left out where None.
    """
    first, average = drawn(method.autoencoder.state_dict(), "a"), drawn(method.network.state_dict(), "u")
    twice = {key.replace(".conv.weight", ".weight"): value for key, value in first.items() if ".conv.weight" in key}
    loss = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.ones(2, 3, 4, 4)}
    of_autoencoder = first | twice | loss
    of_unet = {f"model.diffusion_model.{key}": value + 1 for key, value in average.items()}
    of_unet |= {"model_ema." + f"diffusion_model.{key}".replace(".", ""): value for key, value in average.items()}
    of_unet |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    of_unet |= {"betas": torch.zeros(1000), **{f"first_stage_model.{key}": value for key, value in first.items()}}
    paths = []
    for name, state in (("ae", of_autoencoder), ("unet", of_unet)):
        state = {key: value for key, value in (state | changes.get(name, {})).items() if value is not None}
        paths.append(folder / f"{name}.ckpt")
        torch.save({"epoch": 299, "global_step": 10199, "state_dict": state, "optimizer_states": []}, paths[-1])
    return paths[0], paths[1], first, average


def same(module: torch.nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_both_official_files_load_the_average_by_default(tmp_path):
    method = build()
    first, second, autoencoder, average = files(method, tmp_path)
    load_official(method, [first, second])
    assert same(method.autoencoder, autoencoder) and same(method.network, average)
    assert float(method.latents.shift) == pytest.approx(0.5) and float(method.latents.scale) == pytest.approx(0.2)


def test_without_an_average_the_plain_weights_are_taken_and_bare_ones_too(tmp_path):
    method = build()
    keys = ["model_ema." + f"diffusion_model.{key}".replace(".", "") for key in method.network.state_dict()]
    without = dict.fromkeys([*keys, "model_ema.decay", "model_ema.num_updates"])
    first, second, _, average = files(method, tmp_path, unet=without)
    load_official_pair(method.autoencoder, method.network, first, second)
    assert same(method.network, {key: value + 1 for key, value in average.items()})
    torch.save(average, tmp_path / "bare.pth")
    load_official_pair(method.autoencoder, method.network, first, tmp_path / "bare.pth")
    assert same(method.network, average)


def test_names_without_dots_are_all_different():
    with torch.device("meta"):
        network = VideoUNet(UNetConfig(in_channels=4, temporal_length=4, **UNET))
    names = list(network.state_dict())
    assert len({name.replace(".", "") for name in names}) == len(names) > 500


class Unsafe:
    """Any object of a class: what a file of tensors must not hold."""


KEY = "model_ema.diffusion_modelout2bias"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet", {KEY: None}, r"unet\.ckpt: does not fit VideoUNet; nothing was loaded.\n  1 missing: out.2.bias"),
        ("unet", {KEY: torch.zeros(7)}, r"1 other shape: out.2.bias \(got \(7,\), wanted"),
        ("unet", {KEY + "s": torch.zeros(7)}, r"1 unexpected: diffusion_modelout2biass"),
        ("unet", {KEY: Unsafe()}, "only tensors are read"),
        ("ae", {"encoder.conv_first.conv.bias": None}, r"ae\.ckpt: does not fit VideoAutoencoder"),
        ("ae", {"encoder.extra.weight": torch.zeros(1)}, "1 unexpected: encoder.extra.weight"),
        ("ae", {"encoder.conv_first.weight": torch.zeros(4, 3, 3, 3, 3)}, "one weight under two names, differ"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, file, changes, message):
    method = build()
    first, second, _, _ = files(method, tmp_path, **{file: changes})
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_official(method, [first, second])
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_one_file_or_a_data_set_without_released_files_is_refused(tmp_path):
    method = build()
    first, second, _, _ = files(method, tmp_path)
    with pytest.raises(ConfigError, match="--checkpoint AUTOENCODER --checkpoint UNET"):
        load_official(method, [second])
    with pytest.raises(ConfigError, match="model.released_shift, model.released_scale: not set"):
        load_official(build(released_shift=None), [first, second])


def test_official_files_sample_through_sample_py(tmp_path):
    spec = importlib.util.spec_from_file_location("sample_script", ROOT / "benchmarks" / "sample.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    method = build(**{key: tuple(value) if isinstance(value, list) else value for key, value in SIZES.items()})
    first, second, _, _ = files(method, tmp_path)
    sizes = [f"model.{key}={value}".replace(" ", "") for key, value in SIZES.items()]
    given = ["--checkpoint", str(first), "--checkpoint", str(second), "--out", str(tmp_path / "clips"), "--clips", "2"]
    setting = ["--suite", "skytimelapse", "--method", "lvdm", "data.frames=4", "protocol.frames=4"]
    setting += ["data.resolution=32", "protocol.resolution=32", "sampling.sampler=ddim", "--steps", "3", *sizes]
    assert script.main([*given, *setting]) == 0
    clips = read_clips(tmp_path / "clips")
    assert clips.shape == (2, 4, 32, 32, 3) and clips.dtype == np.uint8 and clips.std() > 0
