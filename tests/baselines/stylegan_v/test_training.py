"""What the two updates see and move, and what a clip costs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from lavita.baselines.stylegan_v.losses import frame_times, frames_at, spans
from lavita.baselines.stylegan_v.module import Config, Method
from lavita.codecs.base import PixelCodec
from lavita.config.compose import load_yaml
from lavita.config.schema import ConfigError, TrainConfig, read
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.costs import training_flops_per_clip, update_flops
from lavita.methods.base import MethodContext

TRAIN = TrainConfig(2, 0.0025, 0.0, 0.0, 0.99, 0, 0.99, None, None, 0, 0.0)
TINY = {
    "z_dim": 8, "w_dim": 8, "channel_base": 256, "channel_max": 8, "motion_dim": 8, "motion_frequencies": 4,
    "motion_distance": 4, "longest_period": 16, "max_frames": 16, "frames": 3, "style_dim": 4, "style_sides": [8],
    "r1_interval": 4, "r1_gamma": 1.0,
}  # fmt: skip


def build(name: str = "stylegan-v", num_classes: int | None = None, **model) -> Method:
    """The configured method, tiny, on clips of 8 frames of 32 x 32 pixels."""
    torch.manual_seed(0)
    context = MethodContext(8, 32, num_classes, PixelCodec(), TRAIN, seed=0)
    return Method(context, read(Config, load_yaml("methods", name)["model"] | TINY | model, "model"))


def batch_of(number: int, method: Method) -> dict[str, torch.Tensor]:
    """The clips of an update of that number."""
    video = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).tanh()
    label = torch.tensor([0, 1]) if method.context.num_classes else torch.tensor([-1, -1])
    return {"video": video, "label": label, "clip_index": 2 * number + torch.arange(2)}


def parts_of(method: Method, number: int) -> dict[str, torch.Tensor]:
    """The parts of that update's loss."""
    return method.loss(batch_of(number, method), SampleRNG([1, 2]))


def test_times_have_their_spans_and_stay_in_the_clip():
    assert (spans(8, 3), spans(16, 3), spans(128, 3), spans(16, 4)) == (
        [2, 4], [2, 4, 8], [2, 4, 8, 16, 32], [4, 8],
    )  # fmt: skip
    with pytest.raises(ValueError, match="no room"):
        spans(4, 4)
    for whole in (True, False):
        t = frame_times(16, 4, SampleRNG(range(400)), whole)
        steps = t.diff(dim=1)
        assert set((t[:, -1] - t[:, 0]).round().int().tolist()) == {4, 8}
        assert float(steps.min()) > 0.99  # distinct, ascending
        assert torch.allclose(steps, steps.round(), atol=1e-5)  # also between real starts
        assert 0 <= float(t.min()) and float(t.max()) <= 15
        assert torch.equal(t, t.round()) == whole
    whole = frame_times(8, 3, SampleRNG(range(400)), True)
    assert set(whole[:, 0].int().tolist()) == set(range(6))  # every start that leaves room for the span of 2
    video = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(400, 8, 3, 1, 1)
    assert torch.equal(frames_at(video, whole)[:, :, 0, 0, 0], whole)


@pytest.mark.parametrize("name", ["stylegan-v", "mostgan-v"])
def test_each_update_moves_its_own_network(name):
    method = build(name, motion_styles=2 if name == "mostgan-v" else 0).train()
    for number, moved, kept in ((0, "network", "discriminator"), (1, "discriminator", "network")):
        method.zero_grad(set_to_none=True)
        parts_of(method, number)["loss"].mean().backward()
        assert all(p.grad is not None for p in getattr(method, moved).parameters())
        assert all(p.grad is None for p in getattr(method, kept).parameters())
        assert all(p.requires_grad for p in method.parameters())


