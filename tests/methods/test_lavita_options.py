"""Options of LAVITA: clip embedding, conditioning, time positions, classes; from formula weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.nn.blocks import SelfAttention
from lavita.nn.embeddings import TimestepFeatures, rotary_table, rotate, sincos_1d, sincos_2d
from lavita.parity.cases import fill_by_formula, z


def build(variant: int = 1, depth: int = 2, width: int = 16, num_heads: int = 4, **options) -> Lavita:
    """A small network with formula weights, 4 frames of 4 channels at 4 x 4."""
    network = Lavita(LavitaConfig(variant, depth, width, num_heads, 2, 4, 4, 4, **options))
    fill_by_formula(network)
    return network.eval()


def clip(name: str = "options/x") -> torch.Tensor:
    """A clip of latents, (2, 4, 4, 4, 4)."""
    return torch.from_numpy(z(name, (2, 4, 4, 4, 4)))


OPTIONS = [
    {"variant": variant, "embedding": embedding, "conditioning": conditioning, "time_positions": positions}
    for variant in (1, 2, 3, 4)
    for embedding in ("uniform", "compression")
    for conditioning in (("s-adaln", "all-tokens") if variant < 3 else ("s-adaln",))
    for positions in ("sincos", "rotary")
]


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_combination_runs_and_uses_what_it_is_given(options):
    network, x, t = build(**options, num_classes=3), clip(), torch.tensor([3, 700])
    y = torch.tensor([0, 3])
    out = network(x, t, y)
    assert out.shape == (2, 4, 8, 4, 4) and torch.isfinite(out).all()
    assert torch.equal(out, network(x, t, y))
    assert not torch.allclose(out, network(x, t + 100, y))
    assert not torch.allclose(out[0], network(x, t, torch.tensor([1, 3]))[0])
    # Time has an order: the frames backwards are not the output backwards.
    assert not torch.allclose(network(x.flip(1), t, y), out.flip(1), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"variant": 3}, {"conditioning": "all-tokens"}], ids=str)
def test_a_clip_does_not_depend_on_its_batch(options):
    network, x, t = build(**options), clip(), torch.tensor([3, 700])
    alone = network(x[1:], t[1:])
    # Other batch sizes may take other matrix kernels: float32 rounding of sums of 64 products, not more.
    assert torch.allclose(network(x, t)[1:], alone, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("num_classes", "count"), [(None, 1), (3, 2)])
def test_all_tokens_are_time_and_class_apart(num_classes, count):
    network, seen = build(conditioning="all-tokens", num_classes=num_classes), []
    for block in network.blocks:
        block.attn.register_forward_hook(lambda module, inputs, y: seen.append(inputs[0].shape))
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    t, y = torch.tensor([3, 700]), None if num_classes is None else torch.tensor([0, 3])
    network(clip(), t, y)
    tokens, spatial, _, temporal = seen
    wanted = [network.t_embedder(t)] + ([] if y is None else [network.y_embedder(y)])
    assert torch.equal(tokens, torch.stack(wanted, dim=1)[:, None])  # (B, 1, K, D)
    # Two clips x 4 groups, each of 4 entries (positions, then frames) and the tokens in front.
    assert spatial == temporal == (8, 4 + count, 16)


@torch.no_grad()
def test_shared_tokens_are_averaged_and_images_keep_their_own():
    block = build(conditioning="all-tokens").blocks[0]
    x, tokens = torch.from_numpy(z("tokens/x", (2, 4, 3, 16))), torch.from_numpy(z("tokens/t", (2, 2, 2, 16)))
    out, kept = block(x, tokens)
    # Group by group: three that share the first set, and one with the second.
    parts = [block(x[:, [m]], tokens[:, [max(m - 2, 0)]]) for m in range(4)]
    # float32 rounding of sums of 64 products below 1, where a batch of another size takes another kernel.
    assert torch.allclose(out, torch.cat([part[0] for part in parts], dim=1), atol=1e-5, rtol=0)
    assert torch.allclose(kept[:, 0], torch.stack([part[1][:, 0] for part in parts[:3]]).mean(0), atol=1e-5, rtol=0)
    assert torch.allclose(kept[:, 1], parts[3][1][:, 0], atol=1e-5, rtol=0)


def test_rotary_attention_depends_on_distance_only():
    attention = SelfAttention(32, 2)
    fill_by_formula(attention)
    x = torch.from_numpy(z("rotary/x", (1, 5, 32)))
    cosine, sine = rotary_table(12, 16)
    with torch.no_grad():
        at = [attention(x, (cosine[s : s + 5], sine[s : s + 5])) for s in (0, 7)]
    # Angles up to 11 are held in float32: each is off by at most 5e-7, a score of 16 products by about 1e-5.
    assert torch.allclose(at[0], at[1], atol=1e-5, rtol=0)
    assert not torch.allclose(at[0], attention(x), atol=1e-3)


def test_rotary_turns_pairs_as_complex_numbers():
    x = z("rotary/pairs", (6, 8)).astype(np.float64)
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * np.outer(np.arange(6), frequencies))
    ours = rotate(torch.from_numpy(x).float(), rotary_table(6, 8)).numpy()
    # float32 products of values below 4.
    assert np.allclose(ours[:, 0::2], turned.real, atol=2e-6) and np.allclose(ours[:, 1::2], turned.imag, atol=2e-6)


def test_position_tables_by_their_formula():
    table = sincos_1d(np.arange(3.0), 4)
    assert np.allclose(table[2], [np.sin(2), np.sin(2 / 100), np.cos(2), np.cos(2 / 100)], atol=1e-15)
    grid = sincos_2d(3, 8).reshape(3, 3, 8)  # row, column
    assert np.array_equal(grid[1, 2, :4], sincos_1d(np.array([2.0]), 4)[0])  # the column comes first
    assert np.array_equal(grid[1, 2, 4:], sincos_1d(np.array([1.0]), 4)[0])
    features = TimestepFeatures(4)(torch.tensor([7]))[0].numpy()
    assert np.allclose(features, [np.cos(7), np.cos(0.07), np.sin(7), np.sin(0.07)], atol=1e-6)  # float32


def test_zero_start_predicts_zero_and_blocks_are_the_identity():
    torch.manual_seed(0)
    network = Lavita(LavitaConfig(1, 2, 16, 4, 2, 4, 4, 4))
    x = clip()
    assert not network(x, torch.tensor([3, 700])).any()
    tokens = torch.from_numpy(z("zero/x", (1, 4, 4, 16)))
    assert torch.equal(network.blocks[0](tokens, torch.ones(1, 1, 16)), tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": 5}, "variant"),
        ({"variant": 3, "conditioning": "all-tokens"}, "all-tokens"),
        ({"embedding": "compression", "tubelet_frames": 3}, "tubelet_frames"),
        ({"time_positions": "learned"}, "sincos, rotary"),
        ({"depth": 3}, "model.depth: variant 1 needs an even number"),
        ({"depth": 0}, "model.depth: got 0"),
        ({"width": 18, "num_heads": 2}, "model.width: got 18"),
        ({"num_heads": 3}, "model.num_heads: got 3, wanted a divisor of model.width=16"),
        ({"variant": 4, "width": 12, "num_heads": 3}, "model.num_heads: got 3, variant 4"),
        ({"width": 12, "num_heads": 4, "time_positions": "rotary"}, "model.num_heads: got 4 .* not 3"),
    ],
)
def test_options_that_do_not_exist_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="axis 1"):
        build()(clip()[:, :3], torch.tensor([3, 700]))
    with pytest.raises(ValueError, match="y is needed"):
        build(num_classes=3)(clip(), torch.tensor([3, 700]))
