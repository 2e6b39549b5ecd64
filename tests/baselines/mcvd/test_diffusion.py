"""MCVD's sampler in closed form (its recorded cases are in tests/parity)."""

from __future__ import annotations

import pytest
import torch

from lavita.baselines.mcvd.diffusion import following_past, masked, sample_block, sampling_labels

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS = torch.cumprod(1 - BETAS, 0).flip(0)  # by label


def noises(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(2, 3, 4, 4, generator=generator)


@pytest.mark.parametrize(
    ("count", "wanted"), [(100, list(range(0, 1000, 10))), (3, [0, 333, 666]), (1000, list(range(1000)))]
)
def test_labels_have_a_constant_stride_from_the_noisiest(count, wanted):
    assert sampling_labels(count) == wanted


def test_a_network_that_knows_the_block_finds_it():
    """Where the noise is told exactly, every sampler ends at the block, and the last call takes off nothing."""
    block = torch.tanh(noises(5)())

    def exact(x, label):
        a = ALPHAS[label].float().view(-1, 1, 1, 1)
        return (x - a.sqrt() * block) / (1 - a).sqrt()

    for sampler, eta in (("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0)):
        found = sample_block(exact, noises(), 50, sampler, eta, denoise=False)
        torch.testing.assert_close(found, block, rtol=0, atol=1e-4)  # errors of float32 grow by up to 1 / sqrt(a) = 158


def test_clipping_holds_every_predicted_block():
    states = []
    sample_block(lambda x, label: -3 * x, noises(), 10, clip=True, denoise=False, watch=lambda i, x: states.append(x))
    assert float(states[-1].abs().max()) <= 1
    free = sample_block(lambda x, label: -3 * x, noises(), 10, clip=False, denoise=False)
    assert float(free.abs().max()) > 1


def test_the_last_call_takes_off_the_noise_of_the_last_label_but_names_its_place():
    asked = []

    def network(x, label):
        asked.append(int(label[0]))
        return 0.1 * x

    without = sample_block(network, noises(), 20, denoise=False)
    count = len(asked)
    found = sample_block(network, noises(), 20, denoise=True)
    assert count == 20 and asked[count:] == [*asked[:count], 19]
    torch.testing.assert_close(found, without * float(1 - 0.1 * (1 - ALPHAS[950]).sqrt()))


def test_noise_is_drawn_once_to_start_and_once_a_step_but_the_last():
    def count(sampler: str, eta: float) -> int:
        drawn, draw = [], noises()
        sample_block(lambda x, label: 0.1 * x, lambda: drawn.append(1) or draw(), 10, sampler, eta)
        return len(drawn)

    assert (count("ddpm", 0.0), count("ddim", 1.0), count("ddim", 0.0)) == (10, 10, 1)


def test_the_past_of_the_next_block():
    frames = torch.arange(9.0).view(1, 9, 1, 1, 1)
    past, block = frames[:, :3], frames[:, 3:5]
    assert following_past(past, block).flatten().tolist() == [2, 3, 4]
    assert following_past(past, frames[:, 3:]).flatten().tolist() == [6, 7, 8]


def test_a_masked_past_is_grey_as_a_whole():
    frames = torch.ones(3, 2, 3, 4, 4)
    given, kept = masked(frames, torch.tensor([0.5, 0.51, 0.2]), 0.5)
    assert kept.tolist() == [False, True, False]  # the probability itself masks, as released
    assert [bool(clip.any()) for clip in given] == [False, True, False]
