"""VDT's mask-modelling tasks: which latent positions of a clip are given, and which are to be made.

A mask is bool (F, h, w), True where the position is given. The released code uses the opposite sign (1 = to be made);
the paper's M is 1 where the condition stands, as here.
Source: Lu et al. 2023 (VDT), its mask modelling; github.com/RERV/VDT at cdbad2b, mask_generator.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MaskMaker = Callable[[int, int, torch.Generator, bool], Tensor]
# Of every frame that is to be completed, this part is made, in blocks of at least so many positions.
MADE_SHARE = 0.5
LEAST_BLOCK = 4
LEAST_ASPECT = 0.3
ATTEMPTS = 10
# Frames at most that completion leaves whole at either end, and the frames between two given ones in interpolation.
MOST_WHOLE = 3
INTERPOLATION_STEP = 4


def whole_frames(num_frames: int, side: int, given: list[int]) -> Tensor:
    """Mask with the frames of the list given, bool (F, h, w)."""
    mask = torch.zeros(num_frames, side, side, dtype=torch.bool)
    mask[given] = True
    return mask


def generation(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """Nothing is given."""
    return whole_frames(num_frames, side, [])


def prediction(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """The first half of the frames is given (8 of 16 in the released code)."""
    return whole_frames(num_frames, side, list(range(num_frames // 2)))


def backward_prediction(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """The last half of the frames is given."""
    return whole_frames(num_frames, side, list(range(num_frames - num_frames // 2, num_frames)))


def interpolation(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """Every fourth frame is given, from the first on; closer in clips below eight frames."""
    step = min(INTERPOLATION_STEP, max(2, num_frames // 2))
    return whole_frames(num_frames, side, list(range(0, num_frames, step)))


def animation(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """One frame is given: any one in training, as released; the first in sampling, where a still is to move."""
    frame = int(torch.randint(num_frames, (), generator=generator)) if training else 0
    return whole_frames(num_frames, side, [frame])


def completion(num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """All is given but blocks that cover about half of the area, the same in all frames but a few at either end.

    The released code cuts its frames [start : -end], which makes nothing where end is drawn as 0; not repeated here.
    """
    most = min(MOST_WHOLE, (num_frames - 1) // 2)
    start, end = (int(torch.randint(most + 1, (), generator=generator)) for _ in range(2))
    mask = torch.ones(num_frames, side, side, dtype=torch.bool)
    mask[start : num_frames - end] = ~blocks(side, generator)
    return mask


TASKS: dict[str, MaskMaker] = {
    "generation": generation,
    "prediction": prediction,
    "backward-prediction": backward_prediction,
    "interpolation": interpolation,
    "animation": animation,
    "completion": completion,
}


def blocks(side: int, generator: torch.Generator) -> Tensor:
    """Rectangles of random area and aspect, bool (h, w), True inside, until MADE_SHARE of the area is covered.

    A rectangle never brings the area above that share. Where ten attempts find none that fits, no more are added; the
    first is then a square, so that something is always to be made.
    Source: Bao et al. 2022 (BEiT), algorithm 1, as the released code sets it.
    """
    inside = torch.zeros(side, side, dtype=torch.bool)
    wanted = max(1, int(MADE_SHARE * side * side))
    while (left := wanted - int(inside.sum())) > 0:
        if not add_rectangle(inside, left, generator):
            break
    if not inside.any():
        edge = max(1, math.isqrt(wanted))
        inside[:edge, :edge] = True
    return inside


def add_rectangle(inside: Tensor, most: int, generator: torch.Generator) -> bool:
    """Add one rectangle that covers 1 to `most` new positions of (h, w), in place; False where none was found."""
    side = len(inside)
    for _ in range(ATTEMPTS):
        area_draw, aspect_draw, top_draw, left_draw = torch.rand(4, generator=generator).tolist()
        area = LEAST_BLOCK + area_draw * (most - LEAST_BLOCK)
        aspect = math.exp((2 * aspect_draw - 1) * math.log(1 / LEAST_ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= side or width >= side:
            continue
        top, left = int(top_draw * (side - height + 1)), int(left_draw * (side - width + 1))
        part = inside[top : top + height, left : left + width]
        if 0 < int((~part).sum()) <= most:
            part[:] = True
            return True
    return False


def task_mask(task: str, num_frames: int, side: int, generator: torch.Generator, training: bool) -> Tensor:
    """The mask of one clip, bool (F, h, w), True where given; random parts are drawn from the clip's generator."""
    return TASKS[task](num_frames, side, generator, training)
