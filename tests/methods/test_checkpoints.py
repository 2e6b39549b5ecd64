"""Checkpoints: official formats, refusals that change nothing, and our own files."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lavita.baselines.dit.model import DiT, DiTConfig
from lavita.baselines.vdt.model import SIZES as VDT_SIZES
from lavita.baselines.vdt.model import VDT, VDTConfig
from lavita.methods.checkpoints import CheckpointError, CheckpointRemark, described, load, load_official, save
from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.parity.cases import fill_by_formula
from tests.fuzzing import fuzzed


def dit(depth: int = 2, width: int = 16, num_classes: int = 3) -> DiT:
    """A small DiT as it starts."""
    return DiT(DiTConfig(depth, width, 4, 2, 4, 4, num_classes))


def official(network: torch.nn.Module | None = None) -> dict[str, torch.Tensor]:
    """A state dict with formula weights, as an official one of the same keys."""
    network = network or dit()
    fill_by_formula(network)
    return network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write(path, content) -> None:
    """Write a checkpoint in the format of its suffix."""
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)


@pytest.mark.parametrize("name", ["bare.pt", "bare.pth", "bare.safetensors", "ema.pt", "trainer.pt"])
def test_official_formats_load(tmp_path, name):
    weights, network = official(), dit()
    old = {key: value + 1 for key, value in weights.items()}
    content = {
        "ema": {"ema": weights, "model": old},
        "trainer": {"model": old, "ema": weights, "opt": {}, "args": argparse.Namespace(model="DiT-XL/2")},
    }.get(name.split(".")[0], weights)
    write(tmp_path / name, content)
    load_official(tmp_path / name, network)
    assert same(network.state_dict(), weights)


def test_a_loaded_network_computes_what_its_origin_computes(tmp_path):
    shape = LavitaConfig(1, 2, 16, 4, 2, 3, 4, 4)
    origin, network = Lavita(shape), Lavita(shape)
    write(tmp_path / "latte.pt", {"ema": official(origin)})
    load_official(tmp_path / "latte.pt", network)
    x, t = torch.ones(1, 3, 4, 4, 4), torch.tensor([7])
    assert torch.equal(network(x, t), origin(x, t)) and network(x, t).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("final_layer.linear.bias"), "1 missing: final_layer.linear.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "1 unexpected: extra"),
        (
            lambda s: s.update(pos_embed=torch.ones(1, 9, 16)),
            r"pos_embed \(got \(1, 9, 16\), wanted \(1, 4, 16\)",
        ),
    ],
)
def test_one_wrong_key_is_named_and_nothing_changes(tmp_path, change, message):
    weights, network = dict(official()), dit()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    change(weights)
    write(tmp_path / "wrong.pt", weights)
    with pytest.raises(CheckpointError, match=message):
        load_official(tmp_path / "wrong.pt", network)
    assert same(network.state_dict(), before)


def test_another_size_is_described_by_a_few_keys_and_both_sizes(tmp_path):
    write(tmp_path / "deep.safetensors", official(dit(depth=4, width=32, num_classes=5)))
    with pytest.raises(CheckpointError) as caught:
        load_official(tmp_path / "deep.safetensors", dit())
    text = str(caught.value)
    assert "20 unexpected: blocks.2." in text and "and 17 more" in text
    assert "depth 4, width 32, patch 2, 6 label rows; this network is depth 2, width 16, patch 2, 4 label rows" in text
    assert len(text) < 1000


class Planted:
    """Creates a file when it is unpickled by a loader that runs what it reads."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    torch.save({"ema": official(), "args": Planted(tmp_path / "ran")}, tmp_path / "bad.pt")
    network = dit()
    with pytest.raises(CheckpointError, match="mkdir; only tensors are read"):
        load_official(tmp_path / "bad.pt", network)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Planted(tmp_path / "ran"), protocol=2))
    with pytest.raises(CheckpointError):
        load_official(tmp_path / "plain.pt", network)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["text.pt", "text.pth", "text.safetensors", "empty.pt", "text.ckpt", "absent.pt"])
def test_files_that_are_no_checkpoints_are_one_line(tmp_path, name):
    if name != "absent.pt":
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match=name) as caught:
        load_official(tmp_path / name, dit())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}, "epoch": 3}, {}, {"ema": 5}])
def test_content_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="state dict"):
        load_official(tmp_path / "odd.pt", dit())


def test_save_and_load_are_inverse(tmp_path):
    weights, config = official(), {"model": {"size": "S"}, "seed": 0, "nothing": None}
    weights["tied"] = weights["pos_embed"]
    weights["view"] = torch.arange(12.0).view(3, 4).t()
    save(tmp_path / "new" / "last.safetensors", weights, config)
    state, found = load(tmp_path / "new" / "last.safetensors")
    assert same(state, weights) and found == config
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["last.json", "last.safetensors"]
    load_official_keys = {name: value for name, value in state.items() if name not in ("tied", "view")}
    save(tmp_path / "plain.safetensors", load_official_keys, config)
    network = dit()
    load_official(tmp_path / "plain.safetensors", network)
    assert same(network.state_dict(), load_official_keys)


