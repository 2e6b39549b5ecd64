"""Video LDM under the contract of a method: stages and budget, frozen layers, two updates of a batch, sampling."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from diffusers.models.resnet import AlphaBlender
from torch.utils.data import DataLoader

from lavita.baselines.video_ldm.decoder import VideoCodec
from lavita.baselines.video_ldm.module import Config, Method
from lavita.baselines.video_ldm.network import is_temporal
from lavita.codecs import base
from lavita.codecs.base import PixelCodec
from lavita.codecs.kl import KLCodec
from lavita.config.plan import make_plan
from lavita.config.schema import FRAMES as FRAMES_ALONE
from lavita.config.schema import CodecConfig, ComputeConfig, SamplingConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.budget import meta_flops, on_meta
from lavita.methods.base import MethodContext
from lavita.methods.build import empty_codec
from lavita.parity.cases import fill_by_formula
from lavita.training.budget import Limit
from lavita.training.distributed import recomputed_blocks
from lavita.training.fit import fit_stage
from lavita.training.stage import others_frozen

TINY = Config(
    depth=1,
    width=32,
    num_heads=2,
    match_params=None,
    multiples=(1, 2),
    attention=(1,),
    image_share=0.5,
    decoder_share=0.25,
    freeze_spatial=True,
    given_frames=(),
    key_stride=None,
    context_guidance=1.0,
    discriminator_width=4,
    discriminator_depth=2,
    lpips_vgg=None,
    lpips_linear=None,
)
TRAIN = TrainConfig(2, 1e-3, 0.01, 0.9, 0.999, 0, 0.9, None, None, 0, 0.5)
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
CODEC = CodecConfig("suite", None, 4, 4, None, 8, 32, 4, 1e-4, 1e-3, 2)
FRAMES, SIDE = 3, 16


def codec() -> KLCodec:
    """A small autoencoder with formula weights: 4 x 4 latents of 4 channels."""
    made = empty_codec(CODEC)
    fill_by_formula(made)
    return made


def build(num_classes: int | None = None, pixels: bool = False, train: TrainConfig = TRAIN, **changes) -> Method:
    torch.manual_seed(0)
    context = MethodContext(FRAMES, SIDE, num_classes, PixelCodec() if pixels else codec(), train, 0)
    return Method(context, dataclasses.replace(TINY, **changes))


def batch(first: int = 0) -> dict[str, torch.Tensor]:
    video = torch.rand(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return {"video": video, "label": torch.tensor([0, 2]), "clip_index": torch.tensor([first, first + 1])}


def test_stages_share_one_budget_and_one_network():
    method = build()
    stages = method.stages()
    assert [stage.name for stage in stages] == ["image", "decoder", "train"]
    assert [stage.module.stage_name for stage in stages] == [stage.name for stage in stages]
    assert [stage.share for stage in stages] == [0.5, 0.25, 0.25]
    assert [stage.module.clip_cost for stage in stages] == [1, Fraction(1, 2), 1]
    image, decoder, video = (stage.module for stage in stages)
    assert video is method and decoder.decoder is method.decoder
    trained = [{id(p) for p in stage.trained_parameters()} for stage in (image, video)]
    assert not trained[0] & trained[1]
    assert trained[0] | trained[1] == {id(p) for p in method.network.parameters()}
    assert not any("discriminator" in key or "perceptual" in key or "image" in key for key in method.state_dict())
    assert not any(key.startswith("codec.") for key in dict(decoder.decoder.named_parameters()))
    assert method.declared == {
        "mean mixing factor": "0.622",  # 1 / (1 + exp(-0.5))
        "mean mixing factor of the decoder": "0.500",
        "perceptual loss": "gradient-pyramid",
    }


def test_without_a_share_or_in_pixels_there_is_no_temporal_decoder():
    for method in (build(decoder_share=0.0), build(pixels=True)):
        assert [stage.name for stage in method.stages()] == ["image", "train"]
        assert [stage.share for stage in method.stages()] == [0.5, 0.5]
        assert method.first_stage() is None and list(method.declared) == ["mean mixing factor"]
    assert isinstance(build().first_stage(), VideoCodec)


def test_a_method_is_counted_without_memory():
    with torch.device("meta"):
        context = MethodContext(FRAMES, SIDE, 3, empty_codec(CODEC), TRAIN, 0)
        method = Method(context, TINY)
    assert all(parameter.is_meta for stage in method.stages() for parameter in stage.module.parameters())


def test_every_frame_is_an_image_with_time_and_label_of_its_own():
    stage = build(num_classes=3).stages()[0].module
    seen = []
    stage.network.register_forward_pre_hook(lambda _, given: seen.append(given))
    clips = [
        {key: value.repeat_interleave(4, 0) for key, value in batch(first).items() if key != "clip_index"}
        for first in (0, 2)
    ]
    parts = [stage.loss(one, SampleRNG(range(8 * i, 8 * i + 8))) for i, one in enumerate(clips)]
    assert all(one["loss"].shape == (8,) for one in parts)
    (x, t, y), (_, again, labels) = seen
    assert x.shape == (8 * FRAMES, 4, 4, 4) and t.shape == y.shape == (8 * FRAMES,)
    for times in (t, again):  # 24 draws of 1,000: all times of a clip equal has probability 1e-6
        assert all(len(set(one.tolist())) > 1 for one in times.view(8, FRAMES))
    dropped = torch.cat([y, labels]).view(16, FRAMES) == 3
    # Half of 48: five standard deviations, sqrt(48) / 2 each. Not by clips: some have both.
    assert abs(int(dropped.sum()) - 24) < 5 * 48**0.5 / 2
    assert any(0 < int(one.sum()) < FRAMES for one in dropped)


def test_losses_start_at_the_power_of_the_noise():
    """Both networks start at zero output: the loss is the noise's mean square, 1, of 2 x 192 values of variance 2."""
    for stage in (build().stages()[0].module, build()):
        loss = stage.loss(batch(), SampleRNG([0, 1]))["loss"].detach()
        assert loss.shape == (2,) and float(loss.mean()) == pytest.approx(1, abs=4 * (2 / 384) ** 0.5)


