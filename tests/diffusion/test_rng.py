"""Draws of a clip depend on its seed only."""

from __future__ import annotations

import threading

import pytest
import torch

from lavita.diffusion.rng import Request, SampleRNG, derive_seed, drawn_ahead


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


SEEDS, SHAPE = [5, 11, 7], (2, 3)
ORDER = (Request("normal", SHAPE), Request("integers", (1000,)), Request("uniform"), Request("normal", SHAPE))


def drawn(requests: tuple[Request, ...]) -> list[tuple[Request, torch.Tensor]]:
    """What someone else draws of the same streams."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return [(one, torch.stack([one.draw(generator) for generator in generators])) for one in requests]


def asked(rng: SampleRNG) -> list[torch.Tensor]:
    return [rng.normal(SHAPE), rng.integers(1000), rng.uniform(), rng.normal(SHAPE)]


@pytest.mark.parametrize("count", range(len(ORDER) + 1))
def test_numbers_drawn_by_someone_else_are_the_same(count):
    """All of them, none, or the first few: then the streams go on where these end."""
    found, wanted = asked(SampleRNG(SEEDS, drawn=drawn(ORDER[:count]))), asked(SampleRNG(SEEDS))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, wanted, strict=True))


def test_another_request_than_was_drawn_is_drawn_here():
    """From the third on something else is asked; what was drawn for its place must not be taken."""
    rng, plain = SampleRNG(SEEDS, drawn=drawn(ORDER)), SampleRNG(SEEDS)
    for one in (rng, plain):
        one.values = [one.normal(SHAPE), one.integers(1000), one.normal((4,)), one.normal(SHAPE), one.uniform()]
    assert all(torch.equal(a, b) for a, b in zip(rng.values, plain.values, strict=True))


def test_generators_are_where_their_streams_are():
    """For draws of other kinds, after two that came drawn; a third request then continues the same streams."""
    rng, plain = SampleRNG(SEEDS, drawn=drawn(ORDER)), SampleRNG(SEEDS)
    for one in (rng, plain):
        one.values = [one.normal(SHAPE), one.integers(1000)]
        one.values += [torch.rand(3, generator=generator) for generator in one.generators]
        one.values.append(one.uniform())
    assert all(torch.equal(a, b) for a, b in zip(rng.values, plain.values, strict=True))


def test_a_thread_draws_one_ahead_and_in_order():
    drawing, threads = [], []

    def draw(number: int) -> torch.Tensor:
        drawing.append(number)
        threads.append(threading.current_thread())
        return torch.tensor(number)

    for number, value in enumerate(drawn_ahead(draw, 5)):
        assert int(value) == number and len(drawing) <= number + 2
    assert drawing == [0, 1, 2, 3, 4]  # and no sixth: a stream that is used further must not have moved
    assert threading.main_thread() not in threads


def test_an_error_of_a_draw_is_raised():
    def draw(number: int) -> torch.Tensor:
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 0"):
        list(drawn_ahead(draw, 3))