def test_a_failed_save_leaves_the_old_files(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save(path, {"a": torch.ones(2)}, {"step": 1})
    with pytest.raises(ValueError):
        save(path, {"a": torch.zeros(2)}, {"step": float("nan")})
    monkeypatch.setattr(
        "lavita.methods.checkpoints.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "other.safetensors", {"a": torch.zeros(2)}, {"step": 2})
    state, config = load(path)
    assert torch.equal(state["a"], torch.ones(2)) and config == {"step": 1}
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "other.safetensors").exists()


def test_a_checkpoint_without_its_configuration_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    save(path, {"a": torch.ones(2)}, {})
    (tmp_path / "last.json").unlink()
    with pytest.raises(CheckpointError, match="last.json is missing"):
        load(path)
    with pytest.raises(CheckpointError, match="suffix"):
        save(tmp_path / "last.pt", {}, {})


def test_a_size_is_named_as_the_method_names_it():
    """Depth 28 and width 1152 are VDT's L and DiT's XL: model.size wants the name of the method that reads the file."""
    numbers = VDT_SIZES["L"]
    with torch.device("meta"):
        vdt = VDT(VDTConfig(*numbers, patch_size=2, num_frames=2, channels=4, side=4))
        image = DiT(DiTConfig(*numbers, patch_size=2, channels=4, side=4, num_classes=3))
        small = DiT(DiTConfig(2, 16, 2, patch_size=2, channels=4, side=4, num_classes=3))
    assert described(vdt.state_dict(), vdt).count("size L/2") == 2
    assert described(image.state_dict(), image).count("size XL/2, 4 label rows") == 2
    assert described(image.state_dict(), vdt).count("size L/2") == 2
    assert described(image.state_dict(), small).count("size ") == 1


WRAPPED = {
    "plain": lambda s: {"ema": s},
    "module": lambda s: {"ema": {f"module.{name}": value for name, value in s.items()}},
    "orig_mod": lambda s: {"ema": {f"_orig_mod.{name}": value for name, value in s.items()}},
    "both": lambda s: {"ema": {f"module._orig_mod.{name}": value for name, value in s.items()}},
    "blocks": lambda s: {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in s.items()},
    "lightning": lambda s: {"state_dict": {f"model.{name}": value for name, value in s.items()}, "epoch": 1},
    "with_more": lambda s: {"state_dict": {f"net.dit.{k}": v for k, v in s.items()} | {"loss.w": torch.ones(1)}},
    "model_only": lambda s: {"model": s},
    "two_of_them": lambda s: {
        "state_dict": {f"model.{k}": v + 1 for k, v in s.items()} | {f"model_ema.{k}": v for k, v in s.items()}
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("suffix", ["pt", "bin", "ckpt"])
def test_wrapped_names_are_unwrapped_and_said(tmp_path, kind, suffix):
    """Case wrapped-keys and its kin: the very network, whatever a trainer put around it."""
    weights, network = official(), dit()
    torch.save(WRAPPED[kind](weights), tmp_path / f"{kind}.{suffix}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_official(tmp_path / f"{kind}.{suffix}", network)
    assert same(network.state_dict(), weights)
    said = [str(one.message) for one in caught if issubclass(one.category, CheckpointRemark)]
    assert bool(said) == (kind != "plain") and all(kind in one and "\n" not in one for one in said)
    if kind in ("lightning", "model_only"):
        assert any("averaged" in one for one in said)


def test_one_network_twice_is_not_guessed(tmp_path):
    weights = official()
    both = {f"a.{name}": value for name, value in weights.items()} | {f"b.{k}": v for k, v in weights.items()}
    torch.save(both, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match="more than once, under a., b."):
        load_official(tmp_path / "two.pt", dit())


def test_names_of_another_network_are_named(tmp_path):
    torch.save({"encoder.w": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="its names begin with encoder.w; wanted "):
        load_official(tmp_path / "other.pt", dit())


@pytest.mark.parametrize("given", ["m.safetensors.index.json", "m-00002-of-00002.safetensors", "."])
def test_shards_are_read_together(tmp_path, given):
    weights, network = official(), dit()
    names = sorted(weights)
    files = {name: f"m-0000{1 + (number % 2)}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    load_official(tmp_path / given, network)
    assert same(network.state_dict(), weights)
    (tmp_path / "m-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 2 shards are missing: m-00001"):
        load_official(tmp_path / given, dit())


def test_an_index_leads_to_no_other_folder(tmp_path):
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="weight_map"):
        load_official(tmp_path / "m.safetensors.index.json", dit())


@fuzzed(60)
@given(st.binary(max_size=120), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"]))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory, content, magic):
    path = tmp_path_factory.getbasetemp() / "fuzz.pt"
    path.write_bytes(magic + content)
    with pytest.raises(CheckpointError) as error:
        load_official(path, dit())
    assert "\n" not in str(error.value)
