"""Depth, width and heads of a transformer: those of a named size, or number by number."""

from __future__ import annotations

from lavita.config.schema import ConfigError


def chosen_size(
    named: tuple[int, int, int], depth: int | None, width: int | None, num_heads: int | None
) -> tuple[int, int, int]:
    """(depth, width, heads) of a named size with every given number in place of its own.

    Raises ConfigError, one line that names the key, for a number below 1, a width that the position tables can't fill
    (multiples of 4: sine and cosine of rows and columns) and a width that is no multiple of the heads.
    """
    given = {"depth": depth, "width": width, "num_heads": num_heads}
    for key, value in given.items():
        if value is not None and value < 1:
            raise ConfigError(f"model.{key}: got {value}, wanted at least 1, or null for that of model.size")
    numbers = [own if value is None else value for own, value in zip(named, given.values(), strict=True)]
    if numbers[1] % 4:
        raise ConfigError(f"model.width: got {numbers[1]}, wanted a multiple of 4 (sine-cosine positions)")
    if numbers[1] % numbers[2]:
        key = "num_heads" if width is None else "width"
        raise ConfigError(
            f"model.{key}: width {numbers[1]} is not a multiple of {numbers[2]} heads; "
            "change model.width or model.num_heads"
        )
    return numbers[0], numbers[1], numbers[2]
