"""MCVD as a method: what its loss is made from, how blocks are chained, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lavita.baselines.mcvd.module import Config, Method
from lavita.codecs.base import PixelCodec
from lavita.config.compose import load_yaml
from lavita.config.plan import make_plan
from lavita.config.schema import ConfigError, SamplingConfig, TrainConfig, read
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.costs import counted
from lavita.methods import base
from lavita.methods.base import MethodContext
from lavita.methods.build import build_method, empty_codec

TRAIN = TrainConfig(2, 1e-3, 0.0, 0.9, 0.999, 0, 0.999, None, 1.0, 0, 0.1)
SAMPLING = SamplingConfig("ddpm", "4", 0.0, 1.0, None, True, 2, "generation", 1, "32-true")
TINY = dict(depth=1, width=8, num_heads=1, multiples=[1, 2], attention=[4], frames=2, past=1, spatin_channels=4)


def method(num_frames: int = 6, classes: int | None = None, **changes) -> Method:
    torch.manual_seed(0)
    config = read(Config, load_yaml("methods", "mcvd")["model"] | TINY | changes, "model")
    return Method(MethodContext(num_frames, 8, classes, PixelCodec(), TRAIN, 0), config)


class Recorder(nn.Module):
    """Stands in for the network: keeps what it is given, and predicts a part of it."""

    def __init__(self, of_x: float = 0.3, of_given: float = 0.0) -> None:
        super().__init__()
        self.factors, self.calls = (of_x, of_given), []

    def forward(self, x: Tensor, given: Tensor, label: Tensor, classes=None, seeds=None) -> Tensor:
        self.calls.append((x.clone(), given.clone(), label.clone(), classes, seeds))
        of_x, of_given = self.factors
        return of_x * x + of_given * given.mean(dim=1, keepdim=True)


def with_recorder(one: Method, **factors) -> tuple[Method, Recorder]:
    one.network = Recorder(**factors)
    return one, one.network


def batch(frames: int = 6, clips: int = 2) -> dict[str, Tensor]:
    video = torch.randn(clips, frames, 3, 8, 8, generator=torch.Generator().manual_seed(1)).tanh()
    return {"video": video, "label": torch.full((clips,), -1), "clip_index": torch.arange(clips)}


def alphas() -> np.ndarray:
    """Products of 1 - beta from the cleanest step on, by label: 0 is the noisiest."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[::-1]


def test_the_loss_is_half_the_sum_of_squares_over_both_windows_of_a_clip():
    one, seen = with_recorder(method(past_mask_probability=0.0))
    given = batch()
    parts = one.loss(given, SampleRNG([3, 4]))
    # The draws again, in the order in which the loss asks for them.
    rng = SampleRNG([3, 4])
    labels = torch.stack([rng.integers(1000), rng.integers(1000)], dim=1)
    [rng.uniform() for _ in range(2)]
    [rng.integers(2**32) for _ in range(2)]
    noise = rng.normal((2, 6, 8, 8)).double().numpy()
    video = given["video"].double().numpy()
    for k in range(2):
        wanted = 0.0
        for window in range(2):
            block = video[k, 3 * window + 1 : 3 * window + 3].reshape(6, 8, 8)
            a = alphas()[int(labels[k, window])]
            x = np.sqrt(a) * block + np.sqrt(1 - a) * noise[k, window]
            wanted += 0.5 * ((noise[k, window] - 0.3 * x) ** 2).sum() / 2
        assert float(parts["loss"][k]) == pytest.approx(wanted, rel=1e-5)  # float32 sums of 384 squares
        assert float(parts["mse"][k]) == pytest.approx(wanted * 2 / 384, rel=1e-5)
    ((_, past, label, _, _),) = seen.calls
    assert torch.equal(label, labels.flatten())
    assert torch.equal(past, given["video"][:, [0, 3]].flatten(0, 1))


def test_the_past_of_an_example_is_grey_with_the_probability_said():
    one, seen = with_recorder(method(past_mask_probability=0.25))
    clips = 400
    one.loss(batch(clips=clips), SampleRNG(range(clips)))
    masked = (seen.calls[0][1] == 0).flatten(1).all(dim=1)
    whole = (seen.calls[0][1] != 0).flatten(1).all(dim=1)
    assert bool((masked | whole).all())
    # 800 independent draws: five deviations.
    assert float(masked.float().mean()) == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 800) ** 0.5)
    # Windows of one clip are masked on their own.
    pairs = masked.view(clips, 2)
    assert bool((pairs[:, 0] != pairs[:, 1]).any())


@pytest.mark.parametrize(("frames", "examples"), [(3, 1), (6, 2), (8, 2), (16, 5)])
def test_windows_do_not_overlap_and_every_frame_has_its_part(frames, examples):
    one = method(frames)
    assert one.examples_per_clip == examples
    video = torch.arange(frames, dtype=torch.float32).view(1, frames, 1, 1, 1).expand(64, frames, 3, 8, 8)
    cut = one.windows(video, SampleRNG(range(64)))[..., 0, 0, 0].flatten(1)  # (64, n window)
    assert bool((cut.diff(dim=1) == 1).all()) and cut.shape[1] == 3 * examples
    assert set(cut.flatten().tolist()) == set(range(frames))


