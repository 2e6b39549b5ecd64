"""Shift and scale of latents against numpy: one shift for all values of a latent, or one each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.methods.latent_scale import LatentScale
from lavita.training import distributed

SHAPE = (3, 5)


def latents() -> torch.Tensor:
    """(24, 3, 5): every value has a mean of its own, from -4 to 4, and they vary by 0.5."""
    noise = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(0))
    return torch.linspace(-4, 4, 15).view(SHAPE) + 0.5 * noise


@pytest.mark.parametrize("shape, axes", [((), (0, 1, 2)), (SHAPE, (0,))])
def test_latents_get_mean_0_and_variance_1(shape, axes):
    z, scale = latents(), LatentScale(shape)
    scale.measure(z.split(7))
    values = z.double().numpy()
    shift = -values.mean(axis=axes, keepdims=True)
    wanted = (values + shift) / np.std(values + shift)
    # Shift and scale are float32, so are latents of magnitude 5 to 10: a few roundings of 2^-24 relative to that.
    np.testing.assert_allclose(scale.apply_to(z), wanted, atol=8 * 10 * 2**-24)
    assert float(scale.bound) == pytest.approx(np.abs(wanted).max(), rel=1e-6)
    np.testing.assert_allclose(scale.undo(scale.apply_to(z)), values, atol=8 * 10 * 2**-24)


def test_one_shift_a_value_leaves_less_to_the_scale():
    """Of the whole latents, nearly all variance is between values: 0.5 is what is left where each has its mean."""
    both = [LatentScale(shape) for shape in ((), SHAPE)]
    for scale in both:
        scale.measure([latents()])
    together, apart = (1 / float(scale.scale) for scale in both)
    assert apart == pytest.approx(0.5, rel=4 / (2 * 24 * 15) ** 0.5)  # four standard errors of a deviation
    assert together > 4 * apart


def test_until_it_is_measured_a_latent_stays_as_it_is():
    scale = LatentScale(SHAPE, bound=1.0)
    assert torch.equal(scale.apply_to(latents()), latents()) and float(scale.bound) == 1
    assert LatentScale().bound.isinf()


def test_shapes_alone_are_not_shared_with_other_processes(monkeypatch):
    """One process of several counts operations on the meta device; the others do not know of it."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(
        distributed.distributed, "all_reduce", lambda *_, **__: pytest.fail("asked the other processes")
    )
    scale = LatentScale(SHAPE).to("meta")
    scale.measure([torch.empty(4, *SHAPE, device="meta")])
    with pytest.raises(pytest.fail.Exception):
        LatentScale(SHAPE).measure([latents()])
