"""The official Latte network from a checkout that the user names; nothing of it is part of this repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from lavita.models.lavita import LavitaShape


def official_network(checkout: Path, shape: LavitaShape) -> nn.Module:
    """Latte of the given shape, with its written-out attention (the released setting), unconditional.

    Takes (x, t) and our variant 1's state dict. Raises ValueError where the checkout has no models/latte.py, a package
    that it imports is missing, or the shape is not one of Latte's.
    Source: https://github.com/Vchitect/Latte at b27c24a, models/latte.py.
    """
    file = checkout / "models" / "latte.py"
    if not file.is_file():
        raise ValueError(f"--official: no file {file}; give a checkout of https://github.com/Vchitect/Latte")
    if shape.variant != 1:
        raise ValueError(f"--official: got --variant {shape.variant}, the official network is variant 1")
    try:
        spec = importlib.util.spec_from_file_location("official_latte", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # other people's code, and the packages it needs: whatever stops it, the user must know
        missing = (
            "needs a package that is not installed here" if isinstance(error, ImportError) else "can't be imported"
        )
        raise ValueError(f"--official: {file} {missing} ({type(error).__name__}: {error})") from error
    return module.Latte(
        input_size=shape.side,
        patch_size=shape.patch_size,
        in_channels=shape.channels,
        hidden_size=shape.width,
        depth=shape.depth,
        num_heads=shape.num_heads,
        num_frames=shape.num_frames,
    )