def test_the_penalty_falls_in_every_fourth_update_of_the_discriminator_with_four_times_its_weight():
    method = build().train()
    with_penalty = [number for number in range(20) if "r1" in parts_of(method, number)]
    assert with_penalty == [1, 9, 17]
    parts = parts_of(method, 1)
    assert torch.allclose(parts["loss"], parts["discriminator"] + 4 * 0.5 * parts["r1"])
    with torch.no_grad():
        assert "r1" not in parts_of(method, 1)


def test_flops_count_the_penalty_as_often_as_it_falls():
    method = build()
    one = {key: value[:1] for key, value in batch_of(0, method).items()}
    generator, first, later = (update_flops(method, one, number) for number in (0, 1, 3))
    assert first > later
    assert method.update_shares() == {0: 4, 1: 1, 3: 3}
    assert training_flops_per_clip(method, one) == round((4 * generator + first + 3 * later) / 8)
    assert method.clip_cost == Fraction(3, 16)


def test_both_networks_have_their_own_corrected_adam():
    method = build()
    configured = method.configure_optimizers()
    generator, discriminator = configured["optimizer"].param_groups
    assert generator["lr"] == pytest.approx(0.0025 * 4 / 5) and discriminator["lr"] == pytest.approx(0.0025 * 4 / 5)
    assert generator["betas"] == (0.0, pytest.approx(0.99**0.8))
    assert len(generator["params"]) == len(list(method.network.parameters()))
    assert len(discriminator["params"]) == len(list(method.discriminator.parameters()))
    mostgan = build("mostgan-v", r1_interval=16).configure_optimizers()["optimizer"].param_groups
    assert [group["lr"] for group in mostgan] == [pytest.approx(0.0025 * 8 / 9), pytest.approx(0.0025 * 16 / 17)]
    ramped = Method(replace(method.context, train=replace(TRAIN, warmup_clips=8)), method.config).configure_optimizers()
    assert ramped["optimizer"].param_groups[0]["lr"] == pytest.approx(0.0025 * 4 / 5 / 4)


def test_augmentation_follows_the_discriminator_of_training_only():
    method = build(ada_clips=16).train()
    parts_of(method, 0)
    assert not method.ada.signs.any() and not method.saw_real
    parts_of(method, 1)
    assert method.ada.signs[1] == 2 and method.saw_real
    method.heldout_losses(batch_of(0, method), SampleRNG([1, 2]))
    assert method.ada.signs[1] == 2
    assert method.ada.step == 2 * 4 / 16


def test_a_frame_can_be_asked_for_at_any_time_and_truncation_ends_at_one_style():
    method = build().eval()
    together = method.frames_of([3], None, torch.tensor([0.0, 2.5, 40.0]))
    for number, time in enumerate([0.0, 2.5, 40.0]):
        assert torch.allclose(
            method.frames_of([3], None, torch.tensor([time])), together[:, number : number + 1], atol=1e-5
        )
    average = build(truncation=0.0).eval()
    # Motion alone is left: without its noise, two seeds are one clip.
    noise = torch.zeros(2, average.network.config.motion.trajectory(), 8)
    frames = average.network(torch.randn(2, 8), torch.zeros(2, 1), noise, psi=0.0)[0]
    assert torch.allclose(frames[0], frames[1], atol=1e-6)


def test_classes_reach_both_networks():
    method = build(num_classes=3).train()
    assert all(parts_of(method, number)["loss"].isfinite().all() for number in (0, 1))
    first, second = (method.eval().frames_of([3], torch.tensor([k]), torch.zeros(1)) for k in (0, 1))
    assert not torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize(("model", "message"), [
    ({"motion_path": "fused"}, "model.motion_path: got 'fused', allowed trained, paper, released"),
    ({"pipe": "all"}, "model.pipe: got 'all'"), ({"frames": 12}, "12 frames .* no room"),
    ({"r1_interval": 0}, "at least 1"),
])  # fmt: skip
def test_what_does_not_go_is_named(model, message):
    with pytest.raises(ConfigError, match=message):
        build(**model)
