"""VDT's mask-modelling tasks: masks, training on what is to be made, sampling around what is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lavita.baselines.vdt.module import TASKS, Config, Method, task_mask
from lavita.codecs.base import PixelCodec
from lavita.config.schema import ConfigError, SamplingConfig, TrainConfig
from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.rng import SampleRNG
from lavita.methods.base import MethodContext
from lavita.parity.cases import fill_by_formula

EVERY = tuple(TASKS)
TRAIN = TrainConfig(2, 1e-4, 0.0, 0.9, 0.999, 0, 0.999, None, None, 0, 0.1)
SAMPLING = SamplingConfig("ddim", "3", 1.0, 1.0, None, True, 2, "generation", 1, "32-true")
FRAMES, SIDE = 8, 8


def mask(task: str, num_frames: int, side: int, seed: int = 0, training: bool = True) -> np.ndarray:
    return task_mask(task, num_frames, side, torch.Generator().manual_seed(seed), training).numpy()


def build(tasks: tuple[str, ...], num_classes: int | None = None) -> Method:
    """VDT on 8 frames of 8 x 8 pixels, two blocks of width 16, with formula weights."""
    context = MethodContext(FRAMES, SIDE, num_classes, PixelCodec(), TRAIN, seed=0)
    method = Method(context, Config("XS", 4, 2, 16, 4, None, tasks))
    fill_by_formula(method.network)
    return method.eval()


def batch() -> dict[str, torch.Tensor]:
    video = torch.rand(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"video": video, "label": torch.tensor([0, 1]), "clip_index": torch.arange(2)}


@pytest.mark.parametrize(
    ("task", "num_frames", "given"),
    [
        ("generation", 16, []),
        ("prediction", 16, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("prediction", 5, [0, 1]),
        ("backward-prediction", 16, [8, 9, 10, 11, 12, 13, 14, 15]),
        ("backward-prediction", 5, [3, 4]),
        ("interpolation", 16, [0, 4, 8, 12]),
        ("interpolation", 8, [0, 4]),
        ("interpolation", 4, [0, 2]),
    ],
)
def test_masks_of_whole_frames(task, num_frames, given):
    written_out = np.zeros((num_frames, 3, 3), dtype=bool)
    for frame in given:
        written_out[frame] = True
    assert np.array_equal(mask(task, num_frames, 3), written_out)


def test_animation_gives_one_frame_any_in_training_and_the_first_in_sampling():
    chosen = set()
    for seed in range(60):
        frames = mask("animation", 4, 3, seed).reshape(4, 9)
        assert (frames.all(axis=1) == frames.any(axis=1)).all() and frames[:, 0].sum() == 1
        chosen.add(int(frames[:, 0].argmax()))
    assert chosen == {0, 1, 2, 3}  # (3/4)^60 = 3e-8 that a given one is never drawn
    assert mask("animation", 4, 3, training=False)[:, 0, 0].tolist() == [True, False, False, False]


def test_completion_makes_the_same_blocks_in_the_middle_frames():
    shares, ends = [], set()
    for seed in range(200):
        given = mask("completion", 16, 12, seed)
        whole = given.all(axis=(1, 2))
        made = np.flatnonzero(~whole)
        assert np.array_equal(made, np.arange(made[0], made[-1] + 1)) and (given[made] == given[made[0]]).all()
        assert made[0] <= 3 and made[-1] >= 12
        ends.add((int(made[0]), 15 - int(made[-1])))
        shares.append(1 - given[made[0]].mean())
    assert len(ends) == 16  # 16 * (15/16)^200 = 4e-5 that one of them is never drawn
    # Blocks stop at half of the area and reach it but for a rest that nothing fits.
    assert max(shares) <= 0.5 and np.mean(shares) > 0.4
    assert np.array_equal(mask("completion", 16, 12, 3), mask("completion", 16, 12, 3))


@pytest.mark.parametrize("task", EVERY)
@pytest.mark.parametrize(("num_frames", "side"), [(3, 1), (4, 2), (7, 5)])
def test_every_task_leaves_something_to_make_at_small_sizes(task, num_frames, side):
    for seed in range(20):
        given = mask(task, num_frames, side, seed)
        assert given.shape == (num_frames, side, side) and not given.all()
        assert given.any() == (task != "generation") or task == "completion"


def test_generation_alone_is_the_plain_method_bit_for_bit():
    plain, both = build(("generation",)), build(EVERY)
    parts = plain.loss(batch(), SampleRNG([1, 2]))
    base = super(Method, plain).loss(batch(), SampleRNG([1, 2]))
    assert all(torch.equal(parts[key], base[key]) for key in base)
    assert torch.equal(plain.sample([3, 4], None, SAMPLING), both.sample([3, 4], None, SAMPLING))


def test_the_loss_counts_what_is_to_be_made_and_nothing_else():
    method, data = build(("prediction",)), batch()
    seen = {}

    def network(x, t, y):
        seen["x"], seen["t"] = x, t
        seen["out"] = torch.full((2, FRAMES, 6, SIDE, SIDE), 0.3, requires_grad=True)
        return seen["out"]

    method.network.forward = network
    parts = method.loss(data, SampleRNG([1, 2]))
    half = FRAMES // 2
    assert torch.equal(seen["x"][:, :half], data["video"][:, :half])  # given: clean at every time
    rng = SampleRNG([1, 2])
    t, noise = rng.integers(1000), rng.normal((FRAMES, 3, SIDE, SIDE))
    assert torch.equal(seen["t"], t)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t.numpy()].reshape(-1, 1, 1, 1, 1)
    noisy = np.sqrt(bar) * data["video"].numpy() + np.sqrt(1 - bar) * noise.numpy()
    np.testing.assert_allclose(seen["x"][:, half:].numpy(), noisy[:, half:], atol=1e-5)  # float32 against float64
    error = (noise.numpy() - 0.3) ** 2
    error[:, :half] = 0
    # Sums of 1536 float32 terms: relative error below 1536 * 6e-8 = 1e-4.
    np.testing.assert_allclose(parts["mse"].detach().numpy(), error.mean(axis=(1, 2, 3, 4)), rtol=1e-4)
    parts["loss"].sum().backward()
    gradient = seen["out"].grad
    assert not gradient[:, :half].any() and (gradient[:, half:].flatten(2).abs().sum(-1) > 0).all()


def test_a_mask_that_counts_all_changes_no_loss():
    method = build(EVERY)
    x0, noise, eps, v = (torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(4))
    arguments = (method.schedule, x0, torch.tensor([0, 400]), noise, eps, v.tanh())
    plain, counted = hybrid_loss(*arguments), hybrid_loss(*arguments, counted=torch.ones(2, 3, 1, 4, 4).bool())
    assert all(torch.equal(plain[key], counted[key]) for key in plain)


def test_tasks_are_drawn_alike():
    method, counts = build(("prediction", "backward-prediction")), []
    method.network.forward = lambda x, t, y: counts.append(x) or torch.zeros(len(x), FRAMES, 6, SIDE, SIDE)
    video = batch()["video"][:1].expand(400, -1, -1, -1, -1)
    method.loss({"video": video, "label": torch.zeros(400).long()}, SampleRNG(range(400)))
    first = (counts[0][:, 0] == video[:, 0]).flatten(1).all(1).float().mean()
    assert float(first) == pytest.approx(0.5, abs=0.1)  # four standard errors of sqrt(0.25 / 400)


@pytest.mark.parametrize("task", [task for task in EVERY if task != "generation"])
@pytest.mark.parametrize("num_classes", [None, 2])
def test_sampling_keeps_what_is_given_and_makes_the_rest(task, num_classes):
    method, video = build(EVERY, num_classes), batch()["video"]
    sampling = dataclasses.replace(SAMPLING, task=task, guidance=1.0 if num_classes is None else 2.0)
    classes = None if num_classes is None else torch.tensor([0, 1])
    clips = method.sample([5, 6], classes, sampling, video)
    rng = SampleRNG([5, 6])
    given = method.masks([task] * 2, rng, False).expand_as(video)
    assert torch.equal(clips[given], video[given]) and given.any()
    assert not torch.isclose(clips[~given], video[~given], atol=1e-3).all()
    alone = method.sample([6], None if classes is None else classes[1:], sampling, video[1:])
    # The same noise and mask bit for bit; three float32 forward passes of another batch size after them.
    torch.testing.assert_close(alone[0], clips[1], rtol=0, atol=1e-4)
    other = method.sample([5, 6], classes, sampling, -video)
    assert not torch.isclose(other[~given], clips[~given], atol=1e-3).all()  # what is made depends on what is given


@pytest.mark.parametrize(
    ("sampler", "steps", "eta"), [("ddpm", "5", 0.0), ("ddim", "5", 0.0), ("dpm-solver++", "5", 0.0)]
)
def test_every_sampler_completes(sampler, steps, eta):
    method, video = build(("prediction",)), batch()["video"]
    sampling = dataclasses.replace(SAMPLING, task="prediction", sampler=sampler, steps=steps, eta=eta)
    clips = method.sample([5, 6], None, sampling, video)
    assert torch.equal(clips[:, : FRAMES // 2], video[:, : FRAMES // 2])
    assert torch.isfinite(clips).all() and not torch.isclose(clips, video, atol=1e-3)[:, FRAMES // 2 :].all()


def test_wrong_tasks_and_conditions_are_refused():
    method, video = build(("generation", "prediction")), batch()["video"]
    prediction = dataclasses.replace(SAMPLING, task="prediction")
    for sampling, condition, message in (
        (
            dataclasses.replace(SAMPLING, task="animation"),
            video,
            r"'animation', allowed for vdt: generation, prediction.* give model.tasks=\[animation\]",
        ),
        (dataclasses.replace(SAMPLING, task="painting"), None, "'painting', allowed for vdt: generation, prediction"),
        (prediction, None, "needs one real clip per seed as condition .--condition VIDEO"),
        (prediction, video[:, :4], r"condition: axis 1 \(F\) is 4, wanted 8"),
        (prediction, video[:1], r"condition: axis 0 \(B\) is 1, wanted 2"),
        (dataclasses.replace(prediction, num_clips_chained=2), video, "num_clips_chained: got 2"),
        (SAMPLING, video, "leave the condition out, or choose sampling.task .* among prediction"),
    ):
        with pytest.raises(ValueError, match=message):
            method.sample([0, 1], None, sampling, condition)
    for tasks in ((), ("prediction", "prediction"), ("inpainting",)):
        with pytest.raises(ConfigError, match="model.tasks"):
            build(tasks)


def test_the_readme_tells_every_task():
    text = (Path(__file__).parents[3] / "baselines" / "vdt" / "README.md").read_text()
    assert all(f"`{task}`" in text for task in EVERY)