@pytest.mark.parametrize("freeze", [True, False])
def test_all_stages_run_through_the_trainer(freeze, tmp_path):
    """Each moves its own part; after the temporal phase every spatial weight is bit-equal to the image phase's end."""
    method = build(freeze_spatial=freeze)
    clips = [{key: value[0] for key, value in batch(first).items()} for first in range(24)]
    states = [{name: value.clone() for name, value in method.state_dict().items()}]
    for number, stage in enumerate(method.stages()):
        loader = DataLoader(clips[8 * number : 8 * number + 8], batch_size=2)
        limit = Limit(8 * stage.module.clip_cost)
        before = {name: value.clone() for name, value in stage.module.named_parameters()}
        losses = fit_stage(stage.module, loader, limit, tmp_path, batch(30), lambda *_: None, COMPUTE).heldout_losses
        assert losses[-1][0] == limit.clips and all(value == value for _, value in losses)
        after = dict(stage.module.named_parameters())
        assert all(value.requires_grad for name, value in after.items() if "autoencoder" not in name)
        moved = {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])}
        assert moved == [{"network"}, {"decoder", "discriminator"}, {"network"}][number]
        states.append({name: value.clone() for name, value in method.state_dict().items()})
    for number, (before, after) in enumerate(zip(states[:-1], states[1:], strict=True)):
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        in_network = {name for name in moved if name.startswith("network.")}
        temporal = {name for name in in_network if is_temporal(name)}
        if number == 1:
            assert moved and all(name.startswith("decoder.") for name in moved)
        else:
            assert moved == in_network and bool(temporal) == (number == 2)
            assert bool(in_network - temporal) == (number == 0 or not freeze)


def test_the_temporal_phase_begins_with_the_average_of_the_image_phase(tmp_path):
    """decay 0.9, warmed up as (1 + n) / (10 + n): the average of the weights after each step, written out here."""
    method = build()
    stage = method.stages()[0].module
    clips = [{key: value[0] for key, value in batch(first).items()} for first in range(6)]
    followed, name = [], "network.unet.conv_in.weight"
    plain = stage.training_step

    def training_step(*arguments):
        followed.append(method.state_dict()[name].clone())
        return plain(*arguments)

    stage.training_step = training_step
    average = method.state_dict()[name].clone()
    fit_stage(stage, DataLoader(clips, batch_size=2), Limit(6), tmp_path, batch(30), lambda *_: None, COMPUTE)
    # The last step's weights are seen by nobody: of the average they follow from the end.
    decays = [min(0.9, (1 + n) / (10 + n)) for n in (1, 2, 3)]
    for decay, weights in zip(decays[:2], followed[1:], strict=True):
        average = decay * average + (1 - decay) * weights
    last = (method.state_dict()[name] - decays[2] * average) / (1 - decays[2])
    step = (last - followed[-1]).abs().max()
    assert 0 < float(step) < 3 * TRAIN.learning_rate  # a step of AdamW
    assert not torch.equal(method.state_dict()[name], followed[-1])


