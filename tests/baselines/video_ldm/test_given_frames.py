"""Prediction with given frames: what the network sees of them, the loss, and clips that continue others."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lavita.baselines.video_ldm.given_frames import GivenFrames, context_guided, first_frames
from lavita.baselines.video_ldm.module import Method
from lavita.baselines.video_ldm.network import ImageUNet, UNetConfig, VideoUNet, is_temporal
from lavita.baselines.video_ldm.stages import Config
from lavita.codecs.base import PixelCodec
from lavita.config.schema import CONTINUATION, SamplingConfig, TrainConfig
from lavita.config.schema import FRAMES as FRAMES_ALONE
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.parity.cases import fill_by_formula

FRAMES, SIDE = 4, 8
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
    given_frames=(0, 1, 2),
    key_stride=None,
    context_guidance=1.0,
    discriminator_width=4,
    discriminator_depth=2,
    lpips_vgg=None,
    lpips_linear=None,
)
TRAIN = TrainConfig(2, 1e-3, 0.0, 0.9, 0.999, 0, 0.9, None, None, 0, 0.5)
SAMPLING = SamplingConfig("ddim", "2", 0.0, 1.0, None, True, 4, "generation", 1, "32-true")
LONG = dataclasses.replace(SAMPLING, num_clips_chained=2)
AFTER = dataclasses.replace(SAMPLING, task=CONTINUATION)


def build(**changes) -> Method:
    torch.manual_seed(0)
    context = MethodContext(FRAMES, SIDE, None, PixelCodec(), TRAIN, 0)
    method = Method(context, dataclasses.replace(TINY, **changes))
    fill_by_formula(method.network)
    return method


def clips(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_first_frames_and_their_mask():
    z = clips(3)
    given = first_frames(z, torch.tensor([0, 1, 4]))
    for k, count in enumerate((0, 1, 4)):
        assert torch.equal(given[k, :count, :3], z[k, :count]) and not given[k, count:].any()
        assert (given[k, :count, 3] == 1).all()


def test_it_starts_as_the_network_that_sees_nothing():
    config = UNetConfig(3, 3, 32, (1, 2), (1,), 1, 16)
    torch.manual_seed(0)
    plain, seeing = VideoUNet(config), VideoUNet(config, sees_given=True)
    fill_by_formula(plain)
    state = {name.replace(".layer.", "."): name for name in seeing.state_dict()}
    seeing.load_state_dict({state[name]: value for name, value in plain.state_dict().items()}, strict=False)
    x, t = clips(2), torch.tensor([3, 500])
    given = first_frames(clips(2, 1), torch.tensor([1, 2]))
    with torch.no_grad():
        assert torch.equal(seeing(x, t, None, given), plain(x, t))
        fill_by_formula(seeing)
        assert not torch.equal(seeing(x, t, None, given), seeing(x, t, None, torch.zeros_like(given)))
    with pytest.raises(ValueError, match="hand in their latents and mask"):
        seeing(x, t)
    parts = [part for part in seeing.modules() if isinstance(part, GivenFrames)]
    # A residual block's and a transformer's: 2 and 1 on the way down, 2 and 1 in the middle, 4 and 2 on the way up.
    assert len(parts) == 12
    assert all(is_temporal(name) for name in dict(seeing.named_parameters()) if "project" in name)
    assert {id(p) for p in ImageUNet(seeing).parameters()} == {id(p) for p in seeing.spatial_parameters().values()}


def test_tokens_and_features_see_the_same_average():
    layer = GivenFrames(torch.nn.Identity(), 4, 5)
    fill_by_formula(layer)
    layer.given = first_frames(clips(2), torch.tensor([1, 2]))
    features = layer.seen(torch.zeros(2, 5, FRAMES, 4, 4))  # (B, D, F, h, w)
    tokens = layer.seen(torch.zeros(2 * FRAMES, 16, 5))  # (B F, h w, D)
    wanted = tokens.view(2, FRAMES, 4, 4, 5).permute(0, 4, 1, 2, 3)
    assert torch.equal(features, wanted)
    mean = layer.given[0, 0, :, 2:4, 4:6].mean(dim=(1, 2))
    by_hand = layer.project.weight[:, :, 0, 0] @ mean + layer.project.bias
    torch.testing.assert_close(features[0, :, 0, 1, 2], by_hand)


def test_a_loss_gives_each_clip_one_of_the_counts_at_random():
    method, seen = build(), []
    plain = method.network.forward
    method.network.forward = lambda x, t, y, given: seen.append(given) or plain(x, t, y, given)
    data = {"video": clips(12), "label": torch.full((12,), -1), "clip_index": torch.arange(12)}
    loss = method.loss(data, SampleRNG(range(12)))["loss"]
    assert loss.shape == (12,)
    counts = seen[0][:, :, 3, 0, 0].sum(dim=1)
    assert set(counts.tolist()) == {0.0, 1.0, 2.0}  # each is missing with probability (2 / 3)^12 = 0.8 %
    loss.mean().backward()
    assert all(p.grad is not None for name, p in method.network.named_parameters() if "project" in name)


def test_context_guidance_is_written_out():
    given = first_frames(clips(1), torch.tensor([2]))
    predict = context_guided(lambda x, t, y, seen: seen[:, :, :3] + x, given, 3.0)
    x, t = clips(1, 1), torch.zeros(1)
    torch.testing.assert_close(predict(x, t, None), x + 3 * given[:, :, :3])
    method, guided = build(), build(context_guidance=3.0)
    condition = clips(1, 2)
    a, b = (one.sample([0], None, AFTER, condition) for one in (method, guided))
    assert not torch.allclose(a, b, atol=1e-4)


def test_clips_continue_the_last_frames_of_what_came_before():
    method = build()
    condition = clips(2)
    made = method.sample([3, 4], None, AFTER, condition)
    assert made.shape == (2, FRAMES, 3, SIDE, SIDE) and made.abs().max() <= 1
    earlier = condition.clone()
    earlier[:, :2] = 0  # frames before the last two
    assert torch.equal(method.sample([3, 4], None, AFTER, earlier), made)
    later = condition.clone()
    later[:, -1] = 0
    assert not torch.allclose(method.sample([3, 4], None, AFTER, later), made, atol=1e-4)
    # Another batch size sums in another order: float32 rounding through 4 network calls.
    torch.testing.assert_close(method.sample([4], None, AFTER, condition[1:])[0], made[1], rtol=0, atol=1e-4)


def test_long_video_is_a_clip_and_what_continues_it():
    method = build()
    short, long = method.sample([5], None, SAMPLING), method.sample([5], None, LONG)
    assert long.shape == (1, 2 * FRAMES, 3, SIDE, SIDE) and torch.equal(long[:, :FRAMES], short)
    # 4 frames, then 2 new ones a clip: two more clips; after a real clip two for 4 frames.
    assert method.clips_of(LONG) == 3 and method.clips_of(AFTER) == 2
    assert method.evaluations(SAMPLING) == 2 and method.evaluations(AFTER) == 4


def test_frames_by_themselves_see_nothing_given():
    method = build()
    alone = method.sample([5], None, dataclasses.replace(SAMPLING, task=FRAMES_ALONE))
    assert alone.shape == (1, FRAMES, 3, SIDE, SIDE) and not torch.allclose(alone, method.sample([5], None, SAMPLING))
    assert (
        method.tasks_beside(SAMPLING) == (FRAMES_ALONE,)
        and method.tasks_beside(LONG) == method.tasks_beside(AFTER) == ()
    )
    with pytest.raises(ValueError, match="video_ldm makes 1 clip"):
        method.sample([5], None, dataclasses.replace(LONG, task=FRAMES_ALONE))


def test_tasks_and_bad_settings():
    assert build().tasks == ("generation", CONTINUATION, FRAMES_ALONE)
    assert build(given_frames=()).tasks == ("generation", FRAMES_ALONE)
    only = build(given_frames=(1,))
    with pytest.raises(ValueError, match="allowed for video_ldm: continuation"):
        only.sample([0], None, SAMPLING)
    with pytest.raises(ValueError, match="needs the real clip before"):
        build().sample([0], None, AFTER)
    for changes, word in (
        ({"given_frames": (0,)}, "one above 0"),
        ({"given_frames": (-1, 1)}, "wanted numbers of frames"),
        ({"given_frames": (0, FRAMES)}, "fewer than the 4 frames"),
    ):
        with pytest.raises(ValueError, match=word):
            build(**changes)
