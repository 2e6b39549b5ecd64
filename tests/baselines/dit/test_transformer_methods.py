"""DiT and VDT as methods of the suite, found by scanning, trained for a loss and sampled at tiny sizes."""

from __future__ import annotations

import pytest
import torch

from lavita.codec.pixels import PixelCodec
from lavita.config import ConfigError, SamplingConfig, TrainConfig, read
from lavita.diffusion.draws import ClipDraws
from lavita.parity.fill import fill_by_formula
from lavita.registry import load_implementation
from lavita.train.module import MethodContext

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
SAMPLING = SamplingConfig("ddim", "3", 0.0, 2.0, None, True, 2, "generation", 1)
METHODS = [
    ("dit", {"size": "XS", "patch_size": 2, "mode": "frame"}),
    ("dit", {"size": "XS", "patch_size": 4, "mode": "joint"}),
    ("vdt", {"size": "XS", "patch_size": 2}),
]


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
    parts = method.loss(batch, ClipDraws([1, 2]))
    assert parts["loss"].shape == (2,) and torch.isfinite(parts["loss"]).all()
    parts["loss"].mean().backward()
    used = {n for n, p in method.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert used == {n for n, p in method.network.named_parameters() if p.requires_grad}
    sampling = SAMPLING if num_classes else SamplingConfig("ddim", "3", 0.0, 1.0, None, True, 2, "generation", 1)
    classes = None if num_classes is None else torch.tensor([0, 2])
    clips = method.sample([7, 8], classes, sampling)
    alone = method.sample([8], None if classes is None else classes[1:], sampling)
    assert clips.shape == (2, 2, 3, 8, 8) and clips.abs().max() <= 1
    # The same noise bit for bit; three float32 forward passes of another batch size after it.
    assert torch.allclose(clips[1:], alone, atol=1e-4) and not torch.allclose(clips[0], clips[1], atol=1e-2)


def test_a_wrong_configuration_is_named():
    with pytest.raises(ConfigError, match="model.mode: got 'both', allowed frame, joint"):
        build("dit", {"size": "XS", "patch_size": 2, "mode": "both"}, None)
    with pytest.raises(ConfigError, match="model.size: got 'XXL'"):
        build("vdt", {"size": "XXL", "patch_size": 2}, None)
