"""What a first stage loses by itself, before any diffusion: the quality of its reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lavita.codec.base import Codec
from lavita.data.catalogue import VideoEntry
from lavita.data.clip import to_tensor, to_uint8
from lavita.data.windows import load_window
from lavita.diffusion.draws import ClipDraws
from lavita.runner.scoring import Scorer
from lavita.score.grid import write_grid

BATCH_CLIPS = 8
LOOK_CLIPS = 4
PerceptualScore = Callable[[Tensor, Tensor], Tensor | None]


@torch.no_grad()
def reconstruction(codec: Codec, video: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Clips uint8 (B, F, H, W, 3) of video (B, F, 3, H, W) in [-1, 1], and the same after encoding and decoding."""
    after = codec.decode(codec.encode(video, ClipDraws(range(len(video)), video.device)))
    return np.stack([to_uint8(clip) for clip in video]), np.stack([to_uint8(clip) for clip in after])


def psnr_and_ssim(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """PSNR in dB over all values, and mean SSIM of the frames, of clips uint8 (B, F, H, W, 3).

    Source: Wang et al. 2004 (SSIM), with its Gaussian window of 11 pixels, standard deviation 1.5.
    """
    pictures = [torch.from_numpy(clips).flatten(0, 1).permute(0, 3, 1, 2).float() for clips in (after, before)]
    psnr = float(peak_signal_noise_ratio(*pictures, data_range=255.0))
    return psnr, float(structural_similarity_index_measure(*pictures, data_range=255.0))


def averaged(clips: np.ndarray, cells: int = 4) -> np.ndarray:
    """Every frame as cells x cells blocks of their mean colour: what a first stage must beat by far.

    Takes and returns uint8 (B, F, H, W, 3). Raises ValueError where H or W is no multiple of cells.
    """
    b, f, h, w, _ = clips.shape
    if h % cells or w % cells:
        raise ValueError(f"averaged: got {h} x {w} pixels, wanted multiples of {cells}")
    blocks = clips.reshape(b, f, cells, h // cells, cells, w // cells, 3)
    means = np.rint(blocks.mean(axis=(3, 5), keepdims=True)).astype(np.uint8)
    return np.broadcast_to(means, blocks.shape).reshape(clips.shape)


def write_comparison(path: Path, before: np.ndarray, after: np.ndarray, average: np.ndarray) -> None:
    """A moving picture of some clips: original, reconstruction, 4x4 average."""
    rows = [clips[i] for i in range(min(LOOK_CLIPS, len(before))) for clips in (before, after, average)]
    write_grid(path, np.stack(rows), columns=3)


def reconstruction_scores(
    codec: Codec,
    stage: str,
    heldout: Tensor,
    windows: Sequence[tuple[VideoEntry, int]],
    scorer: Scorer,
    perceptual: PerceptualScore,
    picture: Path,
) -> list[dict[str, Any]]:
    """Entries of the ledger for a first stage: rfvd of the protocol's real clips against their reconstructions; psnr,
    ssim and (where its weights were given) lpips of held-out clips (B, F, 3, H, W) in [-1, 1].

    psnr_average4x4 is that of each frame averaged to 4x4 blocks, which a first stage must beat by far. picture (.gif)
    is written beside them: original, reconstruction, 4x4 average; and an .npz of its name with the features of rfvd.
    """
    before, after = reconstruction(codec, heldout)
    average = averaged(before)
    write_comparison(picture, before, after, average)
    psnr, ssim = psnr_and_ssim(before, after)
    suffix = f"n{len(before)}_f{before.shape[1]}"
    values = {"psnr": (psnr, "dB"), "psnr_average4x4": (psnr_and_ssim(before, average)[0], "dB"), "ssim": (ssim, "1")}
    entries = [
        {"metric": f"{name}_{suffix}", "value": value, "unit": unit, "lower_is_better": False}
        for name, (value, unit) in values.items()
    ]
    pair = [torch.stack([to_tensor(clip) for clip in clips]).to(heldout.device) for clips in (before, after)]
    distance = perceptual(*pair)
    if distance is not None:
        value = float(distance.mean())
        entries.append({"metric": f"lpips_{suffix}", "value": value, "unit": "1", "lower_is_better": True})
    entries.append(
        scorer.reconstruction_distance(reconstructed(codec, windows, scorer, heldout), picture.with_suffix(".npz"))
    )
    counts = {"n_real": len(before), "n_generated": len(before)}
    of_windows = {"n_real": len(windows), "n_generated": len(windows)}
    return [entry | {"stage": stage} | (of_windows if entry is entries[-1] else counts) for entry in entries]


def reconstructed(
    codec: Codec, windows: Sequence[tuple[VideoEntry, int]], scorer: Scorer, like: Tensor
) -> Iterable[np.ndarray]:
    """The protocol's real clips after encoding and decoding, a few at a time: uint8 (b, F, H, W, 3), on the device of
    the training clips `like`. Those of a chain go through clip by clip, each as long as one in training."""
    p = scorer.protocol
    for start in range(0, len(windows), BATCH_CLIPS):
        clips = [
            load_window(video, first, p.frames, p.real_interval, p.resolution)
            for video, first in windows[start : start + BATCH_CLIPS]
        ]
        video = torch.stack([to_tensor(clip) for clip in clips]).to(like.device)  # (b, k F, 3, H, W)
        pieces = video.reshape(-1, *like.shape[1:])  # (b k, F, 3, H, W)
        yield reconstruction(codec, pieces)[1].reshape(len(video), p.frames, *clips[0].shape[1:])
