"""VDT: official sizes, what its block attends to, its label table."""

from __future__ import annotations

import pytest
import torch

from lavita.baselines.vdt.model import SIZES, VDT, VDTConfig
from lavita.parity.cases import fill_by_formula, z

T = torch.tensor([3, 700])


def build(num_classes: int = 1) -> VDT:
    """A small VDT with formula weights, 3 frames of 4 channels at 4 x 4."""
    network = VDT(VDTConfig(2, 16, 4, 2, 3, 4, 4, num_classes))
    fill_by_formula(network)
    return network.eval()


def clip() -> torch.Tensor:
    """Latents (2, 3, 4, 4, 4)."""
    return torch.from_numpy(z("vdt-test/x", (2, 3, 4, 4, 4)))


@pytest.mark.parametrize(("size", "count"), [("S", 41_361_056), ("L", 859_704_224)])
def test_official_parameter_counts(size, count):
    with torch.device("meta"):
        network = VDT(VDTConfig(*SIZES[size], patch_size=2, num_frames=16, channels=4, side=32))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


def reach(silenced: str | None) -> torch.Tensor:
    """Tokens that change the token at frame 1, position 2 after a block with a layer zeroed, bool (F, N)."""
    block = build().blocks[0].double()
    if silenced:
        for parameter in block.get_submodule(silenced).parameters():
            torch.nn.init.zeros_(parameter)
    x = torch.from_numpy(z("vdt-test/tokens", (1, 3, 4, 16))).double().requires_grad_()
    c = torch.from_numpy(z("vdt-test/c", (1, 1, 16))).double()
    target = block(x, c)[0, 1, 2] @ torch.from_numpy(z("vdt-test/out", (16,))).double()
    (gradient,) = torch.autograd.grad(target, x)
    return gradient[0].abs().amax(dim=-1) > 0


def test_what_a_block_attends_to():
    frame, position = torch.zeros(2, 3, 4, dtype=torch.bool)
    frame[1], position[:, 2] = True, True
    assert reach(None).all()
    assert torch.equal(reach("temporal_fc"), frame)
    # Without modulation shift, scale and gates are zero, and only the unmodulated temporal part is left.
    assert torch.equal(reach("adaLN_modulation"), position)


def test_temporal_attention_comes_first():
    block = build().blocks[0].double()
    seen = {}
    block.norm1.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0]))
    x = torch.from_numpy(z("vdt-test/tokens", (1, 3, 4, 16))).double().requires_grad_()
    block(x, torch.zeros(1, 1, 16, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(seen["x"][0, 1, 2].pow(2).sum(), x)
    position = torch.zeros(3, 4, dtype=torch.bool)
    position[:, 2] = True
    assert torch.equal(gradient[0].abs().amax(dim=-1) > 0, position)


@torch.no_grad()
def test_without_labels_row_zero_is_added():
    network = build(num_classes=5)
    assert network.y_embedder.embedding_table.weight.shape == (6, 16)
    unlabelled = network(clip(), T)
    assert torch.equal(unlabelled, network(clip(), T, torch.tensor([0, 0])))
    for label in (1, 5):
        assert not torch.allclose(unlabelled, network(clip(), T, torch.full((2,), label)))
    network.y_embedder.embedding_table.weight[0] += 1
    assert not torch.allclose(unlabelled, network(clip(), T))


@torch.no_grad()
def test_clips_are_independent_and_frames_have_an_order():
    network, x = build(), clip()
    out, other = network(x, T), x.clone()
    other[0] += 1
    # Exact: no operation takes entries of two clips.
    assert torch.equal(network(other, T)[1], out[1])
    assert not torch.allclose(network(x.flip(1), T).flip(1), out, atol=1e-3)
    with pytest.raises(ValueError, match="axis 1"):
        network(x[:, :2], T)


def test_output_starts_at_zero_but_temporal_attention_does_not():
    torch.manual_seed(0)
    network = VDT(VDTConfig(2, 16, 4, 2, 3, 4, 4))
    assert not network(clip(), T).any()
    tokens = torch.from_numpy(z("vdt-test/tokens", (1, 3, 4, 16)))
    assert not torch.allclose(network.blocks[0](tokens, torch.ones(1, 1, 16)), tokens)
