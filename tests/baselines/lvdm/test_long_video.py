"""LVDM's pair for long video: what each network is trained on, and how their latents are put together."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lavita.baselines.lvdm import long_video
from lavita.baselines.lvdm.long_video import LongVideo
from lavita.baselines.lvdm.module import Method, load_official, method_class
from lavita.codecs.base import PixelCodec
from lavita.config.schema import ConfigError
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.parity.cases import fill_by_formula

from .test_module import SAMPLING, TINY, TRAIN

LONG = dataclasses.replace(TINY, long_video=True, num_keys=3, key_stride=2, interpolation_share=0.1)


def build(num_classes: int | None = None, **changes) -> LongVideo:
    """Clips of 4 frames: 2 latent frames. Prediction reads 12 frames, interpolation 6."""
    torch.manual_seed(0)
    context = MethodContext(4, 16, num_classes, PixelCodec(), TRAIN, 0)
    config = dataclasses.replace(LONG, multiples=(1,), attention=(1,), **changes)
    method = method_class(config)(context, config)
    for network in (method.network, method.interpolation):
        fill_by_formula(network)
    return method


def video(frames: int, first: int = 0, count: int = 2) -> Tensor:
    return torch.rand(count, frames, 3, 16, 16, generator=torch.Generator().manual_seed(first)) * 2 - 1


def batch(before: int, first: int = 0) -> dict[str, Tensor]:
    whole = video(before + 4, first)
    return {
        "context_frames": whole[:, :before],
        "video": whole[:, before:],
        "label": torch.tensor([-1, -1]),
        "clip_index": torch.arange(first, first + 2),
    }


def test_a_setting_chooses_the_class():
    assert method_class(TINY) is Method and method_class(LONG) is LongVideo


def test_stages_and_what_they_are_charged():
    stages = build().stages()
    assert [stage.name for stage in stages] == ["autoencoder", "autoencoder-gan", "interpolation", "train"]
    assert [stage.share for stage in stages] == pytest.approx([0.5, 0.25, 0.1, 0.15])
    assert [stage.module.context_frames for stage in stages] == [0, 0, 2, 8]
    assert [stage.module.clip_cost for stage in stages] == [1, Fraction(1, 2), Fraction(3, 2), 3]
    assert stages[2].module.latents is stages[3].module.latents
    assert [stage.module.prepared_clips for stage in stages] == [0, 0, 256, 0]
    trained = [{id(p) for p in stage.module.trained_parameters()} for stage in stages[2:]]
    assert not trained[0] & trained[1]
    assert stages[2].module.network.config.temporal_length == 3 == stages[3].module.network.config.temporal_length


def test_training_reads_keys_apart_and_neighbours_between(monkeypatch):
    method = build()
    seen = []
    plain = long_video.masked_loss

    def watch(network, schedule, z, mask, *rest):
        seen.append((z, mask))
        return plain(network, schedule, z, mask, *rest)

    monkeypatch.setattr(long_video, "masked_loss", watch)
    for module, before in ((method, 8), (method.stages()[2].module, 2)):
        for first in range(0, 40, 2):
            data = batch(before, first)
            assert module.loss(data, SampleRNG([first, first + 1]))["loss"].shape == (2,)
    whole = torch.cat([batch(8)["context_frames"], batch(8)["video"]], dim=1)
    noise = SampleRNG([0, 1]).normal((3, 6, 4, 4))
    with torch.no_grad():
        latents = method.autoencoder.sample(whole, noise)
    torch.testing.assert_close(seen[0][0], latents[:, :, ::2])  # of six latent frames the first, third and fifth
    of_prediction, of_interpolation = [torch.cat([mask for _, mask in seen[part]]).flatten(1) for part in (
        slice(0, 20), slice(20, 40))]  # fmt: skip
    assert {tuple(row) for row in of_prediction.tolist()} == {(0, 0, 0), (1, 0, 0)}
    assert {tuple(row) for row in of_interpolation.tolist()} == {(0, 0, 0), (1, 0, 1)}
    # 40 clips each, given with 0.5 and 0.9: within four standard errors of 0.08 and 0.047.
    assert float(of_prediction[:, 0].mean()) == pytest.approx(0.5, abs=0.32)
    assert float(of_interpolation[:, 0].mean()) == pytest.approx(0.9, abs=0.19)


def test_the_scale_is_measured_once_for_both():
    method = build()
    stage = method.stages()[2].module
    stage.prepare([(batch(2), SampleRNG([0, 1])), (batch(2, 2), SampleRNG([2, 3]))])
    assert float(method.latents.scale) != 1
    assert {"latents.shift", "interpolation.out.2.bias", "network.out.2.bias"} <= set(method.state_dict())


class Recorded:
    """Stands in for `LongVideo.draw`: latents that count the calls, with the given frames in their place."""

    def __init__(self, method: LongVideo) -> None:
        self.method, self.calls = method, []

    def __call__(self, network, rng, sampling, given: Tensor, ends) -> Tensor:
        kind = "key" if network is self.method.network else "between"
        self.calls.append((kind, [float(given[0, 0, end, 0, 0]) for end in ends]))
        made = torch.full_like(given, float(len(self.calls)))
        for end in ends:
            made[:, :, end] = given[:, :, end]
        return made


@pytest.mark.parametrize(
    ("clips", "keys", "chunks"),
    # 2 latent frames a clip, keys 2 apart: 2 x clips latents need ceil((2 clips - 1) / 2) + 1 keys; 3 at first, 2 more.
    [(1, 2, 1), (2, 3, 1), (3, 4, 2), (4, 5, 2), (5, 6, 3)],
)
def test_keys_come_first_and_every_gap_is_filled(clips, keys, chunks, monkeypatch):
    method = build()
    draw, decoded = Recorded(method), []
    monkeypatch.setattr(method, "draw", draw)
    monkeypatch.setattr(method, "decode", lambda z: decoded.append(z) or torch.zeros(len(z), 2 * z.shape[2], 3, 16, 16))
    out = method.sample([0, 1], None, dataclasses.replace(SAMPLING, num_clips_chained=clips))
    assert out.shape == (2, 4 * clips, 3, 16, 16)
    assert [kind for kind, _ in draw.calls] == ["key"] * chunks + ["between"] * (keys - 1)
    # The first chunk is given nothing, each next one the last key of the one before.
    assert [ends for _, ends in draw.calls[:chunks]] == [[], *([float(number)] for number in range(1, chunks))]
    of_keys = [1.0] * 3 + [float(2 + number // 2) for number in range(keys)]
    found = decoded[0][0, 0, :, 0, 0].tolist()
    assert len(found) == 2 * clips and found[::2] == of_keys[: len(found[::2])]
    # Between two keys stands what was drawn for this gap.
    assert found[1::2] == [float(chunks + 1 + gap) for gap in range(len(found[1::2]))]
    gaps = [ends for kind, ends in draw.calls if kind == "between"]
    assert gaps == [[a, b] for a, b in zip(of_keys, of_keys[1:], strict=False)][: keys - 1]


def test_a_continuation_begins_after_its_condition(monkeypatch):
    method = build()
    draw, decoded = Recorded(method), []
    monkeypatch.setattr(method, "draw", draw)
    monkeypatch.setattr(method, "decode", lambda z: decoded.append(z) or torch.zeros(len(z), 2 * z.shape[2], 3, 16, 16))
    task = dataclasses.replace(SAMPLING, task="continuation")
    condition = video(4, 9)
    assert method.sample([3, 4], None, task, condition).shape == (2, 4, 3, 16, 16)
    with torch.no_grad():
        z = method.autoencoder.sample(condition, SampleRNG([3, 4]).normal((3, 2, 4, 4)))
    assert draw.calls[0] == ("key", [pytest.approx(float(z[0, 0, -1, 0, 0]))])
    assert decoded[0].shape[2] == 3  # its last latent frame and the two of the clip, whose frames alone are kept
    torch.testing.assert_close(decoded[0][:, :, 0], z[:, :, -1])


def test_sampling_depends_on_the_seed_and_the_condition_only():
    method = build()
    method.stages()[2].module.prepare([(batch(2), SampleRNG([0, 1]))])
    two = dataclasses.replace(SAMPLING, num_clips_chained=2)
    together = method.sample([3, 4, 5], None, two)
    assert together.shape == (3, 8, 3, 16, 16) and together.abs().max() <= 1
    # Other batch sizes sum in another order: float32 rounding through three networks of 3 steps and the decoder.
    torch.testing.assert_close(method.sample([4], None, two)[0], together[1], rtol=0, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    task = dataclasses.replace(SAMPLING, task="continuation")
    before = video(4, 1, count=3)
    clips = method.sample([7, 7, 8], None, task, before)
    assert (clips[0] - clips[1]).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_given_frames_are_held_all_through_sampling():
    method = build()
    method.latents.bound.fill_(3.0)
    seen, given = [], torch.full((1, 3, 3, 4, 4), 0.5)
    method.interpolation.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0], inputs[2])))
    method.draw(method.interpolation, SampleRNG([0]), SAMPLING, given, (0, -1))
    with_mask, without = seen[::2], seen[1::2]
    assert len(with_mask) == len(without) == 3
    for (x, level), (other, none) in zip(with_mask, without, strict=True):
        assert level.tolist() == [100] and none is None
        assert torch.equal(x[:, :3, [0, -1]], with_mask[0][0][:, :3, [0, -1]]) and torch.equal(x[:, :3], other[:, :3])
        assert x[:, 3].amax(dim=(2, 3)).tolist() == [[1, 0, 1]] and not other[:, 3].any()


def test_what_does_not_go_is_refused():
    for changes, message in (
        ({"num_keys": 2, "key_stride": 1}, "wanted at least 2 each"),
        ({"interpolation_share": 0.25}, "wanted above 0 and below 0.25"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**changes)
    with pytest.raises(ValueError, match="has no classes"):
        build(num_classes=3)
    context = MethodContext(16, 16, None, PixelCodec(), TRAIN, 0)
    with pytest.raises(ValueError, match="prediction has 12 frames, fewer than the suite's 16"):
        LongVideo(context, dataclasses.replace(LONG, multiples=(1,)))
    with pytest.raises(ConfigError, match="no weights were released for LVDM's long video"):
        load_official(build(), [])
    with pytest.raises(ValueError, match="continuation needs the real clip before"):
        build().sample([0], None, dataclasses.replace(SAMPLING, task="continuation"))
