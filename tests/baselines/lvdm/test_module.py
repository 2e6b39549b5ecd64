"""LVDM under the contract of a method: stages and budget, two updates of a batch, measured latents, sampling."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lavita.baselines.lvdm.module import Config, Method
from lavita.codecs import base
from lavita.codecs.base import Codec, PixelCodec
from lavita.config.plan import make_plan
from lavita.config.schema import ComputeConfig, SamplingConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.schedule import Schedule
from lavita.experiment.budget import meta_flops, on_meta
from lavita.experiment.reconstruction import reconstructed
from lavita.methods.base import MethodContext
from lavita.methods.perceptual import LPIPS
from lavita.parity.cases import fill_by_formula
from lavita.training.budget import Limit
from lavita.training.distributed import recomputed_blocks
from lavita.training.fit import fit_stage

TINY = Config(
    autoencoder_width=4,
    reductions=(2, 4, 4),
    latent_channels=3,
    norm_groups=4,
    discriminator_width=4,
    discriminator_depth=2,
    kl_weight=0.0,
    lpips_vgg=None,
    lpips_linear=None,
    autoencoder_share=0.5,
    adversarial_share=0.25,
    autoencoder_batch_clips=None,
    autoencoder_learning_rate=None,
    autoencoder_beta1=0.5,
    autoencoder_beta2=0.9,
    width=32,
    multiples=(1, 2),
    attention=(1, 2),
    depth=1,
    num_heads=2,
    match_params=None,
    temporal_length=None,
    long_video=False,
    num_keys=2,
    key_stride=2,
    frame_guidance=0.1,
    interpolation_share=0.0,
    released_shift=0.5,
    released_scale=0.2,
)
TRAIN = TrainConfig(2, 1e-3, 0.01, 0.9, 0.999, 0, 0.9, None, None, 0, 0.1)
SAMPLING = SamplingConfig(
    sampler="ddim",
    steps="3",
    eta=1.0,
    guidance=1.0,
    guided_channels=None,
    clip_denoised=True,
    batch_clips=4,
    task="generation",
    num_clips_chained=1,
    precision="32-true",
)
COMPUTE = ComputeConfig(
    "32-true",
    compile=False,
    threads=1,
    pass_clips="auto",
    checkpoint_activations=False,
    devices=1,
    nodes=1,
    strategy="auto",
    deterministic=False,
)


def build(num_classes: int | None = None, **changes) -> Method:
    torch.manual_seed(0)
    context = MethodContext(4, 32, num_classes, PixelCodec(), TRAIN, 0)
    return Method(context, dataclasses.replace(TINY, **changes))


def batch(first: int = 0) -> dict[str, torch.Tensor]:
    video = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return {"video": video, "label": torch.tensor([0, 2]), "clip_index": torch.tensor([first, first + 1])}


def test_stages_share_one_budget_and_one_autoencoder():
    method = build(autoencoder_batch_clips=8, autoencoder_learning_rate=0.5)
    stages = method.stages()
    assert [stage.name for stage in stages] == ["autoencoder", "autoencoder-gan", "train"]
    assert [stage.module.stage_name for stage in stages] == [stage.name for stage in stages]
    assert sum(stage.share for stage in stages) == pytest.approx(1, abs=1e-12)
    assert stages[0].module.autoencoder is stages[1].module.autoencoder is method.autoencoder
    settings = [stage.module.train_config for stage in stages]
    assert [(c.batch_clips, c.learning_rate, c.beta1, c.weight_decay) for c in settings] == [
        (8, 0.5, 0.5, 0.0), (8, 0.5, 0.5, 0.0), (2, 1e-3, 0.9, 0.01),
    ]  # fmt: skip
    assert [stage.module.uses_ema for stage in stages] == [False, False, True]
    assert [stage.module.clip_cost for stage in stages] == [1, Fraction(1, 2), 1]
    assert [stage.name for stage in build(adversarial_share=0.0).stages()] == ["autoencoder", "train"]
    assert method.owns_first_stage and method.declared == {"perceptual loss": "gradient-pyramid"}
    assert not any("perceptual" in key or "discriminator" in key for key in method.state_dict())


def test_the_first_stage_warms_up_for_a_part_of_its_share():
    torch.manual_seed(0)
    context = MethodContext(4, 32, None, PixelCodec(), dataclasses.replace(TRAIN, warmup_clips=100), 0)
    stages = Method(context, TINY).stages()
    assert [stage.module.train_config.warmup_clips for stage in stages] == [50, 100, 100]


def test_a_method_is_counted_without_memory():
    with torch.device("meta"):
        method = build(num_classes=3)
    assert all(parameter.is_meta for stage in method.stages() for parameter in stage.module.parameters())


@pytest.mark.parametrize("first, learns", [(0, "autoencoder"), (2, "discriminator"), (4, "autoencoder")])
def test_every_batch_updates_the_autoencoder_then_the_discriminator(first, learns):
    stage = build().stages()[1].module.train()
    optimiser = stage.configure_optimizers()["optimizer"]
    before = {name: value.clone() for name, value in stage.named_parameters()}
    parts = stage.loss(batch(first), SampleRNG([0, 1]))
    assert all(value.shape == (2,) for value in parts.values())
    optimiser.zero_grad()
    parts["loss"].mean().backward()
    optimiser.step()
    after = dict(stage.named_parameters())
    changed = {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])}
    assert changed == {learns}


def test_the_adversarial_loss_is_weighed_by_its_gradient():
    """The weight is that of the means over the batch, written out here; the loss is the sum of its parts."""
    stage = build(kl_weight=0.5).stages()[1].module.train()
    with torch.no_grad():
        stage.discriminator.main[-1].weight *= 100  # at its start the weight would be at its bound
    data = batch()
    parts = stage.loss(data, SampleRNG([0, 1]))
    wanted = parts["reconstruction"] + 0.5 * parts["kl"] + parts["adaptive_weight"] * parts["adversarial"]
    torch.testing.assert_close(parts["loss"], wanted)
    last = stage.autoencoder.decoder.conv_out.conv.weight
    again = stage.loss(data, SampleRNG([0, 1]))
    norms = [
        torch.autograd.grad(again[key].mean(), last, retain_graph=True)[0].norm()
        for key in ("reconstruction", "adversarial")
    ]
    # The batch norms' running statistics have moved, which training does not read.
    assert float(parts["adaptive_weight"][0]) == pytest.approx(0.5 * float(norms[0] / (norms[1] + 1e-4)), rel=1e-4)


def test_heldout_loss_of_the_second_phase_is_that_of_reconstruction():
    stages = build().stages()
    first, second = (stage.module.heldout_loss(batch(2)) for stage in stages[:2])
    assert first == second
    assert stages[1].module.training


def test_each_clip_is_rebuilt_from_a_draw():
    stage = build().stages()[0].module
    fill_by_formula(stage.autoencoder)
    data = batch()
    (one, _), (two, _) = (stage.reconstruct(data["video"], SampleRNG(seeds)) for seeds in ([0, 1], [2, 1]))
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def prepared(method: Method, count: int = 8) -> list[torch.Tensor]:
    """Let a method measure its latents on some batches; the draws that it must have seen."""
    batches = [(batch(2 * number), [2 * number, 2 * number + 1]) for number in range(count)]
    method.prepare([(data, SampleRNG(seeds)) for data, seeds in batches])
    with torch.no_grad():
        shape = method.latent_shape
        return [method.autoencoder.sample(data["video"], SampleRNG(seeds).normal(shape)) for data, seeds in batches]


def test_latents_are_measured_on_clips():
    method = build()
    assert float(method.latents.shift) == 0 and float(method.latents.scale) == 1 and method.latents.bound.isinf()
    fill_by_formula(method.autoencoder)
    with torch.no_grad():
        method.autoencoder.quant_conv.conv.bias[:3] += 2  # away from 0
    z = torch.cat(prepared(method)).double()
    assert float(method.latents.shift) == pytest.approx(-float(z.mean()), rel=1e-6)
    assert float(method.latents.scale) == pytest.approx(1 / float(z.std(correction=0)), rel=1e-6)
    latent = float(method.latents.scale) * (z + float(method.latents.shift))
    assert float(method.latents.bound) == pytest.approx(float(latent.abs().max()), rel=1e-6)
    other = build()
    other.load_state_dict(method.state_dict())
    assert float(other.latents.scale) == float(method.latents.scale)


def test_diffusion_trains_the_network_alone_on_latents_of_unit_scale(monkeypatch):
    method = build()
    fill_by_formula(method.autoencoder)
    prepared(method)
    seen, plain = [], Schedule.add_noise
    monkeypatch.setattr(Schedule, "add_noise", lambda self, z, *rest: seen.append(z) or plain(self, z, *rest))
    parts = method.loss(batch(), SampleRNG([0, 1]))
    # One of the batches that were measured: 768 of 6144 values, with other draws.
    assert float(seen[0].mean()) == pytest.approx(0, abs=0.2) and float(seen[0].std()) == pytest.approx(1, abs=0.2)
    assert parts["loss"].shape == (2,)
    # A network that starts at zero predicts no noise: the loss is the noise's mean magnitude, sqrt(2 / pi), of 2 x 384
    # values of deviation 0.6: four standard errors.
    assert float(parts["loss"].detach().mean()) == pytest.approx((2 / torch.pi) ** 0.5, abs=4 * 0.603 / 768**0.5)
    parts["loss"].mean().backward()
    assert all(p.grad is None for p in method.autoencoder.parameters())
    assert {id(p) for p in method.trained_parameters()} == {id(p) for p in method.network.parameters()}


def test_sampling_depends_on_the_seed_only():
    method = build()
    fill_by_formula(method.network)
    prepared(method)
    for sampling in (SAMPLING, dataclasses.replace(SAMPLING, sampler="ddpm"), dataclasses.replace(SAMPLING, eta=0.0)):
        together = method.sample([3, 4, 5], None, sampling)
        assert together.shape == (3, 4, 3, 32, 32) and together.abs().max() <= 1
        # Other batch sizes sum in another order: float32 rounding through 3 steps and the decoder.
        torch.testing.assert_close(method.sample([4], None, sampling)[0], together[1], rtol=0, atol=1e-4)
        assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_classes_and_guidance_reach_the_clip():
    method = build(num_classes=3)
    fill_by_formula(method.network)
    assert method.network.label_emb.weight.shape == (4, 128)
    clips = [
        method.sample([0], torch.tensor([y]), dataclasses.replace(SAMPLING, guidance=g))
        for y, g in ((0, 1.0), (2, 1.0), (2, 4.0))
    ]
    assert not torch.allclose(clips[0], clips[1], atol=1e-5)
    assert not torch.allclose(clips[1], clips[2], atol=1e-5)
    assert method.loss(batch(), SampleRNG([0, 1]))["loss"].shape == (2,)


def test_the_first_stage_is_a_view_of_the_autoencoder():
    method = build()
    keys, video = list(method.state_dict()), batch()["video"]
    codec = method.first_stage()
    assert isinstance(codec, Codec) and codec.latent_channels == 3 and codec.downsample == 4
    ((before, after),) = reconstructed(codec, video, torch.device("cpu"))
    assert before.shape == after.shape == (2, 4, 32, 32, 3)
    assert list(method.state_dict()) == keys
    assert method.perceptual_score(video, -video) is None  # the stand-in is no LPIPS


def test_lpips_of_a_clip_is_the_mean_over_its_frames(tmp_path):
    torch.manual_seed(0)
    model = LPIPS()
    state = {f"features.{key.split('.', 2)[2]}": v for key, v in model.net.state_dict(prefix="net.").items()}
    torch.save(state, tmp_path / "v.pth")
    torch.save({key: v for key, v in model.state_dict().items() if key.startswith("lin")}, tmp_path / "l.pth")
    method = build(lpips_vgg=str(tmp_path / "v.pth"), lpips_linear=str(tmp_path / "l.pth"))
    assert method.declared == {"perceptual loss": "lpips-vgg16"}
    before, after = batch(1)["video"], batch(3)["video"]
    by_frame = torch.stack([model(before[:, f], after[:, f]) for f in range(4)], dim=1)  # (B, F)
    # Sums over the batch in another order, sixteen layers deep.
    torch.testing.assert_close(method.perceptual_score(before, after), by_frame.mean(1), rtol=1e-4, atol=1e-6)


def test_recomputed_layers_give_the_same_gradients_bit_for_bit():
    """No list is called `blocks` here: the stages name their residual blocks and attentions themselves."""
    for number, blocks in ((1, 2 + 2 * 2), (2, None)):
        found = []
        for again in (False, True):
            stage = build().stages()[number].module.train()
            fill_by_formula(stage)
            with recomputed_blocks(stage.recomputed(), again) as count:
                stage.loss(batch(), SampleRNG([0, 1]))["loss"].mean().backward()
            assert count == again * (blocks or len(stage.recomputed())) and len(stage.recomputed()) > 4
            found.append([p.grad for p in stage.trained_parameters() if p.grad is not None])
        assert len(found[0]) == len(found[1]) > 0
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_all_stages_run_through_the_trainer(tmp_path):
    method = build()
    clips = [{key: value[0] for key, value in batch(first).items()} for first in range(12)]
    for (stage, first), changes in zip(
        ((stage, 4 * i) for i, stage in enumerate(method.stages())),
        ({"autoencoder"}, {"autoencoder", "discriminator"}, {"network"}),
        strict=True,
    ):
        before = {name: value.clone() for name, value in stage.module.named_parameters()}
        loader = DataLoader(clips[first : first + 4], batch_size=2)
        limit = Limit(4 * stage.module.clip_cost)
        losses = fit_stage(stage.module, loader, limit, tmp_path, batch(20), lambda *_: None, COMPUTE).heldout_losses
        assert losses[-1][0] == limit.clips and all(value == value for _, value in losses)
        after = dict(stage.module.named_parameters())
        assert {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])} == changes
    assert float(method.latents.scale) != 1 and method.latents.bound.isfinite()


def test_bad_settings_are_refused():
    method = build()
    for changes, word in (
        ({"sampler": "dpm-solver++"}, "allowed ddpm, ddim"),
        ({"steps": "10,10"}, "one whole number"),
        ({"steps": "501"}, "sampling.sampler=ddpm with 1000"),
        ({"guidance": 2.0}, "unconditional"),
        ({"task": "continuation"}, "allowed for lvdm: generation"),
        ({"num_clips_chained": 2}, "lvdm makes 1 clip"),
    ):
        with pytest.raises(ValueError, match=word):
            method.sample([0], None, dataclasses.replace(SAMPLING, **changes))
    with pytest.raises(ValueError, match="one class per clip"):
        build(num_classes=3).sample([0], None, SAMPLING)
    for changes, word in (
        ({"autoencoder_share": 0.9, "adversarial_share": 0.1}, "sum below 1"),
        ({"reductions": (2, 4)}, "wanted three"),
        ({"multiples": (1, 1, 1, 1, 1)}, "5 levels for latents of 8 x 8"),
    ):
        with pytest.raises(ValueError, match=word):
            build(**changes)


@pytest.mark.parametrize(
    ("row", "tier", "overrides"),
    [
        ("paper, 16 x 256 x 256", "paper", ["data.root=/videos"]),
        ("small, 16 x 64 x 64", "small", ["data.root=/videos"]),
        ("demo, 8 x 32 x 32", "demo", ["data.root=/videos"]),
        ("demo, synthetic videos", "demo", []),
    ],
)
def test_the_card_has_the_sizes_of_every_tier(row, tier, overrides):
    text = (Path(base.__file__).parents[1] / "baselines" / "lvdm" / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    (experiment,) = make_plan("ucf101", tier, ["lvdm"], [0], overrides)
    method, _ = on_meta(experiment, None)
    stages = [stage.module for stage in method.stages()]
    parts = [method.autoencoder.encoder, method.autoencoder.decoder, stages[1].discriminator, method.network]
    sizes = [f"{sum(p.numel() for p in part.parameters()):,}" for part in parts]
    latent = " x ".join(map(str, method.latent_shape))
    flops = [meta_flops(experiment.data)(stage) / 1e9 for stage in stages]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[:5] == [*sizes, latent]
    assert [float(cell) for cell in cells[5:]] == pytest.approx(flops, rel=5e-3)
