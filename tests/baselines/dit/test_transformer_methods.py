"""DiT and VDT as methods of the suite, found by scanning, trained for a loss and sampled at tiny sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.config.plan import make_plan
from lavita.config.registry import load_implementation
from lavita.config.schema import ConfigError, SamplingConfig, TrainConfig, read
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.methods.build import build_method
from lavita.parity.cases import fill_by_formula

TRAIN = TrainConfig(
    batch_clips=2,
    learning_rate=1e-4,
    weight_decay=0.0,
    beta1=0.9,
    beta2=0.999,
    warmup_clips=0,
    ema_decay=0.999,
    ema_halflife_share=None,
    grad_clip_norm=None,
    grad_clip_start_clips=0,
    class_dropout=0.1,
)
SAMPLING = SamplingConfig("ddim", "3", 0.0, 2.0, None, True, 2, "generation", 1, "32-true")
NUMBERS = {"depth": None, "width": None, "num_heads": None, "match_params": None}
FRAME = {"size": "XS", "patch_size": 2, "mode": "frame"} | NUMBERS
JOINT = FRAME | {"patch_size": 4, "mode": "joint"}
VDT = {"size": "XS", "patch_size": 2, "tasks": ["generation"]} | NUMBERS
METHODS = [("dit", FRAME), ("dit", JOINT), ("vdt", VDT)]


def build(name: str, model: dict, num_classes: int | None):
    """The method on 2 frames of 8 x 8 pixels, with formula weights."""
    module = load_implementation(name)
    context = MethodContext(2, 8, num_classes, PixelCodec(), TRAIN, seed=0)
    method = module.Method(context, read(module.Config, model, "model"))
    fill_by_formula(method.network)
    return method.eval()


@pytest.mark.parametrize(("name", "model"), METHODS)
@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_method_has_a_loss_and_samples_each_clip_by_its_seed(name, model, num_classes):
    method = build(name, model, num_classes)
    video = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"video": video, "label": torch.tensor([0, 2]), "clip_index": torch.arange(2)}
    parts = method.loss(batch, SampleRNG([1, 2]))
    assert parts["loss"].shape == (2,) and torch.isfinite(parts["loss"]).all()
    parts["loss"].mean().backward()
    used = {n for n, p in method.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert used == {n for n, p in method.network.named_parameters() if p.requires_grad}
    sampling = SAMPLING if num_classes else replace(SAMPLING, guidance=1.0)
    classes = None if num_classes is None else torch.tensor([0, 2])
    clips = method.sample([7, 8], classes, sampling)
    alone = method.sample([8], None if classes is None else classes[1:], sampling)
    assert clips.shape == (2, 2, 3, 8, 8) and clips.abs().max() <= 1
    # The same noise bit for bit; three float32 forward passes of another batch size after it.
    assert torch.allclose(clips[1:], alone, atol=1e-4) and not torch.allclose(clips[0], clips[1], atol=1e-2)


def test_a_wrong_configuration_is_named():
    with pytest.raises(ConfigError, match="model.mode: got 'both', allowed frame, joint"):
        build("dit", FRAME | {"mode": "both"}, None)
    with pytest.raises(ConfigError, match="model.size: got 'XXL'"):
        build("vdt", VDT | {"size": "XXL"}, None)


@pytest.mark.parametrize(("name", "model"), [("dit", FRAME), ("vdt", VDT)])
def test_numbers_take_the_place_of_the_named_sizes(name, model):
    whole = build(name, model | {"depth": 2, "width": 24, "num_heads": 3}, None).network
    assert len(whole.blocks) == 2 and whole.blocks[0].attn.num_heads == 3
    assert whole.x_embedder.proj.weight.shape[0] == 24
    named = build(name, model, None).network
    deeper = build(name, model | {"depth": 7}, None).network
    assert len(deeper.blocks) == 7 and len(named.blocks) == 6
    assert deeper.x_embedder.proj.weight.shape == named.x_embedder.proj.weight.shape


@pytest.mark.parametrize(("name", "model"), [("dit", FRAME), ("vdt", VDT)])
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"depth": 0}, "model.depth: got 0, wanted at least 1"),
        ({"width": 126, "num_heads": 3}, "model.width: got 126, wanted a multiple of 4"),
        ({"width": 132, "num_heads": 16}, "model.width: width 132 is not a multiple of 16 heads"),
        ({"num_heads": 3}, "model.num_heads: width 128 is not a multiple of 3 heads"),
    ],
)
def test_a_size_that_does_not_go_is_one_line_that_names_the_key(name, model, numbers, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, model | numbers, None)
    assert "\n" not in str(caught.value)


def test_joint_dit_trains_in_the_demo_setting():
    # Patches of 8 pixels make as many tokens as the demo's autoencoder (4 pixels per latent) does with patches of 2.
    overrides = ["codec.kind=pixels", "model.patch_size=8", "data.root=/videos"]
    (experiment,) = make_plan("skytimelapse", "demo", ["dit-joint"], [0], overrides)
    method = build_method(experiment, None, PixelCodec()).train()
    d = experiment.data
    pixels = torch.rand(2, d.frames, 3, d.resolution, d.resolution, generator=torch.Generator().manual_seed(0))
    batch = {"video": pixels * 2 - 1, "label": torch.full((2,), -1), "clip_index": torch.arange(2)}
    optimiser = torch.optim.AdamW(method.trained_parameters(), lr=1e-3)
    before = method.heldout_loss(batch)
    for _ in range(4):
        optimiser.zero_grad()
        method.loss(batch, SampleRNG([0, 1]))["loss"].mean().backward()
        optimiser.step()
    assert method.heldout_loss(batch) < before
    assert method.network.time_table.shape == (1, d.frames, 64)
