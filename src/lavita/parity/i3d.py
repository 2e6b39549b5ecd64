"""Cases of I3D: 400 logits of a video that is resized to 224 and scaled to -1..1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lavita.parity.case import Case, CaseError, z
from lavita.parity.fill import weight
from lavita.score.i3d import I3D, SIZE
from lavita.score.i3d_folded import FoldedI3D

WEIGHTS = "5-d weights: z * sqrt(2/prod(shape[1:])) instead"
PREPROCESS = "trilinear to (frames, 224, 224), align_corners=False; /255*2-1"
VIDEO = r"clamp\(round\(127\.5 \+ 255 \* avg_pool3d\(Z, \(3,5,5\), stride 1, padding \(1,2,2\)\)\), 0, 255\)"


@torch.no_grad()
def fill_i3d(network: I3D) -> I3D:
    """Give the network the weights of its cases, from which no layer's output vanishes; in evaluation mode."""
    for name, value in network.state_dict().items():
        shape = tuple(value.shape)
        if value.ndim == 5:
            value.copy_(torch.from_numpy(z(name, shape)) * math.sqrt(2 / math.prod(shape[1:])))
        elif value.is_floating_point():
            value.copy_(weight(name, shape))
    return network.eval()


def build(case: Case) -> I3D:
    """The network; it has one size."""
    return I3D()


def run(case: Case, network: I3D) -> dict[str, Tensor]:
    """The logits of the network as it is written, and those of the folded one that scores are made with."""
    if case.data.get("weights_exception") != WEIGHTS or case.get("inputs", "preprocess") != PREPROCESS:
        raise CaseError(f"{case.path}: weights_exception or inputs.preprocess has an unknown form")
    fill_i3d(network)
    with torch.no_grad():
        noise = torch.from_numpy(case.expression("video", VIDEO)[0])
        smooth = functional.avg_pool3d(noise, (3, 5, 5), stride=1, padding=(1, 2, 2))
        video = (127.5 + 255 * smooth).round().clamp(0, 255)
        size = (video.shape[2], SIZE, SIZE)
        video = functional.interpolate(video, size=size, mode="trilinear", align_corners=False) / 255 * 2 - 1
        return {"logits_raw": network(video), "logits_mean_over_time": FoldedI3D(network)(video)}