@pytest.mark.parametrize("first, learns", [(0, "decoder"), (2, "discriminator"), (4, "decoder")])
def test_every_batch_updates_the_decoder_then_the_discriminator(first, learns):
    stage = build().stages()[1].module.train()
    fill_by_formula(stage.decoder)
    optimiser = stage.configure_optimizers()["optimizer"]
    before = {name: value.clone() for name, value in stage.named_parameters()}
    parts = stage.loss(batch(first), SampleRNG([0, 1]))
    assert all(value.shape == (2,) for value in parts.values())
    optimiser.zero_grad()
    parts["loss"].mean().backward()
    optimiser.step()
    after = dict(stage.named_parameters())
    assert {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])} == {learns}
    assert all(value.equal(before[name]) for name, value in after.items() if name.startswith("codec."))


def test_the_decoders_loss_is_written_out():
    stage = build().stages()[1].module.train()
    fill_by_formula(stage.decoder)
    with torch.no_grad():
        stage.discriminator.main[-1].weight *= 100  # at its start the weight would be at its bound
    data = batch()
    parts = stage.loss(data, SampleRNG([0, 1]))
    rebuilt = stage.rebuilt(data["video"], SampleRNG([0, 1])).detach()
    pixel = (data["video"] - rebuilt).abs().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(parts["reconstruction"].detach(), pixel + parts["perceptual"].detach())
    wanted = parts["reconstruction"] + parts["adaptive_weight"] * parts["adversarial"]
    torch.testing.assert_close(parts["loss"], wanted)
    last, again = stage.decoder.time_conv_out.weight, stage.loss(data, SampleRNG([0, 1]))
    norms = [
        torch.autograd.grad(again[key].mean(), last, retain_graph=True)[0].norm()
        for key in ("reconstruction", "adversarial")
    ]
    # The batch norms' running statistics have moved, which training does not read.
    assert float(parts["adaptive_weight"][0]) == pytest.approx(0.5 * float(norms[0] / (norms[1] + 1e-4)), rel=1e-4)


def test_before_its_first_step_the_decoder_loses_what_the_suites_does():
    method = build()
    stage, data = method.stages()[1].module, batch()
    rebuilt = method.codec.decode(method.codec.encode(data["video"], SampleRNG([0, 1])))
    ours = stage.rebuilt(data["video"], SampleRNG([0, 1])).clamp(-1, 1)
    assert torch.equal(ours, rebuilt)
    assert torch.equal(method.first_stage().decode(method.codec.encode(data["video"], SampleRNG([0, 1]))), rebuilt)


def test_sampling_depends_on_the_seed_only():
    method = build()
    fill_by_formula(method.network)
    fill_by_formula(method.decoder)
    for changes in ({}, {"sampler": "ddpm"}, {"eta": 0.0}, {"sampler": "dpm-solver++"}):
        sampling = dataclasses.replace(SAMPLING, **changes)
        together = method.sample([3, 4, 5], None, sampling)
        assert together.shape == (3, FRAMES, 3, SIDE, SIDE) and together.abs().max() <= 1
        # Other batch sizes sum in another order: float32 rounding through 3 steps and the decoder.
        torch.testing.assert_close(method.sample([4], None, sampling)[0], together[1], rtol=0, atol=1e-4)
        assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_ancestral_sampler_has_the_posteriors_variance():
    """What a network that predicts no variance is given: the smaller of the two bounds."""
    method = build()
    short = method.schedule.respace("2")
    predicted = method.denoiser(None, SAMPLING)(torch.zeros(1, FRAMES, 4, 4, 4), torch.zeros(1).long())
    eps, v = predicted.chunk(2, dim=2)
    assert not eps.any() and (v == -1).all()
    variance = short.model_log_variance(v.detach()[:, :1, :1, :1, :1], torch.ones(1).long()).exp()
    assert float(variance) == pytest.approx(float(short.posterior_variance[1]), rel=1e-5)


