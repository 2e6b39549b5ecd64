"""I3D: its padding and pooling in closed form, and the folded network against the plain one."""

import math

import pytest
import torch
from torch.nn import functional

from lavita.metrics.features.i3d import I3D, MIN_FRAMES, FoldedI3D, FoldedPool, Pool, pad_same, same_padding
from lavita.parity.adapters import fill_i3d


@pytest.fixture(scope="module")
def network():
    return fill_i3d(I3D())


@pytest.mark.parametrize("kernel, stride", [(1, 1), (2, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("size", [7, 8, 11, 16])
def test_padding_is_tensorflows_same(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    # TensorFlow's rule: as many windows as ceil(size / stride), the fewest zeros that allow that, the odd one after.
    windows = math.ceil(size / stride)
    assert before + after == max((windows - 1) * stride + kernel - size, 0)
    assert after - before in (0, 1)


@pytest.mark.parametrize(
    "pool", [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2),) * 2]
)
@pytest.mark.parametrize("frames, height, width", [(3, 7, 8), (4, 8, 8), (4, 8, 7)])
def test_pooling_without_written_zeros_is_the_padded_one(pool, frames, height, width):
    x = torch.randn(1, 5, frames, height, width, generator=torch.Generator().manual_seed(0)).relu()
    wanted = functional.max_pool3d(pad_same(x, *pool), *pool)
    assert wanted.shape[2:] == tuple(
        math.ceil(size / stride) for size, stride in zip(x.shape[2:], pool[1], strict=True)
    )
    assert torch.equal(Pool(*pool)(x), wanted)
    channels_last = x.permute(0, 2, 3, 4, 1).contiguous()
    assert torch.equal(FoldedPool(Pool(*pool))(channels_last).permute(0, 4, 1, 2, 3), wanted)


@torch.no_grad()
def test_folded_network_is_the_same_function_for_odd_numbers_of_frames(network):
    # 11 frames become 6, 3 and 2: every padding is another one than with 16, which the parity case covers.
    video = torch.rand(1, 3, 11, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted, found = network(video), FoldedI3D(network)(video)
    assert wanted.shape == (1, 400) and wanted.abs().max() > 0.1
    # Float32 sums of up to 1e4 products through 22 layers; measured 3.6e-7.
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_what_it_can_not_see_is_refused(network):
    for net in (network, FoldedI3D(network)):
        with pytest.raises(ValueError, match=f"got clips of 8 frames, wanted at least {MIN_FRAMES}"):
            net(torch.zeros(1, 3, 8, 224, 224))
        with pytest.raises(ValueError, match=r"\(H\) is 128, wanted 224"):
            net(torch.zeros(1, 3, 16, 128, 128))
