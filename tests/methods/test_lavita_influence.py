"""Which (frame, position) can influence which, in each variant: gradients from formula weights, float64."""

from __future__ import annotations

import pytest
import torch

from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.parity.cases import fill_by_formula, z

FRAMES, SIDE, WIDTH = 3, 4, 16
POSITIONS = (SIDE // 2) ** 2
FRAME, POSITION = 1, 2  # the token that is looked at


def network_of(variant: int, depth: int, active: list[int], **options) -> Lavita:
    """A network with formula weights, of whose blocks all but the active ones are the identity."""
    network = Lavita(LavitaConfig(variant, depth, WIDTH, 4, 2, FRAMES, 4, SIDE, **options))
    fill_by_formula(network)
    for index, block in enumerate(network.blocks):
        if index not in active:
            torch.nn.init.zeros_(block.adaLN_modulation[-1].weight)
            torch.nn.init.zeros_(block.adaLN_modulation[-1].bias)
    return network.double()


def influence(network: Lavita) -> torch.Tensor:
    """Which input tokens change the token at (FRAME, POSITION) after the blocks: bool (F, N)."""
    x = torch.from_numpy(z("influence/x", (1, FRAMES, POSITIONS, WIDTH))).double().requires_grad_()
    c = torch.from_numpy(z("influence/c", (1, 1, WIDTH))).double()
    y = network.run_blocks(x, c, c, num_video=FRAMES)  # (1, F, N, D)
    # A projection: the plain sum over channels could cancel.
    target = y[0, FRAME, POSITION] @ torch.from_numpy(z("influence/out", (WIDTH,))).double()
    (gradient,) = torch.autograd.grad(target, x)
    return gradient[0].abs().amax(dim=-1) > 0


def expected(reach: str) -> torch.Tensor:
    """bool (F, N): tokens of the same frame, of the same position, of either (cross), or all."""
    frame, position = torch.zeros(2, FRAMES, POSITIONS, dtype=torch.bool)
    frame[FRAME], position[:, POSITION] = True, True
    every = torch.ones_like(frame)
    return {"frame": frame, "position": position, "cross": frame | position, "all": every}[reach]


@pytest.mark.parametrize(
    ("variant", "depth", "active", "reach"),
    [
        (1, 2, [0], "frame"),
        (1, 2, [1], "position"),
        (1, 4, [0, 1], "all"),
        (1, 4, [2], "frame"),
        (2, 4, [0, 1], "frame"),
        (2, 4, [2, 3], "position"),
        (2, 4, [1, 2], "all"),
        (3, 2, [0], "all"),
        (4, 2, [0], "cross"),
        (4, 2, [0, 1], "all"),
    ],
)
def test_reach_of_the_active_blocks(variant, depth, active, reach):
    assert torch.equal(influence(network_of(variant, depth, active)), expected(reach))


@pytest.mark.parametrize(("silenced", "reach"), [("attn_time", "frame"), ("attn", "position")])
@pytest.mark.parametrize("variant", [3, 4])
def test_each_attention_of_a_factorised_block_has_its_own_axis(variant, silenced, reach):
    network = network_of(variant, 2, [0])
    torch.nn.init.zeros_(network.get_submodule(f"blocks.0.{silenced}.proj").weight)
    assert torch.equal(influence(network), expected(reach))


def test_variant_3_attends_over_space_before_time():
    # What the temporal attention reads has seen its own frame, and no other.
    network = network_of(3, 2, [0])
    x = torch.from_numpy(z("influence/x", (1, FRAMES, POSITIONS, WIDTH))).double().requires_grad_()
    c = torch.from_numpy(z("influence/c", (1, 1, WIDTH))).double()
    seen = {}
    network.blocks[0].norm_time.register_forward_hook(lambda m, inputs, y: seen.update(x=inputs[0]))
    network.run_blocks(x, c, c, num_video=FRAMES)
    (gradient,) = torch.autograd.grad(seen["x"][0, FRAME, POSITION].pow(2).sum(), x)
    assert torch.equal(gradient[0].abs().amax(dim=-1) > 0, expected("frame"))


@pytest.mark.parametrize(
    ("variant", "conditioning", "num_classes"),
    [
        *((variant, "s-adaln", classes) for variant in (1, 2, 3, 4) for classes in (None, 5)),
        *((variant, "all-tokens", classes) for variant in (1, 2) for classes in (None, 5)),
    ],
)
def test_images_and_video_of_joint_training_do_not_meet(variant, conditioning, num_classes):
    network = Lavita(LavitaConfig(variant, 4, WIDTH, 4, 2, FRAMES, 4, SIDE, num_classes, conditioning=conditioning))
    fill_by_formula(network)
    x = torch.from_numpy(z("joint/x", (2, FRAMES + 2, 4, SIDE, SIDE)))
    other_video, other_images = x.clone(), x.clone()
    other_video[:, :FRAMES] += 1
    other_images[:, FRAMES] += 1  # the first image; the second must not notice
    t, kinds = torch.tensor([5, 600]), {}
    if num_classes is not None:
        kinds = {"y": torch.tensor([0, 1]), "y_images": torch.tensor([[1, 2], [3, 5]])}
    with torch.no_grad():
        base, video, images = (network(v, t, num_images=2, **kinds) for v in (x, other_video, other_images))
    # Exact: no token of one part enters an operation with a token of the other.
    assert torch.equal(base[:, FRAMES:], video[:, FRAMES:])
    assert torch.equal(base[:, :FRAMES], images[:, :FRAMES])
    assert torch.equal(base[:, FRAMES + 1], images[:, FRAMES + 1])
    assert not torch.allclose(base[:, :FRAMES], video[:, :FRAMES])
    assert not torch.allclose(base[:, FRAMES], images[:, FRAMES])
