"""Counted FLOPs: forward and backward of a stage's loss on one clip, and of encoding it, by torch's own counter."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lavita.codec.base import Codec
from lavita.diffusion.draws import ClipDraws
from lavita.train.module import TrainedStage


def training_flops_per_clip(module: TrainedStage, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs (2 a multiply-add) of loss and backward for one clip, encoding included, mean over the stage's turns.

    Gradients are cleared after. Attention is counted as its two matrix products: the fused CPU kernel is unknown to the
    counter, so the plain one runs here.
    """
    one = {key: value[:1].to(module.device) for key, value in batch.items()}
    counted = [turn_flops(module, one, turn) for turn in range(module.turns)]
    return round(sum(counted) / len(counted))


def turn_flops(module: TrainedStage, one: dict[str, torch.Tensor], turn: int) -> int:
    """FLOPs of loss and backward on one clip in the given turn of a stage."""
    # On the CPU, so that a network that is but shapes (the meta device) still knows whose turn it is.
    first_of_turn = torch.full((1,), turn * module.train_config.batch_clips)
    draws = ClipDraws.for_training(0, "flops", torch.zeros(1, dtype=torch.int64), module.device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.loss(one | {"clip_index": first_of_turn}, draws)["loss"].mean().backward()
    module.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@torch.no_grad()
def encoding_flops_per_clip(codec: Codec, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs of encoding one clip with the suite's codec."""
    video = batch["video"][:1].to(next(codec.parameters(), batch["video"]).device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        codec.encode(video, ClipDraws([0], video.device))
    return counter.get_total_flops()
