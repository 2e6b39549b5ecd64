"""What discriminators share: the hinge loss and the weights they start from, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lavita.methods.discriminators import BatchNorm2d, hinge_loss, share_statistics, start_small


def test_hinge_by_hand():
    real = torch.tensor([[2.0, 0.0], [0.5, -1.0]])[:, None]
    fake = torch.tensor([[-2.0, 0.0], [1.0, -0.5]])[:, None]
    # Means over patches of max(0, 1 - real), max(0, 1 + fake), halved: (0.5 + 0.5) / 2, (1.25 + 1.25) / 2.
    assert hinge_loss(real, fake).tolist() == [0.5, 1.25]


def test_weights_start_small_and_norms_near_one():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 64, 4), BatchNorm2d(4096)).apply(start_small)
    # Standard deviations of 16,384 and of 4,096 draws: within four standard errors, 1 / sqrt(2 n), of 0.02.
    assert float(network[0].weight.std()) == pytest.approx(0.02, rel=4 / (2 * 16384) ** 0.5)
    assert float(network[1].weight.std()) == pytest.approx(0.02, rel=4 / (2 * 4096) ** 0.5)
    assert float(network[1].weight.mean()) == pytest.approx(1, abs=4 * 0.02 / 4096**0.5)
    assert not network[1].bias.any()


def test_statistics_are_shared_only_while_it_is_said():
    network = nn.Sequential(BatchNorm2d(2), BatchNorm2d(2))
    share_statistics(network, True)
    assert [layer.shared for layer in network] == [True, True] and not BatchNorm2d.shared
    share_statistics(network, False)
    assert [layer.shared for layer in network] == [False, False]
