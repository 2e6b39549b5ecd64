"""The plain version that speed is measured against: the same function, and more FLOPs by the modulation alone."""

from __future__ import annotations

import pytest
import torch

from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.parity.cases import fill_by_formula, z
from lavita.speed.networks import Batch, PlainAttention, PlainLavita, TrainingStep, counted_flops, difference

DEPTH, WIDTH, FRAMES, SIDE, PATCH = 4, 16, 3, 4, 2
POSITIONS = (SIDE // PATCH) ** 2


def pair(variant: int, **options) -> tuple[Lavita, PlainLavita]:
    """Both networks with the same formula weights."""
    shape = LavitaConfig(variant, DEPTH, WIDTH, 4, PATCH, FRAMES, 4, SIDE, **options)
    ours, plain = Lavita(shape), PlainLavita(shape)
    fill_by_formula(ours)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("options", [{}, {"time_positions": "rotary"}, {"num_classes": 3}], ids=str)
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_same_function_and_same_gradients(variant, options):
    ours, plain = (network.double() for network in pair(variant, **options))
    x = torch.from_numpy(z("speed/x", (2, FRAMES, 4, SIDE, SIDE))).double()
    t, y = torch.tensor([3, 700]), torch.tensor([0, 2]) if "num_classes" in options else None
    outputs = [network(x, t, y) for network in (ours, plain)]
    # float64: sums of at most 64 products through 4 blocks, some 1e-16 each; the time features are float32 in both.
    assert torch.allclose(*outputs, rtol=0, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    grads = [{k: p.grad for k, p in n.named_parameters() if p.requires_grad} for n in (ours, plain)]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], rtol=1e-9, atol=1e-9), name


def test_difference_sees_another_function():
    ours, plain = pair(1)
    batch = Batch.drawn(ours.shape, 2, torch.device("cpu"))
    outputs = [TrainingStep(network, batch).output() for network in (ours, plain)]
    assert 0 < difference(*outputs) < 1e-5
    torch.nn.init.zeros_(plain.blocks[1].attn.proj.weight)
    assert difference(outputs[0], TrainingStep(plain, batch).output()) > 1e-3


def test_plain_attention_is_the_formula():
    attention = PlainAttention(8, 2).double()
    x = torch.from_numpy(z("speed/rows", (1, 5, 8))).double()
    q, k, v = attention.qkv(x)[0].view(5, 3, 2, 4).unbind(1)  # (N, heads, c) each
    heads = [torch.softmax(q[:, h] @ k[:, h].T / 2, dim=1) @ v[:, h] for h in range(2)]  # sqrt(c) = 2
    assert torch.allclose(attention(x)[0], attention.proj(torch.cat(heads, dim=1)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_flops_differ_by_the_modulation_alone(variant):
    ours, plain = pair(variant)
    batch = Batch.drawn(ours.shape, 1, torch.device("cpu"))
    counts = [counted_flops(TrainingStep(network, batch).loss) for network in (ours, plain)]
    # 6 vectors per block and 2 in the last layer, D^2 multiply-adds per vector, once per clip or once per frame
    # (variants 1 and 2: once per position in temporal blocks). Forward, gradients of weights and conditioning.
    more = {"s": 6 * (FRAMES - 1), "t": 6 * (POSITIONS - 1)}
    blocks = "st" * (DEPTH // 2) if variant in (1, 2) else "s" * DEPTH
    vectors = sum(more[kind] for kind in blocks) + 2 * (FRAMES - 1)
    assert counts[1] - counts[0] == 3 * 2 * WIDTH**2 * vectors


def test_flops_of_the_forward_pass_at_published_size():
    # Counted on the official code, modulation once per frame and position, and once per clip: 3785.93 and 3725.65 G.
    from torch.utils.flop_counter import FlopCounterMode

    for build, giga in ((Lavita, 3725.65), (PlainLavita, 3785.93)):
        with torch.device("meta"), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            network = build(LavitaConfig(1, 28, 1152, 16, 2, 16, 4, 32)).to("meta")
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.zeros(1, 16, 4, 32, 32), torch.zeros(1, dtype=torch.int64))
        assert round(counter.get_total_flops() / 1e9, 2) == giga


def test_what_the_plain_version_is_not_for():
    with pytest.raises(ValueError, match="all-tokens"):
        PlainLavita(LavitaConfig(1, 2, WIDTH, 4, PATCH, FRAMES, 4, SIDE, conditioning="all-tokens"))
    with pytest.raises(ValueError, match="no images"):
        pair(1)[1](torch.zeros(1, FRAMES + 1, 4, SIDE, SIDE), torch.zeros(1, dtype=torch.int64), num_images=1)


def test_a_step_changes_the_weights_and_leaves_no_gradient():
    network = pair(3)[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    TrainingStep(network, Batch.drawn(network.shape, 1, torch.device("cpu")))()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in network.parameters())
