"""Losses and steering of GANs, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lavita.methods.adversarial import (
    Adam,
    AdaptiveProbability,
    discriminator_loss,
    generator_loss,
    make_finite,
    r1_penalty,
)


def test_logistic_losses_by_hand():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])
    expected = [2 * math.log(2), math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))]
    assert discriminator_loss(real, fake).tolist() == pytest.approx(expected, rel=1e-6)
    assert generator_loss(fake).tolist() == pytest.approx([math.log(2), math.log1p(math.e)], rel=1e-6)


def test_the_penalty_of_a_quadratic_is_known_and_can_be_differentiated():
    # logit = a |x|^2 has gradient 2 a x, so the penalty is 4 a^2 |x|^2 and its derivative by a is 8 a |x|^2.
    x = torch.arange(12.0).view(2, 3, 2).requires_grad_()
    a = torch.tensor(0.5, requires_grad=True)
    logits = a * x.square().flatten(1).sum(1)
    per_clip = r1_penalty(logits, x)
    assert torch.equal(per_clip, x.square().flatten(1).sum(1))
    assert torch.equal(r1_penalty(logits, x, kept_axes=2), x.square().sum(2))
    per_clip.sum().backward()
    assert float(a.grad) == 4 * float(x.detach().square().sum())


def test_lazy_adam_is_that_of_the_papers_figures():
    lazy = Adam(0.0025, 0.0, 0.99).lazy(16)
    assert lazy.learning_rate == pytest.approx(0.0025 * 16 / 17)
    assert (lazy.beta1, lazy.beta2) == (0.0, pytest.approx(0.990586, abs=1e-6))


def test_the_probability_moves_with_the_sign_of_real_logits():
    steered = AdaptiveProbability(step=0.25, interval=2, most=0.5)
    seen = []
    # Mean signs of each pair of updates: 1, 1, 1 (held at the most), 0.6 (stays), 0, -1, -1 (held at 0).
    sure, torn, wrong = [1.0] * 5, [1.0, 1.0, 1.0, 1.0, -1.0], [-3.0] * 5
    for logits in [sure, sure, sure, torn, [0.0] * 5, wrong, wrong]:
        for _ in range(2):
            steered.observe(torch.tensor(logits))
            steered.end_update()
        seen.append(float(steered.p))
    assert seen == [0.25, 0.5, 0.5, 0.5, 0.25, 0.0, 0.0]


def test_the_probability_goes_on_from_its_buffers():
    first, second = AdaptiveProbability(0.25, interval=2), AdaptiveProbability(0.25, interval=2)
    first.observe(torch.ones(3))
    first.end_update()
    second.load_state_dict(first.state_dict())
    for steered in (first, second):
        steered.observe(-torch.ones(1))
        steered.end_update()  # the mean sign is 0.5
    assert float(first.p) == float(second.p) == 0.0
    assert int(second.updates) == 2


def test_gradients_are_made_finite():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    make_finite([parameter, nn.Parameter(torch.zeros(1))])
    assert parameter.grad.tolist() == [0.0, 1e5, -1e5, 2.0]
