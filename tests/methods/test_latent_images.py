"""Joint training with images: what a clip learns from is what it learns from without them."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.config.schema import ConfigError, SamplingConfig, TrainConfig, read
from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.rng import SampleRNG
from lavita.methods import latent_diffusion
from lavita.methods.base import MethodContext
from lavita.methods.lavita.module import Config, Method
from lavita.parity.cases import fill_by_formula

MODEL = {
    "variant": 1,
    "size": "XS",
    "depth": None,
    "width": None,
    "num_heads": None,
    "patch_size": 4,
    "embedding": "uniform",
    "tubelet_frames": 2,
    "conditioning": "s-adaln",
    "time_positions": "sincos",
    "joint_images": 0,
}
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
    class_dropout=0.3,
)
FRAMES, IMAGES = 2, 3


def build(num_classes: int | None = 4, **model) -> Method:
    """LAVITA on 2 frames of 8 x 8 pixels, with formula weights."""
    context = MethodContext(FRAMES, 8, num_classes, PixelCodec(), TRAIN, seed=0)
    method = Method(context, read(Config, MODEL | model, "model"))
    fill_by_formula(method.network)
    return method


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two clips, with images of their own."""
    g = torch.Generator().manual_seed(seed)
    return {
        "video": torch.rand(2, FRAMES, 3, 8, 8, generator=torch.Generator().manual_seed(99)) * 2 - 1,
        "label": torch.tensor([0, 3]),
        "clip_index": torch.arange(2),
        "images": torch.rand(2, IMAGES, 3, 8, 8, generator=g) * 2 - 1,
        "image_labels": torch.randint(4, (2, IMAGES), generator=g),
    }


def seen_by_the_loss(method: Method, monkeypatch, images: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """x0, t, noise, eps and v that the loss of a batch is computed from."""
    seen = []
    monkeypatch.setattr(latent_diffusion, "hybrid_loss", lambda *parts: seen.extend(parts[1:]) or hybrid_loss(*parts))
    method.loss(images, SampleRNG([1, 2]))
    return seen


CASES = [*((variant, "s-adaln") for variant in (1, 2, 3, 4)), (1, "all-tokens"), (2, "all-tokens")]


@torch.no_grad()
@pytest.mark.parametrize("num_classes", [None, 4])
@pytest.mark.parametrize(("variant", "conditioning"), CASES)
def test_images_have_no_part_in_the_loss_of_the_clip(variant, conditioning, num_classes, monkeypatch):
    options = {"variant": variant, "conditioning": conditioning, "num_classes": num_classes}
    plain = seen_by_the_loss(build(**options), monkeypatch, batch())
    joint = build(**options, joint_images=IMAGES)
    with_images, others = (seen_by_the_loss(joint, monkeypatch, batch(seed)) for seed in (0, 1))
    assert [part.shape[1] for part in with_images if part.ndim > 1] == [FRAMES + IMAGES] * 4
    clip = [part if part.ndim == 1 else part[:, :FRAMES] for part in with_images]
    for index in range(3):  # x0, t, noise
        assert torch.equal(clip[index], plain[index])
    schedule = joint.schedule
    # Other numbers of frames take other matrix kernels: float32 rounding through six blocks.
    for ours, alone in zip(hybrid_loss(schedule, *clip).values(), hybrid_loss(schedule, *plain).values(), strict=True):
        assert torch.allclose(ours, alone, rtol=1e-5, atol=0)
    for part, other in zip(with_images, others, strict=True):
        assert part.ndim == 1 or torch.equal(part[:, :FRAMES], other[:, :FRAMES])  # the very same kernels
    images = [with_images[3][:, FRAMES:], others[3][:, FRAMES:]]
    assert not torch.allclose(*images, atol=1e-3)


def test_loss_and_heldout_loss_are_over_all_frames(monkeypatch):
    method, seen = build(joint_images=IMAGES), []
    monkeypatch.setattr(latent_diffusion, "hybrid_loss", lambda *parts: seen.append(parts) or hybrid_loss(*parts))
    loss = method.loss(batch(), SampleRNG([1, 2]))["mse"]
    _, _, _, noise, eps, _ = seen[0]
    # float32 sums of 960 squares below 10.
    assert torch.allclose(loss, (noise - eps).square().flatten(1).mean(1), rtol=1e-5)
    assert method.heldout_loss(batch(0)) == method.heldout_loss(batch(0)) != method.heldout_loss(batch(1))


def test_images_train_the_spatial_half_and_only_it():
    method, given = build(joint_images=IMAGES), batch()
    given["images"].requires_grad_()
    rng = SampleRNG([1, 2])
    latents, labels = method.images(given, rng)
    x = torch.cat([given["video"], latents], dim=1)
    method.predict(x, torch.tensor([3, 700]), torch.tensor([0, 1]), labels)[:, FRAMES:].square().mean().backward()
    gradients = [
        sum(float(p.grad.abs().sum()) for p in block.parameters() if p.grad is not None)
        for block in method.network.blocks
    ]
    assert [value > 0 for value in gradients] == [True, False] * 3


def test_gradient_reaches_the_weights_from_the_images():
    def gradient(seed: int) -> torch.Tensor:
        method = build(joint_images=IMAGES)
        method.loss(batch(seed), SampleRNG([1, 2]))["loss"].mean().backward()
        return method.network.blocks[0].attn.qkv.weight.grad

    assert not torch.allclose(gradient(0), gradient(1), rtol=1e-2)


def test_labels_of_images_are_dropped_each_by_itself():
    method = build(joint_images=IMAGES)
    many = {
        "images": torch.zeros(400, IMAGES, 3, 8, 8),
        "image_labels": torch.arange(4).repeat(300).view(400, IMAGES),
    }
    _, labels = method.images(many, SampleRNG(range(400)))
    dropped = labels == 4
    assert torch.equal(labels[~dropped], many["image_labels"][~dropped])
    # 0.3 of 1200 within four standard errors of sqrt(0.3 * 0.7 / 1200) = 0.0132; of two images of one clip both are
    # dropped at 0.09, within four of sqrt(0.09 * 0.91 / 400) = 0.0143.
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.053)
    assert float((dropped[:, 0] & dropped[:, 1]).float().mean()) == pytest.approx(0.09, abs=0.057)


def test_images_are_charged_and_sampling_has_none():
    sampling = SamplingConfig("ddim", "2", 0.0, 1.0, None, True, 2, "generation", 1, "32-true")
    plain, joint = build(num_classes=None), build(num_classes=None, joint_images=IMAGES)
    assert (plain.clip_cost, joint.clip_cost) == (1, Fraction(FRAMES + IMAGES, FRAMES))
    assert torch.equal(plain.sample([1, 2], None, sampling), joint.sample([1, 2], None, sampling))


def test_wrong_settings_and_batches_are_named():
    with pytest.raises(ConfigError, match=r"model.joint_images.*model.embedding=compression"):
        build(joint_images=1, embedding="compression")
    with pytest.raises(ConfigError, match="model.joint_images: got -1"):
        build(joint_images=-1)
    method = build(joint_images=IMAGES)
    given = batch()
    with pytest.raises(ValueError, match="images"):
        method.loss(given | {"images": given["images"][:, :1]}, SampleRNG([1, 2]))
    del given["images"]
    with pytest.raises(ValueError, match="without images, wanted 3"):
        method.loss(given, SampleRNG([1, 2]))
