"""What a first stage loses: clips before and after it, on the same grey levels."""

from __future__ import annotations

import numpy as np
import torch

from lavita.codec.base import Codec
from lavita.data.clip import to_uint8
from lavita.diffusion.draws import ClipDraws


@torch.no_grad()
def reconstruction(codec: Codec, video: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Clips uint8 (B, F, H, W, 3) of video (B, F, 3, H, W) in [-1, 1], and the same after encoding and decoding."""
    after = codec.decode(codec.encode(video, ClipDraws(range(len(video)))))
    return np.stack([to_uint8(clip) for clip in video]), np.stack([to_uint8(clip) for clip in after])
