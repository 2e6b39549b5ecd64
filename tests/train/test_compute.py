"""How a cell uses its machine must not change what it learns: accumulated batches and recomputed blocks."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from lavita.bench.plan import make_plan
from lavita.codec.pixels import PixelCodec
from lavita.config import ComputeConfig
from lavita.runner.build import build_method
from lavita.train.fit import fit_stage
from lavita.train.recompute import recomputed_blocks

PLAIN = ComputeConfig("32-true", threads=1, accumulate_batches=1, checkpoint_activations=False)


def method():
    """A small LAVITA in pixels, 4 frames of 8 x 8."""
    overrides = ["model.patch_size=4", "model.depth=2", "model.width=16", "model.num_heads=2"]
    (cell,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], overrides)
    data = replace(cell.data, frames=4, resolution=8)
    return build_method(
        replace(cell, data=data, train=replace(cell.train, batch_clips=4, warmup_clips=0)), None, PixelCodec()
    )


def batch(first: int, count: int) -> dict[str, torch.Tensor]:
    video = torch.rand(count, 4, 3, 8, 8, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return {"video": video, "label": torch.full((count,), -1), "clip_index": first + torch.arange(count)}


def trained(tmp_path, compute: ComputeConfig) -> tuple[torch.nn.Module, list]:
    """24 clips in batches of 4: six updates, and the held-out losses."""
    whole = batch(0, 24)
    clips = [{key: value[i] for key, value in whole.items()} for i in range(24)]
    module = method()
    loader = DataLoader(clips, batch_size=4 // compute.accumulate_batches)
    losses = fit_stage(module, loader, 24, tmp_path, batch(99, 4), lambda *_: None, compute)
    return module, losses


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), PLAIN)


def test_recomputed_blocks_give_the_same_weights_bit_for_bit(plain, tmp_path):
    module, losses = trained(tmp_path, replace(PLAIN, checkpoint_activations=True))
    assert losses == plain[1]
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain[0].parameters(), strict=True))


def test_an_accumulated_batch_is_one_update(plain, tmp_path):
    module, losses = trained(tmp_path, replace(PLAIN, accumulate_batches=2))
    assert [clips for clips, _ in losses] == [clips for clips, _ in plain[1]]
    # The mean of two halves is the mean of all up to float32 rounding of a loss of about 1: 24 x 2^-24.
    for (_, ours), (_, theirs) in zip(losses, plain[1], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6)
    assert losses[0][1] - losses[-1][1] > 0.01  # a twin that updates after every half would be elsewhere


def test_blocks_run_again_in_the_backward_pass_and_are_left_as_they_were():
    module, calls = method(), []
    for block in module.network.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    from lavita.diffusion.draws import ClipDraws

    with recomputed_blocks(module, True) as count:
        assert count == len(module.network.blocks) == 2
        module.loss(batch(0, 2), ClipDraws([0, 1]))["loss"].mean().backward()
    assert all("forward" not in vars(block) for block in module.network.blocks)
    with recomputed_blocks(module, False) as count:
        assert count == 0
