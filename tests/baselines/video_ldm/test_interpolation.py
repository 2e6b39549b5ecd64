"""Interpolation between given frames: the stretches of a clip and their masks, the loss, and what is made."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lavita.baselines.video_ldm.given_frames import end_frames
from lavita.baselines.video_ldm.interpolation import Interpolation, key_places, stretch_starts, stretches
from lavita.baselines.video_ldm.module import Method, method_class
from lavita.baselines.video_ldm.stages import Config
from lavita.codecs.base import PixelCodec
from lavita.config.schema import FRAMES, INTERPOLATION, SamplingConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.parity.cases import fill_by_formula

LENGTH, SIDE, STRIDE = 8, 8, 3
TINY = Config(
    depth=1,
    width=32,
    num_heads=2,
    match_params=None,
    multiples=(1,),
    attention=(1,),
    image_share=0.5,
    decoder_share=0.25,
    freeze_spatial=True,
    given_frames=(),
    key_stride=STRIDE,
    context_guidance=1.0,
    discriminator_width=4,
    discriminator_depth=2,
    lpips_vgg=None,
    lpips_linear=None,
)
TRAIN = TrainConfig(2, 1e-3, 0.0, 0.9, 0.999, 0, 0.9, None, None, 0, 0.5)
SAMPLING = SamplingConfig("ddim", "2", 0.0, 1.0, None, True, 4, INTERPOLATION, 1, "32-true")


def build(num_classes: int | None = None, **changes) -> Interpolation:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, **changes)
    method = method_class(config)(MethodContext(LENGTH, SIDE, num_classes, PixelCodec(), TRAIN, 0), config)
    fill_by_formula(method.network)
    return method


def clips(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, LENGTH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_setting_chooses_the_class():
    assert method_class(TINY) is Interpolation and method_class(dataclasses.replace(TINY, key_stride=None)) is Method
    assert build().tasks == (INTERPOLATION, FRAMES) and build(freeze_spatial=False).tasks == (INTERPOLATION,)


def test_the_middle_of_a_stretch_is_unknown():
    z = clips(2)[:, :5]  # the paper's three frames between two
    given = end_frames(z)
    assert torch.equal(given[:, [0, 4], :3], z[:, [0, 4]]) and not given[:, 1:4].any()
    assert given[:, :, 3].mean(dim=(2, 3)).tolist() == [[1, 0, 0, 0, 1]] * 2


@pytest.mark.parametrize(
    ("frames", "stride", "keys", "starts"),
    [
        (16, 4, [0, 4, 8, 12, 15], [0, 4, 8, 11]),  # tier paper with the paper's stride
        (8, 4, [0, 4, 7], [0, 3]),
        (9, 4, [0, 4, 8], [0, 4]),
        (5, 4, [0, 4], [0]),
        (8, 3, [0, 3, 6, 7], [0, 3, 4]),
    ],
)
def test_stretches_cover_a_clip_and_begin_with_what_is_there(frames, stride, keys, starts):
    assert key_places(frames, stride) == keys and stretch_starts(frames, stride) == starts
    known = set(keys)
    for first in starts:
        assert {first, first + stride} <= known and first + stride < frames
        known |= set(range(first, first + stride + 1))
    assert known == set(range(frames))


def test_training_stretches_share_their_ends():
    z = torch.arange(2 * LENGTH).view(2, LENGTH, 1, 1, 1)
    found = stretches(z, torch.tensor([0, 1]), STRIDE, 2).flatten(2).tolist()
    assert found == [[[0, 1, 2, 3], [3, 4, 5, 6]], [[9, 10, 11, 12], [12, 13, 14, 15]]]


def test_every_stretch_is_an_example_with_both_ends_given():
    method, seen = build(num_classes=3), []
    plain = method.network.forward
    method.network.forward = lambda *inputs: seen.append(inputs) or plain(*inputs)
    data = {"video": clips(6), "label": torch.arange(6) % 3, "clip_index": torch.arange(6)}
    loss = method.loss(data, SampleRNG(range(6)))["loss"]
    ((x, t, y, given),) = seen
    assert loss.shape == (6,) and method.examples_per_clip == 2  # of 7 frames
    assert x.shape == (12, STRIDE + 1, 3, SIDE, SIDE) and t.shape == y.shape == (12,)
    assert (t.view(6, 2)[:, 0] != t.view(6, 2)[:, 1]).any() and (y == 3).any() and (y < 3).any()
    # Each begins at the first or the second frame of its clip, and every stretch is given its ends.
    pairs = given.view(6, 2, STRIDE + 1, 4, SIDE, SIDE)
    first = [next(k for k in range(LENGTH) if torch.equal(pair[0, 0, :3], clip[k])) for pair, clip in
             zip(pairs, data["video"], strict=True)]  # fmt: skip
    assert set(first) == {0, 1}  # all alike with probability 1 / 32
    for pair, clip, k in zip(pairs, data["video"], first, strict=True):
        ends = clip[[k, k + STRIDE, k + STRIDE, k + 2 * STRIDE]].view(2, 2, 3, SIDE, SIDE)
        assert torch.equal(pair[:, [0, -1], :3], ends) and (pair[:, [0, -1], 3] == 1).all()
        assert not pair[:, 1:-1].any()
    loss.mean().backward()
    assert all(p.grad is not None for p in method.trained_parameters())


def test_given_frames_stay_and_those_between_follow_the_neighbours():
    method, real = build(), clips(2)
    made = method.sample([3, 4], None, SAMPLING, real)
    keys, between = [0, 3, 6, 7], [1, 2, 4, 5]
    # In pixels nothing is lost by encoding and decoding.
    assert torch.equal(made[:, keys], real[:, keys]) and made.abs().max() <= 1
    other = real.clone()
    other[:, between] = 0
    assert torch.equal(method.sample([3, 4], None, SAMPLING, other), made)  # frames between are not looked at
    other[:, 6] = 0
    again = method.sample([3, 4], None, SAMPLING, other)
    assert torch.equal(again[:, :4], made[:, :4]) and not torch.allclose(again[:, [4, 5]], made[:, [4, 5]], atol=1e-4)
    # Another batch size sums in another order: float32 rounding through 2 network calls.
    torch.testing.assert_close(method.sample([4], None, SAMPLING, real[1:])[0], made[1], rtol=0, atol=1e-4)
    assert method.evaluations(SAMPLING) == 3 * 2


def test_the_last_stretch_makes_what_no_other_has():
    """8 frames, 4 apart: the second stretch is 3 to 7, of which frame 4 is given by the clip and 5 and 6 are made."""
    method, real, calls = build(key_stride=4), clips(1), []
    plain = method.from_noise

    def numbered(*arguments):
        calls.append(1)
        return torch.zeros_like(plain(*arguments)) + len(calls) / 4 + torch.arange(5).view(1, 5, 1, 1, 1) / 100

    method.from_noise = numbered
    made = method.sample([0], None, SAMPLING, real)
    wanted = [None, 0.26, 0.27, 0.28, None, 0.52, 0.53, None]
    for place, value in enumerate(wanted):
        want = real[0, place] if value is None else torch.full_like(real[0, place], value)
        torch.testing.assert_close(made[0, place], want)


def test_frames_by_themselves_are_of_whole_clips():
    alone = build().sample([3], None, dataclasses.replace(SAMPLING, task=FRAMES))
    assert alone.shape == (1, LENGTH, 3, SIDE, SIDE) and build().tasks_beside(SAMPLING) == ()


def test_bad_settings_are_refused():
    method = build()
    for changes, condition, words in (
        ({"task": "generation"}, None, "allowed for video_ldm: interpolation, frames"),
        ({}, None, "needs the real clip whose frames"),
        ({"task": FRAMES}, clips(1), "from noise alone; leave the condition out, or choose .* interpolation$"),
        ({"num_clips_chained": 2}, clips(1), "video_ldm makes 1 clip"),
    ):
        with pytest.raises(ValueError, match=words):
            method.sample([0], None, dataclasses.replace(SAMPLING, **changes), condition)
    for changes, words in (
        ({"key_stride": 1}, "at least 2"),
        ({"key_stride": LENGTH}, "less than the 8 frames"),
        ({"given_frames": (0, 1)}, "one model predicts or interpolates"),
        ({"context_guidance": 2.0}, "nothing to be guided away from"),
        ({"key_stride": None, "given_frames": (1, 2), "context_guidance": 2.0}, "nothing to be guided away from"),
    ):
        with pytest.raises(ValueError, match=words):
            build(**changes)