def test_classes_and_guidance_reach_the_clip():
    method = build(num_classes=3)
    fill_by_formula(method.network)
    assert method.network.unet.add_time_proj.weight.shape == (4, 128)
    clips = [
        method.sample([0], torch.tensor([y]), dataclasses.replace(SAMPLING, guidance=g))
        for y, g in ((0, 1.0), (2, 1.0), (2, 4.0))
    ]
    assert not torch.allclose(clips[0], clips[1], atol=1e-5)
    assert not torch.allclose(clips[1], clips[2], atol=1e-5)


def test_recomputed_layers_give_the_same_gradients_bit_for_bit():
    for number in range(3):
        found = []
        for again in (False, True):
            stage = build().stages()[number].module.train()
            fill_by_formula(stage)
            with others_frozen(stage), recomputed_blocks(stage.recomputed(), again) as count:
                stage.loss(batch(), SampleRNG([0, 1]))["loss"].mean().backward()
            assert count == again * len(stage.recomputed()) and len(stage.recomputed()) >= 4
            found.append([p.grad for p in stage.trained_parameters() if p.grad is not None])
            others = {id(p) for p in stage.parameters()} - {id(p) for p in stage.trained_parameters()}
            assert all(p.grad is None for p in stage.parameters() if id(p) in others)
        assert len(found[0]) == len(found[1]) > 0
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_frames_are_the_clips_of_the_image_phase_alone():
    """What all mixing factors at 1 give, without the temporal layers: the same noise, every frame by itself."""
    method = build(num_classes=3)
    fill_by_formula(method.network)
    fill_by_formula(method.decoder)
    plain = dataclasses.replace(SAMPLING, guidance=2.0)
    y, frames = torch.tensor([2, 0]), dataclasses.replace(plain, task=FRAMES_ALONE)
    assert method.tasks_beside(plain) == (FRAMES_ALONE,) and method.tasks_beside(frames) == ()
    clip, alone = (method.sample([3, 4], y, sampling) for sampling in (plain, frames))
    with torch.no_grad():
        for part in method.network.modules():
            if isinstance(part, AlphaBlender):
                part.mix_factor.fill_(1e9)  # its sigmoid is 1
    wanted = method.sample([3, 4], y, plain)
    assert alone.shape == (2, FRAMES, 3, SIDE, SIDE)
    # Another batch size sums in another order: float32 rounding through 3 steps and the decoder.
    torch.testing.assert_close(alone, wanted, rtol=0, atol=1e-4)
    assert float((clip - wanted).abs().max()) > 1e-2


def test_without_frozen_layers_there_is_no_image_phase_to_score():
    method = build(freeze_spatial=False)
    assert method.tasks == ("generation",) and method.tasks_beside(SAMPLING) == ()
    with pytest.raises(ValueError, match="allowed for video_ldm: generation"):
        method.sample([0], None, dataclasses.replace(SAMPLING, task=FRAMES_ALONE))


def test_bad_settings_are_refused():
    method = build()
    for changes, word in (
        ({"sampler": "euler"}, "allowed ddpm, ddim"),
        ({"guidance": 2.0}, "unconditional"),
        ({"task": "continuation"}, "allowed for video_ldm: generation"),
        ({"num_clips_chained": 2}, "video_ldm makes 1 clip"),
    ):
        with pytest.raises(ValueError, match=word):
            method.sample([0], None, dataclasses.replace(SAMPLING, **changes))
    for changes, word in (
        ({"image_share": 0.9, "decoder_share": 0.1}, "sum below 1"),
        ({"image_share": 0.0}, "first above 0"),
        ({"multiples": (1, 1, 1, 1)}, "4 levels for latents of 4 x 4"),
        ({"num_heads": 3}, "heads that divide the width"),
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
    text = (Path(base.__file__).parents[1] / "baselines" / "video_ldm" / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    (experiment,) = make_plan("ucf101", tier, ["video-ldm"], [0], overrides)
    method, _ = on_meta(experiment, None)
    stages = [stage.module for stage in method.stages()]
    spatial, temporal = method.network.spatial_parameters(), method.network.temporal_parameters()
    parts = [
        list(spatial.values()),
        list(temporal.values()),
        list(method.decoder.parameters()),
        list(stages[1].discriminator.parameters()),
    ]
    sizes = [f"{sum(p.numel() for p in part):,}" for part in parts]
    latent = " x ".join(map(str, method.latent_shape))
    flops = [meta_flops(experiment.data)(stage) / 1e9 for stage in stages]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[:5] == [*sizes, latent]
    assert [float(cell) for cell in cells[5:]] == pytest.approx(flops, rel=5e-3)
