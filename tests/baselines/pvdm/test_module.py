"""PVDM under the contract of a method: stages and budget, alternating updates of the adversarial phase, sampling."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lavita.baselines.pvdm import module
from lavita.baselines.pvdm.module import Config, Method
from lavita.codecs import base
from lavita.codecs.base import Codec, PixelCodec
from lavita.config.plan import make_plan
from lavita.config.schema import ComputeConfig, SamplingConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.costs import training_flops_per_clip
from lavita.experiment.reconstruction import reconstructed
from lavita.methods.base import MethodContext
from lavita.methods.build import build_method, empty_codec
from lavita.methods.perceptual import LPIPS
from lavita.parity.cases import fill_by_formula
from lavita.training.budget import Limit
from lavita.training.distributed import recomputed_blocks
from lavita.training.fit import fit_stage

TINY = Config(
    channels=16,
    embed_dim=4,
    patch_size=8,
    depth=1,
    num_heads=2,
    head_width=8,
    projection_depth=1,
    projection_hidden=16,
    discriminator_width=4,
    discriminator_depth=2,
    lpips_vgg=None,
    lpips_linear=None,
    autoencoder_share=0.5,
    adversarial_share=0.25,
    autoencoder_batch_clips=None,
    autoencoder_beta1=0.5,
    autoencoder_beta2=0.9,
    unet_channels=32,
    unet_multiples=(1, 2),
    unet_attention=(2, 1),
    unet_blocks=1,
    unet_heads=2,
    previous_clip=False,
    previous_clip_probability=0.3,
    normalize_latents=False,
)
TRAIN = TrainConfig(
    batch_clips=2,
    learning_rate=1e-3,
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.999,
    warmup_clips=0,
    ema_decay=0.9,
    ema_halflife_share=None,
    grad_clip_norm=None,
    grad_clip_start_clips=0,
    class_dropout=0.1,
)
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


def batch(first: int = 0, frames: int = 4) -> dict[str, torch.Tensor]:
    video = torch.rand(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return {"video": video, "label": torch.tensor([0, 2]), "clip_index": torch.tensor([first, first + 1])}


def test_stages_share_one_budget_and_one_autoencoder():
    method = build(autoencoder_batch_clips=8)
    stages = method.stages()
    assert [stage.name for stage in stages] == ["autoencoder", "autoencoder-gan", "train"]
    assert [stage.module.stage_name for stage in stages] == [stage.name for stage in stages]
    assert sum(stage.share for stage in stages) == pytest.approx(1, abs=1e-12)
    assert stages[0].module.autoencoder is stages[1].module.autoencoder is method.autoencoder
    assert [stage.module.train_config.batch_clips for stage in stages] == [8, 8, 2]
    assert [stage.module.train_config.beta1 for stage in stages] == [0.5, 0.5, 0.9]
    assert [stage.module.uses_ema for stage in stages] == [False, False, True]
    assert [stage.name for stage in build(adversarial_share=0.0).stages()] == ["autoencoder", "train"]
    assert method.owns_first_stage and method.declared == {"perceptual loss": "gradient-pyramid"}
    assert not any("perceptual" in key or "discriminator" in key for key in method.state_dict())


def test_a_method_is_counted_without_memory():
    with torch.device("meta"):
        method = build(num_classes=3)
    assert all(parameter.is_meta for stage in method.stages() for parameter in stage.module.parameters())


@pytest.mark.parametrize("first, learns", [(0, "autoencoder"), (2, "adversary"), (4, "autoencoder")])
def test_the_adversarial_phase_updates_in_turn(first, learns):
    stage = build().stages()[1].module.train()
    optimiser = stage.configure_optimizers()["optimizer"]
    before = {name: value.clone() for name, value in stage.named_parameters()}
    parts = stage.loss(batch(first), SampleRNG([0, 1]))
    assert all(value.shape == (2,) for value in parts.values())
    optimiser.zero_grad()
    parts["loss"].mean().backward()
    stage.configure_gradient_clipping(optimiser)
    optimiser.step()
    after = dict(stage.named_parameters())
    changed = {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])}
    assert changed == {learns}


def test_heldout_loss_of_the_adversarial_phase_is_that_of_reconstruction():
    stages = build().stages()
    first, second = (stage.module.heldout_loss(batch(2)) for stage in stages[:2])
    assert first == second
    assert stages[1].module.training


def test_diffusion_trains_the_network_alone():
    method = build()
    parts = method.loss(batch(), SampleRNG([0, 1]))
    assert parts["loss"].shape == (2,)
    parts["loss"].mean().backward()
    assert all(p.grad is None for p in method.autoencoder.parameters())
    assert {id(p) for p in method.trained_parameters()} == {id(p) for p in method.network.parameters()}
    # A network that starts at zero predicts no noise: the loss is the noise's mean square, 1 within four
    # times sqrt(2 / 384) for 2 x 4 x 48 values.
    assert float(parts["loss"].detach().mean()) == pytest.approx(1, abs=0.29)


def test_normalized_latents_are_measured_on_clips_and_sampled_back(monkeypatch):
    """The diffusion sees latents of mean 0 in each value, and what it samples is put back before the decoder."""
    assert build().prepared_clips == 0
    method, clips = build(normalize_latents=True), [batch(2 * number) for number in range(8)]
    fill_by_formula(method.autoencoder)
    assert method.prepared_clips == 256
    method.prepare([(data, SampleRNG([0, 1])) for data in clips])
    with torch.no_grad():
        plain = torch.cat([method.autoencoder.encode(data["video"]) for data in clips])
        seen = torch.cat([method.encoded(data, SampleRNG([0, 1]))[0] for data in clips])
    centred = plain - plain.mean(0)
    torch.testing.assert_close(seen, centred / centred.square().mean().sqrt(), rtol=0, atol=1e-4)
    decoded, bounds = [], []
    monkeypatch.setattr(method.autoencoder, "decode", lambda z: decoded.append(z) or torch.zeros(len(z), 4, 3, 32, 32))
    monkeypatch.setattr(module, "sample_latents", lambda *parts: bounds.append(parts[-1]) or seen[:2])
    method.sample([7, 8], None, SAMPLING)
    torch.testing.assert_close(decoded[0], plain[:2], rtol=0, atol=1e-5)
    method.sample([7, 8], None, dataclasses.replace(SAMPLING, clip_denoised=False))
    assert float(bounds[0]) == pytest.approx(float(seen.abs().max()), abs=1e-5) and bounds[1] is None


def test_sampling_depends_on_the_seed_only():
    method = build()
    fill_by_formula(method.network)
    together = method.sample([3, 4, 5], None, SAMPLING)
    assert together.shape == (3, 4, 3, 32, 32) and together.abs().max() <= 1
    # Other batch sizes sum in another order: float32 rounding through 3 steps.
    torch.testing.assert_close(method.sample([4], None, SAMPLING)[0], together[1], rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_classes_and_guidance_reach_the_clip():
    method = build(num_classes=3)
    fill_by_formula(method.network)
    clips = [
        method.sample([0], torch.tensor([y]), dataclasses.replace(SAMPLING, guidance=g))
        for y, g in ((0, 1.0), (2, 1.0), (2, 4.0))
    ]
    assert not torch.allclose(clips[0], clips[1], atol=1e-5)
    assert not torch.allclose(clips[1], clips[2], atol=1e-5)
    assert method.loss(batch(), SampleRNG([0, 1]))["loss"].shape == (2,)


def test_labels_are_dropped_at_the_published_rate():
    method = build(num_classes=3)
    labels = method.labels(torch.zeros(2000, dtype=torch.long), SampleRNG(range(2000)))
    assert set(labels.tolist()) == {0, 3}
    # 0.1 within four standard errors of sqrt(0.1 * 0.9 / 2000) = 0.0067.
    assert float((labels == 3).float().mean()) == pytest.approx(0.1, abs=0.027)


def with_past(first: int = 0) -> dict[str, torch.Tensor]:
    """A batch with the 4 frames before each clip."""
    return batch(first) | {"context_frames": batch(first + 50)["video"]}


def test_long_video_is_trained_on_pairs_and_chained():
    method = build(previous_clip=True)
    fill_by_formula(method.network)
    assert method.context_frames == 4 and method.tasks == ("generation", "continuation")
    assert [stage.module.clip_cost for stage in method.stages()] == [1, 1, 2]
    assert [stage.module.context_frames for stage in method.stages()] == [0, 0, 4]
    assert method.loss(with_past(), SampleRNG([0, 1]))["loss"].shape == (2,)
    with pytest.raises(ValueError, match="model.previous_clip"):
        method.loss(batch(), SampleRNG([0, 1]))
    three = dataclasses.replace(SAMPLING, num_clips_chained=3)
    long = method.sample([0, 1], None, three)
    assert long.shape == (2, 12, 3, 32, 32)
    torch.testing.assert_close(long[:, :4], method.sample([0, 1], None, SAMPLING))
    with pytest.raises(ValueError, match="previous_clip=true"):
        build().sample([0], None, dataclasses.replace(SAMPLING, num_clips_chained=2))


def test_the_clip_before_the_first_decides_a_continuation():
    method = build(previous_clip=True)
    fill_by_formula(method.network)
    task = dataclasses.replace(SAMPLING, task="continuation", num_clips_chained=2)
    before = torch.cat([batch(1)["video"], batch(2)["video"]])[:3]
    clips = method.sample([7, 7, 8], None, task, before)
    assert clips.shape == (3, 8, 3, 32, 32) and clips.abs().max() <= 1
    # One seed, two clips before: every frame knows of them. Alone: float32 rounding through 2 x 3 steps.
    assert (clips[0] - clips[1]).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(method.sample([8], None, task, before[2:])[0], clips[2], rtol=0, atol=1e-4)
    # A chain proceeds as a continuation of its own first clip would, but with its own later noise.
    seen = []
    method.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    method.sample([7, 7, 8], None, task, before)
    assert torch.equal(seen[0], method.autoencoder.encode(before))
    torch.testing.assert_close(method.autoencoder.decode(seen[3]), clips[:, :4])
    for sampling, condition, message in (
        (task, None, "the real clip before the first"),
        (task, before[:, :3], r"condition: axis 1 \(F\) is 3, wanted 4"),
        (task, before[:2], r"condition: axis 0 \(B\) is 2, wanted 3"),
        (SAMPLING, before, "leave the condition out"),
        (dataclasses.replace(SAMPLING, task="prediction"), before, "allowed for pvdm: generation, continuation"),
    ):
        with pytest.raises(ValueError, match=message):
            method.sample([7, 7, 8], None, sampling, condition)
    with pytest.raises(ValueError, match="'continuation', allowed for pvdm: generation"):
        build().sample([7, 7, 8], None, dataclasses.replace(task, num_clips_chained=1), before)


@pytest.mark.parametrize("probability", [1.0, 0.0])
def test_the_condition_is_the_past_or_the_window_starts_anywhere(probability):
    method = build(previous_clip=True, previous_clip_probability=probability)
    data = with_past()
    windows = torch.cat([data["context_frames"], data["video"]], dim=1)
    every = [method.autoencoder.encode(windows[:, start : start + 4]) for start in range(5)]
    starts = set()
    for seed in range(20):
        z, previous = method.encoded(data, SampleRNG([seed, seed + 100]))
        if probability:
            assert torch.equal(z, every[4]) and torch.equal(previous, every[0])
        else:
            assert torch.equal(previous, torch.zeros_like(z))
            # The same clips in another batch: equal but for float32 rounding, and different windows are far apart.
            hits = [start for start in range(5) if torch.allclose(z[0], every[start][0], atol=1e-5)]
            assert len(hits) == 1
            starts.update(hits)
    assert probability or starts == {0, 1, 2, 3, 4}  # 5 * 0.8^20 = 6 % for any seeds; these seeds are fixed


def test_the_first_stage_is_a_view_of_the_autoencoder():
    method = build()
    keys, video = list(method.state_dict()), batch()["video"]
    codec = method.first_stage()
    assert isinstance(codec, Codec) and codec.latent_channels == 4 and codec.downsample == 8
    latent = codec.encode(video, SampleRNG([0, 1]))
    assert latent.shape == (2, 4, codec.autoencoder.config.latent_length) and latent.abs().max() <= codec.latent_bound()
    rebuilt = method.autoencoder(video)
    torch.testing.assert_close(codec.decode(latent), rebuilt, rtol=0, atol=1e-6)
    with torch.no_grad():
        method.autoencoder.to_pixel[1].bias.add_(1)
    assert codec.decode(latent).mean() > rebuilt.mean() + 0.1  # the method's own weights, as they now are
    assert list(method.state_dict()) == keys and len(list(method.modules())) == len(list(build().modules()))
    ((before, after),) = reconstructed(method.first_stage(), video, torch.device("cpu"))
    assert before.shape == after.shape == (2, 4, 32, 32, 3)
    assert method.perceptual_score(video, -video) is None  # the stand-in is no LPIPS


def test_the_first_stage_takes_a_few_clips_at_a_time(monkeypatch):
    """Of five clips, two at most: the same latents and clips; all at once where a gradient is wanted."""
    autoencoder, video = build().autoencoder, torch.cat([batch(first)["video"] for first in (0, 2, 4)])[:5]
    with torch.no_grad():
        latent = autoencoder.encode(video)
        whole, sizes, encoder = (latent, autoencoder.decode(latent)), [], autoencoder.encoder.forward
        monkeypatch.setattr(base, "PIXELS_AT_ONCE", 2 * 4 * 32 * 32)
        monkeypatch.setattr(autoencoder.encoder, "forward", lambda x: (sizes.append(len(x)), encoder(x))[1])
        for one, other in zip(whole, (autoencoder.encode(video), autoencoder.decode(latent)), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-6)  # matrix products of other sizes
    autoencoder.encode(video).sum().backward()
    assert sizes == [1, 2, 2, 5]


def test_lpips_of_a_clip_is_the_mean_over_its_frames(tmp_path):
    torch.manual_seed(0)
    model = LPIPS()
    torch.save(
        {f"features.{key.split('.', 2)[2]}": v for key, v in model.net.state_dict(prefix="net.").items()},
        tmp_path / "v.pth",
    )
    torch.save({key: v for key, v in model.state_dict().items() if key.startswith("lin")}, tmp_path / "l.pth")
    method = build(lpips_vgg=str(tmp_path / "v.pth"), lpips_linear=str(tmp_path / "l.pth"))
    assert method.declared == {"perceptual loss": "lpips-vgg16"}
    assert not any("lin" in key.split(".")[0] for key in method.state_dict())
    before, after = batch(1)["video"], batch(3)["video"]
    by_frame = torch.stack([model(before[:, f], after[:, f]) for f in range(4)], dim=1)  # (B, F)
    # Sums over the batch in another order, sixteen layers deep.
    torch.testing.assert_close(method.perceptual_score(before, after), by_frame.mean(1), rtol=1e-4, atol=1e-6)


def test_flops_of_the_adversarial_phase_are_the_mean_of_its_turns():
    stage = build().stages()[1].module
    assert stage.alternating_updates == 2
    one = {key: value[:1] for key, value in batch().items()}
    counts = []
    for first in (0, 2):  # the autoencoder's turn, the discriminators' turn, at batches of 2
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            parts = stage.loss(one | {"clip_index": torch.tensor([first])}, SampleRNG([0]))
            parts["loss"].mean().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] != counts[1]
    assert training_flops_per_clip(stage, batch()) == round(sum(counts) / 2)
    assert training_flops_per_clip(stage, batch(2)) == training_flops_per_clip(stage, batch())


def test_recomputed_layers_give_the_same_gradients_bit_for_bit():
    """The first stages have no list called `blocks`: they name their attentions and MLPs themselves."""
    found = []
    for again in (False, True):
        stage = build().stages()[1].module.train()
        with recomputed_blocks(stage.recomputed(), again) as count:
            stage.loss(batch(), SampleRNG([0, 1]))["loss"].mean().backward()
        # Encoder and decoder with three layers a block, three projections with two.
        assert count == again * (2 * 3 * TINY.depth + 3 * 2 * TINY.projection_depth)
        found.append([p.grad for p in stage.trained_parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_all_stages_run_through_the_trainer(tmp_path):
    method = build()
    clips = [{key: value[0] for key, value in batch(first).items()} for first in range(12)]
    for (stage, first), changes in zip(
        ((stage, 4 * i) for i, stage in enumerate(method.stages())),
        ({"autoencoder"}, {"autoencoder", "adversary"}, {"network"}),
        strict=True,
    ):
        before = {name: value.clone() for name, value in stage.module.named_parameters()}
        loader = DataLoader(clips[first : first + 4], batch_size=2)
        losses = fit_stage(stage.module, loader, Limit(4), tmp_path, batch(20), lambda *_: None, COMPUTE).heldout_losses
        assert losses[-1][0] == 4 and all(value == value for _, value in losses)
        after = dict(stage.module.named_parameters())
        assert {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])} == changes


def test_bad_settings_are_refused():
    method = build()
    for changes, word in (
        ({"sampler": "ddpm"}, "sampling.sampler=ddim"),
        ({"steps": "10,10"}, "one whole number"),
        ({"guidance": 2.0}, "unconditional"),
    ):
        with pytest.raises(ValueError, match=word):
            method.sample([0], None, dataclasses.replace(SAMPLING, **changes))
    with pytest.raises(ValueError, match="one class per clip"):
        build(num_classes=3).sample([0], None, SAMPLING)
    with pytest.raises(ValueError, match="sum below 1"):
        dataclasses.replace(TINY, autoencoder_share=0.9, adversarial_share=0.1)


@pytest.mark.parametrize(("row", "overrides"), [("8 x 32 x 32", ["data.root=/videos"]), ("synthetic videos", [])])
def test_the_card_has_the_sizes_of_the_demo(row, overrides):
    text = (Path(base.__file__).parents[1] / "baselines" / "pvdm" / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| demo, {row} |")]
    (experiment,) = make_plan("ucf101", "demo", ["pvdm"], [0], overrides)
    method = build_method(experiment, None, empty_codec(experiment.codec))
    adversary = next(stage.module for stage in method.stages() if stage.name == "autoencoder-gan").adversary
    sizes = [sum(p.numel() for p in part.parameters()) for part in (method.autoencoder, method.network, adversary)]
    latent = method.autoencoder.config.latent_length * experiment.model["embed_dim"]
    assert [cell.strip() for cell in line.split("|")[2:6]] == [f"{size:,}" for size in (*sizes, latent)]
