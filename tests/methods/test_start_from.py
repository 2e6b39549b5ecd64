"""Starting from another network's weights: what is taken, what stays at its own start, what is refused."""

import pytest
import torch

from lavita.baselines.dit.model import DiT, DiTConfig
from lavita.methods.checkpoints import CheckpointError, start_from
from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.parity.cases import fill_by_formula


def image_network(num_classes: int | None, width: int = 16, depth: int = 2):
    """A DiT with formula weights, as an ImageNet checkpoint would hold it."""
    shape = DiTConfig(
        depth=depth, width=width, num_heads=4, patch_size=2, channels=4, side=4, num_classes=num_classes,
        mode="frame", num_frames=4,
    )  # fmt: skip
    network = DiT(shape)
    fill_by_formula(network)
    return network


def video_network(variant: int, num_classes: int | None) -> Lavita:
    torch.manual_seed(0)
    return Lavita(LavitaConfig(variant, 2, 16, 4, 2, 4, 4, 4, num_classes=num_classes))


@pytest.mark.parametrize("variant", [1, 2])
def test_spatial_and_temporal_blocks_alike_are_filled(variant):
    state, network = image_network(None).state_dict(), video_network(variant, None)
    start = start_from(network, state)
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    assert set(start.taken) == set(trained) and not start.left and not start.unused
    assert all(torch.equal(value, state[name]) for name, value in trained.items())


def test_variant_3_keeps_its_own_temporal_attention():
    network = video_network(3, None)
    own = {name: value.clone() for name, value in network.named_parameters()}
    start = start_from(network, image_network(None).state_dict())
    assert set(start.left) == {name for name in own if "attn_time" in name} and start.left
    assert all(torch.equal(value, own[name]) for name, value in network.named_parameters() if name in start.left)


def test_another_label_table_is_left_out_and_starts_from_zero():
    table = "y_embedder.embedding_table.weight"
    network = video_network(1, 101)
    start = start_from(network, image_network(1000).state_dict())
    assert start.left == {table: "shape (1001, 16) there, (102, 16) here; set to zero"}
    assert not network.state_dict()[table].any()
    # Without classes the table has no place at all.
    assert start_from(video_network(1, None), image_network(1000).state_dict()).unused == (table,)


def test_nothing_that_fits_is_refused_and_changes_nothing():
    network = video_network(1, None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="The file holds depth 2, width 32, patch 2"):
        start_from(network, image_network(None, width=32).state_dict())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_fixed_tables_stay():
    network, state = video_network(1, None), image_network(None).state_dict()
    table = network.pos_embed.clone()
    start_from(network, state | {"pos_embed": torch.zeros_like(table)})
    assert torch.equal(network.pos_embed, table)
