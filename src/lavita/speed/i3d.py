"""I3D features of one clip: the module as it is written, channels first, beside the folded one that scores use."""

from __future__ import annotations

from collections.abc import Callable


def i3d_contestants(frames: int = 16) -> tuple[Callable[[], object], Callable[[], object], float]:
    """(plain, ours, difference): two functions that each give the logits of one clip, frames of 224 x 224 on the CPU.

    Both are float32 with equal weights, those of the parity case. difference: ||ours - plain|| / ||plain||.
    """
    import torch

    from lavita.parity.case import z
    from lavita.parity.i3d import fill_i3d
    from lavita.score.i3d import I3D, SIZE
    from lavita.score.i3d_folded import FoldedI3D

    plain = fill_i3d(I3D())
    ours = FoldedI3D(plain)
    video = torch.from_numpy(z("speed/video", (1, 3, frames, SIZE, SIZE))).clamp(-1, 1)

    def logits(network: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return network(video)

    wanted = logits(plain)
    difference = float((logits(ours) - wanted).norm() / wanted.norm())
    return lambda: logits(plain), lambda: logits(ours), difference
