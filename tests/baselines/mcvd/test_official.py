"""Files of the released trainer's format, made here: what is read of them, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from lavita.baselines.mcvd.model import MCVDNet, UNetConfig
from lavita.baselines.mcvd.module import load_official
from lavita.baselines.mcvd.official import official_weights
from lavita.config.schema import ConfigError
from lavita.data.clip_folder import read_clips
from lavita.methods.checkpoints import CheckpointError
from lavita.parity.cases import fill_by_formula

ROOT = Path(__file__).resolve().parents[3]
TINY = dict(image_size=8, frames=2, past=2, width=8, multiples=(1, 2), attention=(4,), num_res_blocks=1, head_width=8)


def network(**sizes) -> MCVDNet:
    torch.manual_seed(0)
    return MCVDNet(UNetConfig(**(TINY | sizes)))


def filled(**sizes) -> MCVDNet:
    one = network(**sizes)
    fill_by_formula(one)
    return one


def states(one: MCVDNet) -> list:
    """What the released trainer saves: weights, optimiser, epoch, step, averaged weights."""
    weights = {f"module.{name}": value + 1 for name, value in one.state_dict().items()}
    parameters = dict(one.named_parameters())
    tables = {name: value for name, value in one.state_dict().items() if name not in parameters}
    weights |= {f"module.{name}": value for name, value in tables.items()}
    averaged = {name: value.detach().clone() for name, value in one.named_parameters()}
    optimiser = torch.optim.Adam(one.parameters())
    return [weights, optimiser.state_dict(), 3, 900000, averaged]


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_averaged_weights_are_the_last_entry(tmp_path):
    path = saved(tmp_path / "checkpoint_900000.pt", states(filled()))
    assert equal(official_weights(path, network()), filled().state_dict())


def test_a_state_dict_alone_is_read_with_its_prefix_and_without(tmp_path):
    first = states(filled())[0]
    wanted = {name: value + 1 for name, value in filled().named_parameters()}
    for number, state in enumerate((first, {key.removeprefix("module."): value for key, value in first.items()})):
        found = official_weights(saved(tmp_path / f"{number}.pt", state), network())
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("spatin", [None, 4])
def test_files_from_before_the_last_norm_had_its_name_are_read(tmp_path, spatin):
    content = states(filled(spatin=spatin))
    if spatin is None:
        renamed = [name for name in content[-1] if ".Norm_0." in name]
        assert len(renamed) == 2
        content[-1] = {name.replace(".Norm_0.", "."): value for name, value in content[-1].items()}
    found = official_weights(saved(tmp_path / "a.pt", content), network(spatin=spatin))
    assert equal(found, filled(spatin=spatin).state_dict())


class Harmful:
    """An object whose reading would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_of_a_file_is_executed(tmp_path):
    content = states(filled())
    content[2] = Harmful(tmp_path / "harm")
    with pytest.raises(CheckpointError, match="only tensors are read"):
        official_weights(saved(tmp_path / "a.pt", content), network())
    assert not (tmp_path / "harm").exists()


def other_schedule(content: list) -> None:
    content[-1]["alphas"] = content[0]["module.alphas"] * 1.01


def lacking(content: list) -> None:
    del content[-1]["unet.all_modules.0.weight"]


@pytest.mark.parametrize(
    ("change", "sizes", "words"),
    [
        (
            lambda content: None,
            dict(width=16, head_width=16),
            "layers of width 8, blocks of 2 frames after 2 given ones, concat",
        ),
        (lambda content: None, dict(spatin=4), "this network is 18 layers of width 8, .* spatin of 4 channels"),
        (lacking, {}, "1 missing: unet.all_modules.0.weight"),
        (other_schedule, {}, r"another schedule \(alphas differ\)"),
        (lambda content: content.pop(), {}, "a list without averaged weights at its end"),
        (lambda content: content.clear(), {}, "a list without averaged weights at its end"),
        (lambda content: content.__setitem__(-1, {"a": 3}), {}, "nor a bare state dict"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, change, sizes, words):
    content = states(filled())
    change(content)
    one = network(**sizes)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        official_weights(saved(tmp_path / "a.pt", content), one)
    assert equal(before, one.state_dict())


def test_two_files_are_one_too_many(tmp_path):
    with pytest.raises(ConfigError, match="got 2 files, mcvd has one"):
        load_official(None, [tmp_path / "a.pt", tmp_path / "b.pt"])


def test_an_official_file_samples(tmp_path):
    spec = importlib.util.spec_from_file_location("sample_script", ROOT / "benchmarks" / "sample.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = saved(tmp_path / "checkpoint_10.pt", states(filled()))
    sizes = [
        "model.width=8", "model.num_heads=1", "model.multiples=[1,2]", "model.attention=[4]", "model.depth=1",
        "model.frames=2", "model.past=2", "data.frames=8", "protocol.frames=8", "data.resolution=8",
        "protocol.resolution=8", "--steps", "3",
    ]  # fmt: skip
    given = ["--checkpoint", str(path), "--suite", "ucf101", "--method", "mcvd", "--out", str(tmp_path / "clips")]
    assert script.main([*given, "--clips", "2", "codec.kind=pixels", *sizes]) == 0
    clips = read_clips(tmp_path / "clips")
    assert clips.shape == (2, 8, 8, 8, 3) and clips.std() > 0
