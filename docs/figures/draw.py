"""Draws the figures of docs/variants.md: python docs/figures/draw.py [FOLDER], by default the folder of this file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from options import embedding, joint_images
from variants import variant_1, variant_2, variant_3, variant_4

FIGURES: dict[str, Callable[[], str]] = {
    "variant-1.svg": variant_1,
    "variant-2.svg": variant_2,
    "variant-3.svg": variant_3,
    "variant-4.svg": variant_4,
    "embedding.svg": embedding,
    "joint-images.svg": joint_images,
}


def main(arguments: list[str]) -> None:
    """Write every figure into the folder."""
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parent
    for name, figure in FIGURES.items():
        (folder / name).write_text(figure(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
