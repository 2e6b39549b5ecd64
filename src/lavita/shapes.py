"""Shapes of tensors: a check at a door, which names the axis, what was got and what was wanted; and cutting a batch."""

from __future__ import annotations

from typing import Any


def check(array: Any, axes: str, name: str, dtype: Any = None, **sizes: int) -> dict[str, int]:
    """Check the axes of a tensor or array and return the size of every named axis.

    axes is a pattern such as "B F 3 H W": a number is a fixed size, a letter any size (the same letter twice
    must be the same size). sizes fixes letters, e.g. ``F=16``. dtype, where given, must be equal.
    Raises ValueError naming the axis, the size got and the size wanted.
    """
    wanted = axes.split()
    shape = tuple(array.shape)
    if len(shape) != len(wanted):
        raise ValueError(f"{name}: got {len(shape)} axes {shape}, wanted {len(wanted)} axes ({axes})")
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"{name}: got dtype {array.dtype}, wanted {dtype}")
    found = dict(sizes)
    for position, (axis, size) in enumerate(zip(wanted, shape, strict=True)):
        expected = int(axis) if axis.isdigit() else found.setdefault(axis, size)
        if size != expected:
            raise ValueError(
                f"{name}: axis {position} ({axis}) is {size}, wanted {expected} (got {shape}, pattern {axes})"
            )
    return found


def slices(count: int, pixels: int, most: int) -> list[slice]:
    """0 .. count - 1 in as few slices as hold at most `most` pixels each, where one item has `pixels`; [] for count 0.

    Their lengths differ by one at most, so that none is left with a single item (networks take another algorithm for a
    batch of one) unless no two fit together, or three share two slices.
    """
    parts = -(-count // max(1, most // pixels))
    ends = [count * number // parts for number in range(parts + 1)]
    return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]
