"""Parameter counts of LAVITA, built on the meta device, against counts of the official definitions."""

from __future__ import annotations

import pytest
import torch

from lavita.models.lavita import SIZES, Lavita, LavitaShape, depth_of_variant


def trained(variant: int, size: str, patch_size: int, num_classes: int | None = None) -> int:
    """Trainable parameters of a named size at 16 frames of 32 x 32 x 4 latents."""
    depth, width, heads = SIZES[size]
    depth = depth_of_variant(variant, depth)
    with torch.device("meta"):
        network = Lavita(LavitaShape(variant, depth, width, heads, patch_size, 16, 4, 32, num_classes))
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("size", "patch_size", "num_classes", "count"),
    [
        ("S", 2, None, 32_480_672),
        ("S", 2, 101, 32_519_840),
        ("B", 4, None, 129_657_728),
        ("L", 8, None, 457_553_408),
        ("XL", 2, None, 673_681_568),
        ("XL", 2, 101, 673_799_072),
    ],
)
def test_variant_1_has_the_official_count(size, patch_size, num_classes, count):
    assert trained(1, size, patch_size, num_classes) == count


def test_variant_2_has_the_parameters_of_variant_1():
    assert trained(2, "XL", 2) == 673_681_568


@pytest.mark.parametrize(("variant", "printed"), [(3, 676.33e6), (4, 676.44e6)])
def test_variants_3_and_4_are_near_the_printed_count(variant, printed):
    # The paper prints five digits; 0.05 % is what its two readings of one block size differ by.
    assert trained(variant, "XL", 2) == pytest.approx(printed, rel=5e-4)


def test_number_of_blocks_of_variants_3_and_4():
    # As many blocks of 22 D^2 weights as come nearest to the network of 18 D^2 blocks.
    for size, blocks in {"S": 10, "B": 10, "L": 20, "XL": 23}.items():
        depth = SIZES[size][0]
        assert depth_of_variant(3, depth) == blocks
        assert abs(22 * blocks - 18 * depth) <= min(abs(22 * n - 18 * depth) for n in (blocks - 1, blocks + 1))