def test_dropout_is_of_training_alone_and_its_seeds_do_not_move_other_draws():
    one, seen = with_recorder(method())
    one.train().loss(batch(), SampleRNG([3, 4]))
    one.eval().loss(batch(), SampleRNG([3, 4]))
    (x, _, _, _, seeds), (again, _, _, _, none) = seen.calls
    assert none is None and torch.equal(x, again)
    assert seeds.shape == (4,) and len(set(seeds.tolist())) == 4 and int(seeds.max()) < 2**32
    without, plain = with_recorder(method(dropout=0.0))
    without.train().loss(batch(), SampleRNG([3, 4]))
    assert plain.calls[0][4] is None


def test_the_cut_of_the_summed_losss_gradient_is_active():
    one = method()
    one.loss(batch(), SampleRNG([3, 4]))["loss"].mean().backward()
    before = torch.cat([p.grad.flatten() for p in one.trained_parameters()]).norm()
    one.configure_gradient_clipping(None)
    after = torch.cat([p.grad.flatten() for p in one.trained_parameters()]).norm()
    assert float(before) > 10 and float(after) == pytest.approx(1, abs=1e-4)


def test_a_class_is_that_of_the_whole_clip():
    one, seen = with_recorder(method(classes=3))
    one.loss(batch() | {"label": torch.tensor([0, 2])}, SampleRNG([3, 4]))
    classes = seen.calls[0][3].view(2, 2)
    assert torch.equal(classes[:, 0], classes[:, 1])
    assert bool(((classes[:, 0] == torch.tensor([0, 2])) | (classes[:, 0] == 3)).all())


def blocks_of(calls: list, denoise: bool, steps: int = 4) -> list[list]:
    """The calls of the network, block by block."""
    size = steps + denoise
    assert len(calls) % size == 0
    return [calls[start : start + size] for start in range(0, len(calls), size)]


@pytest.mark.parametrize("denoise", [True, False])
def test_blocks_are_chained_by_their_last_frames(denoise):
    one, seen = with_recorder(method(5, past=3, final_denoising=denoise), of_given=0.2)
    clips = one.sample([0, 1], None, SAMPLING)
    assert clips.shape == (2, 5, 3, 8, 8) and float(clips.abs().max()) <= 1
    cut = blocks_of(seen.calls, denoise)
    assert len(cut) == 3 and len(seen.calls) == one.evaluations(SAMPLING)
    labels = [int(call[2][0]) for call in cut[0]]
    assert labels == [0, 250, 500, 750] + ([3] if denoise else [])  # the place of the last step, as released
    pasts = [block[0][1].unflatten(1, (3, 3)) for block in cut]
    assert not pasts[0].any()
    # A block of two shifts a past of three; values beyond [-1, 1] are clamped in the clip alone.
    assert not pasts[1][:, 0].any() and torch.equal(pasts[1][:, 1:].clamp(-1, 1), clips[:, :2])
    assert torch.equal(pasts[2].clamp(-1, 1), clips[:, 1:4])
    for block in cut:
        assert all(torch.equal(call[1], block[0][1]) for call in block)


def test_a_continuation_begins_with_the_last_frames_of_a_real_clip():
    one, seen = with_recorder(method(), of_given=0.2)
    real = batch()["video"]
    continued = one.sample([0, 1], None, replace(SAMPLING, task="continuation"), real)
    assert torch.equal(seen.calls[0][1], real[:, -1:].flatten(1, 2))
    assert not torch.equal(continued, one.sample([0, 1], None, SAMPLING))
    with pytest.raises(ValueError, match="continuation needs the real clip"):
        one.sample([0], None, replace(SAMPLING, task="continuation"))


def test_a_longer_video_goes_on_block_by_block():
    one = method(5)
    once = one.eval().sample([0, 1], None, SAMPLING)
    twice = one.sample([0, 1], None, replace(SAMPLING, num_clips_chained=2))
    assert twice.shape[1] == 10 and torch.equal(twice[:, :5], once)
    assert not torch.equal(twice[:, 5:], once)


def test_guidance_moves_away_from_the_null_class():
    one = method(classes=3).eval()
    for parameter in one.network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    x, given, label = torch.randn(2, 6, 8, 8), torch.zeros(2, 3, 8, 8), torch.tensor([5, 900])
    wanted, null = torch.tensor([0, 2]), torch.tensor([3, 3])
    conditional, unconditional = (one.network(x, given, label, y) for y in (wanted, null))
    got = one.predictor(given, wanted, 3.0)(x, label)
    torch.testing.assert_close(got, unconditional + 3 * (conditional - unconditional))
    assert torch.equal(one.predictor(given, wanted, 1.0)(x, label), conditional)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(sampler="dpm-solver++"), "set sampling.sampler=ddpm or ddim"),
        (dict(steps="10,5"), "one whole number of steps"),
        (dict(steps="1001"), "got 1001, allowed 1 to 1000"),
        (dict(guidance=2.0), "an unconditional suite allows 1 only"),
        (dict(task="interpolation"), "allowed for mcvd: generation, continuation"),
    ],
)
def test_what_sampling_does_not_offer_is_refused(changes, words):
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        method().sample([0], None, replace(SAMPLING, **changes))


