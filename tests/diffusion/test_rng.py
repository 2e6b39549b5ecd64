"""Draws of a clip depend on its seed only."""

from __future__ import annotations

import torch

from lavita.diffusion.rng import SampleRNG, derive_seed


def test_draws_do_not_depend_on_the_batch_or_its_order():
    seeds, shape = [5, 11, 7], (2, 3, 4)

    def stream(chosen: list[int]) -> list[torch.Tensor]:
        rng = SampleRNG(chosen)
        return [rng.normal(shape), rng.integers(1000), rng.uniform(), rng.normal(shape)]

    together = stream(seeds)
    for k, seed in enumerate(seeds):
        assert all(torch.equal(a[k], b[0]) for a, b in zip(together, stream([seed]), strict=True))
    backwards = stream(seeds[::-1])
    assert all(torch.equal(a.flip(0), b) for a, b in zip(together, backwards, strict=True))
    assert not torch.equal(together[0], together[3])
    assert not torch.equal(together[0][0], together[0][1])


def test_training_draws_depend_on_seed_stage_and_clip():
    def first(seed: int, stage: str, index: int) -> torch.Tensor:
        return SampleRNG.for_training(seed, stage, torch.tensor([index]), "cpu").normal((8,))

    base = first(0, "train", 3)
    assert torch.equal(base, first(0, "train", 3))
    others = [first(1, "train", 3), first(0, "codec", 3), first(0, "train", 4)]
    assert not any(torch.equal(base, other) for other in others)
    batch = SampleRNG.for_training(0, "train", torch.tensor([9, 3]), "cpu").normal((8,))
    assert torch.equal(batch[1:], base)


def test_derived_seeds_keep_parts_apart():
    seeds = {derive_seed(*parts) for parts in [(1, 23), (12, 3), (123,), (3, 12), ("a", "b"), ("ab",)]}
    assert len(seeds) == 6 and all(0 <= seed < 2**63 for seed in seeds)


def test_ranges_and_types():
    rng = SampleRNG(range(2000))
    t, u = rng.integers(10), rng.uniform()
    assert t.dtype == torch.int64 and set(t.tolist()) == set(range(10))
    assert u.dtype == torch.float32 and 0 <= float(u.min()) and float(u.max()) < 1
