"""Official checkpoints of PVDM: two files with every key and shape of the recorded cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lavita.baselines.pvdm import parity
from lavita.baselines.pvdm.module import load_official_pair
from lavita.methods.checkpoints import CheckpointError
from lavita.parity.cases import Case, read_case, weight

CASES = Path(__file__).parents[2] / "parity"


def case(name: str) -> Case:
    return read_case(CASES / f"{name}.json")


def state(recorded: Case, prefix: str = "") -> dict[str, torch.Tensor]:
    """A state dict as the official trainer saves it: the recorded names and shapes, with formula weights."""
    shapes = recorded.get("state_dict")
    return {prefix + name: weight(name, tuple(shape)) for name, shape in shapes.items()}


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    return parity.build_autoencoder(case("pvdm_autoencoder")), parity.build_unet(case("pvdm_unet"))


def snapshot(*modules: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_both_official_files_load(tmp_path, prefix):
    autoencoder, network = networks()
    first, second = state(case("pvdm_autoencoder")), state(case("pvdm_unet"), prefix)
    torch.save(first, tmp_path / "model_last.pth")
    torch.save(second, tmp_path / "ema_model_850000.pth")
    load_official_pair(autoencoder, network, tmp_path / "model_last.pth", tmp_path / "ema_model_850000.pth")
    assert all(torch.equal(value, first[name]) for name, value in autoencoder.state_dict().items())
    assert all(torch.equal(value, second[prefix + name]) for name, value in network.state_dict().items())
    assert len(first) == len(autoencoder.state_dict()) and len(second) == len(network.state_dict())


class Unsafe:
    """Any object of a class: what a file of tensors must not hold."""


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("missing", r"pair\.pth: does not fit PlaneUNet; nothing was loaded.\n  1 missing: out.2.bias"),
        ("shape", r"1 other shape: out.2.bias \(got \(7,\), wanted"),
        ("half prefixed", r"1 missing: out.2.bias\n  1 unexpected: out.2.bias_"),
        ("unsafe", r"only tensors are read"),
        ("absent", r"no such file"),
    ],
)
def test_a_file_that_does_not_fit_changes_neither_network(tmp_path, broken, message):
    autoencoder, network = networks()
    torch.save(state(case("pvdm_autoencoder")), tmp_path / "first.pth")
    second = state(case("pvdm_unet"), "diffusion_model.")
    key = "diffusion_model.out.2.bias"
    bias = second.pop(key)
    second |= {"shape": {key: torch.zeros(7)}, "half prefixed": {key + "_": bias}, "unsafe": {key: Unsafe()}}.get(
        broken, {}
    )
    if broken != "absent":
        torch.save(second, tmp_path / "pair.pth")
    before = snapshot(autoencoder, network)
    with pytest.raises(CheckpointError, match=message):
        load_official_pair(autoencoder, network, tmp_path / "first.pth", tmp_path / "pair.pth")
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(autoencoder, network), strict=True))