def test_clips_that_are_too_short_and_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="data.frames: got 2, wanted at least 3 for mcvd"):
        method(2)
    with pytest.raises(ConfigError, match="heads that divide the width"):
        method(num_heads=3)
    with pytest.raises(ConfigError, match="model.conditioning: got 'film'"):
        method(conditioning="film")
    with pytest.raises(ConfigError, match="allowed 0 to below 1"):
        method(dropout=1.0)


def test_the_published_row_is_trained_at_its_own_size():
    """564,990,060 parameters, and 739,438,572 with SPATIN, as the published runs have them; two examples a clip."""
    for overrides, count in (([], 564_990_060), (["model.conditioning=spatin"], 739_438_572)):
        (experiment,) = make_plan("ucf101", "paper", ["mcvd"], [0], overrides)
        with torch.device("meta"):
            one = build_method(experiment, None, empty_codec(experiment.codec))
        assert sum(parameter.numel() for parameter in one.parameters()) == count
        assert one.examples_per_clip * experiment.train.batch_clips == 32 and one.clip_cost == 1
        assert one.evaluations(experiment.sampling) == 4 * 101


def test_a_block_may_begin_from_the_frames_before_it():
    """Labels 0, 100, ..., 900: from 450 on there are five, and the first state is the past with that label's noise."""
    one, seen = with_recorder(method(4, frames=1, past=2, restart_label=450), of_given=0.2)
    sampling = replace(SAMPLING, steps="10")
    clips = one.sample([0, 1], None, sampling)
    assert len(seen.calls) == one.evaluations(sampling) == 11 + 3 * 6
    first, second = seen.calls[:11], seen.calls[11:17]
    assert [int(call[2][0]) for call in first] == [*range(0, 1000, 100), 9]
    assert [int(call[2][0]) for call in second] == [500, 600, 700, 800, 900, 9]
    # A clip's draws again: ten of the first block (the last step adds none), then the one that the second starts with.
    rng = SampleRNG([0, 1])
    [rng.normal((3, 8, 8)) for _ in range(10)]
    noise, a = rng.normal((3, 8, 8)), alphas()[500]
    torch.testing.assert_close(second[0][0].clamp(-9, 9), float(a**0.5) * clips[:, 0] + float((1 - a) ** 0.5) * noise)
    again, recorder = with_recorder(method(4, frames=1, past=2, restart_label=450), of_given=0.2)
    again.sample([0, 1], None, replace(sampling, task="continuation"), batch(4)["video"])
    assert [int(call[2][0]) for call in recorder.calls[:6]] == [500, 600, 700, 800, 900, 9]


def test_a_block_can_not_begin_from_fewer_frames_than_it_has():
    with pytest.raises(ConfigError, match="restart_label: got 450, .* a past of at least the 2 frames"):
        method(restart_label=450)
    with pytest.raises(ConfigError, match="restart_label: got 1000, allowed 0 to 999"):
        method(past=2, restart_label=1000)


@pytest.mark.parametrize(
    ("row", "tier", "overrides"),
    [
        ("UCF101 generation, width 288 (tier paper)", "paper", []),
        ("the same with SPATIN 192", "paper", ["model.conditioning=spatin"]),
        ("`ucf101.yml`, width 192", "paper", ["model.width=192", "model.num_heads=2"]),
        ("tier small, 64 x 64", "small", []),
        ("tier demo, 32 x 32, blocks of 1 after 2", "demo", ["data.root=/videos"]),
        ("tier demo, synthetic videos", "demo", []),
    ],
)
def test_the_card_has_the_sizes(row, tier, overrides):
    card = (Path(base.__file__).parents[1] / "baselines" / "mcvd" / "README.md").read_text(encoding="utf-8")
    (cells,) = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith(f"| {row} |")]
    (experiment,) = make_plan("ucf101", tier, ["mcvd"], [0], overrides)
    with torch.device("meta"):
        one = build_method(experiment, None, empty_codec(experiment.codec))
        size = one.network.config
        inputs = [torch.zeros(1, c, *one.block_shape[1:]) for c in (size.block_channels, size.given_channels)]
        label = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        flops = counted(lambda: one.network(*inputs, label))
    assert int(cells[1].replace(",", "")) == sum(parameter.numel() for parameter in one.parameters())
    assert float(cells[2]) == pytest.approx(flops / 1e9, abs=0.05 if flops > 1e9 else 0.005)
