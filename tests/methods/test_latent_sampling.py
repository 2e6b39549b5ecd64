"""A sampled clip depends on its seed and class, not on its batch: methods on latents, all samplers, formula weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.config.compose import load_yaml
from lavita.config.registry import load_implementation
from lavita.config.schema import SamplingConfig, TrainConfig, read
from lavita.data.clips import to_uint8
from lavita.diffusion.schedule import Schedule
from lavita.methods import latent_diffusion
from lavita.methods.base import MethodContext
from lavita.methods.latent_diffusion import LatentDiffusion
from lavita.parity.cases import fill_by_formula

TRAIN = TrainConfig(2, 1e-4, 0.0, 0.9, 0.999, 0, 0.999, None, None, 0, 0.1)
LAVITA = {"size": "XS", "depth": 4, "width": 32, "num_heads": 4}
XS = {"size": "XS", "patch_size": 4}
METHODS = {
    **{f"lavita-v{variant}": LAVITA for variant in (1, 2, 3, 4)},
    "dit": XS | {"mode": "joint"},
    "vdt": XS,
}
SAMPLERS = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpm-solver++", 0.0)]
SAMPLING = SamplingConfig("ddpm", "5", 0.0, 2.0, None, True, 4, "generation", 1, "32-true")
FRAMES, SIDE = 4, 16
SEEDS, CLASSES = [3, 11, 4], torch.tensor([0, 2, 1])


class Anchored(torch.nn.Module):
    """A network whose noise is a fifth of its own and the best guess for data N(0, 1), sqrt(1 - alpha_bar) x.

    Formula weights alone predict little noise, so that clips would end black and white, where no rounding is seen.
    """

    def __init__(self, network: torch.nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        eps, v = self.network(x, t, y).chunk(2, dim=2)
        guess = self.schedule.at("sqrt_noise_variance", t, x) * x
        return torch.cat([guess + 0.2 * eps, v], dim=2)


def build(name: str) -> LatentDiffusion:
    """A method with three classes on 4 frames of 16 x 16 pixels, with (anchored) formula weights."""
    configuration = load_yaml("methods", name)
    implementation = load_implementation(configuration["implementation"])
    config = read(implementation.Config, configuration["model"] | METHODS[name], "model")
    method = implementation.Method(MethodContext(FRAMES, SIDE, 3, PixelCodec(), TRAIN, 0), config)
    fill_by_formula(method.network)
    method.network = Anchored(method.network, method.schedule)
    return method.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_two_forward_passes_are_equal_bit_for_bit(name):
    network = build(name).network.network
    x = torch.randn(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([3, 700]), torch.tensor([0, 3])
    out = network(x, t, y)
    assert out.any() and torch.equal(out, network(x, t, y))


def sampled(method: LatentDiffusion, seeds: list[int], classes: torch.Tensor, sampling: SamplingConfig, patch):
    """Clips uint8 (n, F, H, W, 3), and all noise that went into them, (1 + draws, n, F, 3, H, W)."""
    noise, loop = [], latent_diffusion.sample_latent

    def watched(sampler, steps, denoiser, schedule, x_T, step_noise, *rest):
        noise.append(x_T)
        return loop(sampler, steps, denoiser, schedule, x_T, lambda i: noise.append(step_noise(i)) or noise[-1], *rest)

    with patch.context() as patched:
        patched.setattr(latent_diffusion, "sample_latent", watched)
        clips = method.sample(seeds, classes, sampling)
    return torch.stack([torch.from_numpy(to_uint8(clip)) for clip in clips]).int(), torch.stack(noise)


@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_clip_alone_is_the_clip_in_a_batch(name, sampler, eta, monkeypatch):
    method, sampling = build(name), dataclasses.replace(SAMPLING, sampler=sampler, eta=eta)
    together, noise = sampled(method, SEEDS, CLASSES, sampling, monkeypatch)
    assert len(noise) == (6 if sampler == "ddpm" or eta else 1)
    away = torch.zeros_like(together)
    for k, seed in enumerate(SEEDS):
        alone, own = sampled(method, [seed], CLASSES[k : k + 1], sampling, monkeypatch)
        assert torch.equal(own[:, 0], noise[:, k])
        away[k] = (alone[0] - together[k]).abs()
    # Another batch size takes other matrix kernels: a value on the edge between two grey levels may fall to the other.
    assert away.max() <= 1 and float((away > 0).float().mean()) <= 1e-3
    # Neither all black and white, where nothing could be seen, nor the same clip three times.
    assert float(((together > 0) & (together < 255)).float().mean()) > 0.2
    assert float((together[0] != together[1]).float().mean()) > 0.5


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
def test_samplers_differ_and_repeat(sampler):
    method, sampling = build("lavita-v1"), dataclasses.replace(SAMPLING, sampler=sampler)
    clips = method.sample([7], CLASSES[:1], sampling)
    assert torch.equal(clips, method.sample([7], CLASSES[:1], sampling))
    for other in {"ddpm", "ddim", "dpm-solver++"} - {sampler}:
        assert not torch.allclose(
            clips, method.sample([7], CLASSES[:1], dataclasses.replace(sampling, sampler=other)), atol=1e-2
        )


def test_respaced_steps_are_refused_with_dpm_solver():
    with pytest.raises(ValueError, match=r"sampling.steps: got 'ddim50', allowed one whole number"):
        build("lavita-v1").sample(
            [7], CLASSES[:1], dataclasses.replace(SAMPLING, sampler="dpm-solver++", steps="ddim50")
        )
