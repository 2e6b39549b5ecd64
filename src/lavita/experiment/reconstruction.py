"""What an autoencoder loses: clips against themselves after encoding and decoding, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio

from lavita.codecs.base import PIXELS_AT_ONCE, Codec
from lavita.data.ahead import InOrder
from lavita.data.catalogue import VideoEntry
from lavita.data.clip_folder import write_grid, write_sprite
from lavita.data.clips import load_window, to_tensor, to_uint8
from lavita.diffusion.rng import SampleRNG
from lavita.executors.heartbeat import progress
from lavita.experiment.scoring import Scorer
from lavita.metrics.evaluate import scores_of
from lavita.metrics.extract import save_arrays
from lavita.metrics.table import METRICS, MetricRow, metric_key
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.sampling.generate import in_parts, joined
from lavita.shapes import slices

LOOK_CLIPS = 4
PART_CLIPS = 8  # whose features are kept together
PARTS = "reconstruction"
PerceptualScore = Callable[[Tensor, Tensor], Tensor | None]
Windows = Sequence[tuple[VideoEntry, int]]


@torch.no_grad()
def reconstructed(codec: Codec, video: Tensor, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clips of video (B, F, 3, H, W) in [-1, 1] before and after encoding and decoding on the device, as many at a time
    as the codec takes: uint8 (b, F, H, W, 3) each. Clip k is encoded with draws of its own.
    """
    for part in slices(len(video), video.shape[1] * video.shape[3] * video.shape[4], PIXELS_AT_ONCE):
        before = video[part].to(device)
        after = codec.decode(codec.encode(before, SampleRNG(range(part.start, part.stop), device)))
        yield np.stack([to_uint8(clip) for clip in before]), np.stack([to_uint8(clip) for clip in after])


class Fidelity:
    """PSNR in dB over all values, and mean SSIM of the frames, of clips uint8 (b, F, H, W, 3) that come bit by bit.

    Source: Wang et al. 2004 (SSIM), with its Gaussian window of 11 pixels, standard deviation 1.5.
    """

    def __init__(self) -> None:
        # Of several processes the first one scores: it must not wait for values of the others.
        self.noise = PeakSignalNoiseRatio(data_range=255.0, sync_on_compute=False)
        self.similarities: list[Tensor] = []

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Take note of some clips."""
        pictures = [torch.from_numpy(clips).flatten(0, 1).permute(0, 3, 1, 2).float() for clips in (after, before)]
        self.noise.update(*pictures)
        similarity = structural_similarity_index_measure(*pictures, data_range=255.0, reduction="none")
        self.similarities.append(similarity)

    def psnr(self) -> float:
        return float(self.noise.compute())

    def ssim(self) -> float:
        return float(torch.cat(self.similarities).mean())


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


def write_comparison(path: Path, rows: Sequence[np.ndarray]) -> None:
    """A moving picture of clips, three a row: original, reconstruction, 4x4 average."""
    write_grid(path, np.stack(rows), columns=3)
    write_sprite(path.parent, path.stem, np.stack(rows), columns=3)


@dataclass(frozen=True)
class FirstStage:
    """An autoencoder whose loss is to be scored, and the device that it lies on. stage: that of the scores; perceptual:
    LPIPS of pairs of clips (b, F, 3, H, W), (b,), None where its weights were not given.
    """

    codec: Codec
    device: torch.device
    stage: str
    perceptual: PerceptualScore = lambda *_: None


def reconstruction_scores(
    first: FirstStage, heldout: Tensor, windows: Windows, scorer: Scorer, picture: Path, store: ResumeStore
) -> list[Score]:
    """Scores of an autoencoder: psnr, ssim and (where its weights were given) lpips of held-out clips
    (B, F, 3, H, W) in [-1, 1]; rfvd of the protocol's real clips against their reconstructions.

    psnr_average4x4 is that of each frame averaged to 4x4 blocks, which an autoencoder must beat by far. picture (.gif)
    is written beside them: original, reconstruction, 4x4 average; and an .npz of its name with the features of rfvd,
    which are kept in store part by part.
    """
    scores = pixel_scores(first, heldout, picture)
    features = reconstruction_features(first, heldout.shape[1:], windows, scorer, store)
    save_arrays(picture.with_suffix(".npz"), {"features": features})
    sides = {"real": scorer.real, "reconstruction": {"features": features}}
    counts = {"n_real": len(features), "n_generated": len(features)}
    found = scores_of(scorer.protocol, sides, scorer.networks(), first.stage)
    return scores + [replace(score, **counts) for score in found]


def pixel_scores(first: FirstStage, heldout: Tensor, picture: Path) -> list[Score]:
    """The scores that clips alone give."""
    whole, average, distances, rows, seen = Fidelity(), Fidelity(), [], [], 0
    for before, after in reconstructed(first.codec, heldout, first.device):
        blocks = averaged(before)
        whole.add(before, after)
        average.add(before, blocks)
        pair = [torch.stack([to_tensor(clip) for clip in clips]).to(first.device) for clips in (before, after)]
        distances.append(first.perceptual(*pair))
        shown = min(len(before), LOOK_CLIPS - len(rows) // 3)
        rows += [clips[i] for i in range(shown) for clips in (before, after, blocks)]
        seen += len(before)
        progress("held-out clips", seen, len(heldout))
    write_comparison(picture, rows)
    values = {"psnr": whole.psnr(), "psnr_average4x4": average.psnr(), "ssim": whole.ssim()}
    if distances[0] is not None:
        values["lpips"] = float(torch.cat(distances).mean())
    count, frames = heldout.shape[:2]
    return [score_of_pixels(METRICS[name], value, count, frames, first.stage) for name, value in values.items()]


def score_of_pixels(row: MetricRow, value: float, clips: int, frames: int, stage: str) -> Score:
    """The score of a metric that only clips give, no stored array."""
    return Score(
        metric=metric_key(row, clips, frames),
        stage=stage,
        value=value,
        unit=row.unit,
        lower_is_better=row.lower_is_better,
        n_real=clips,
        n_generated=clips,
    )


def reconstruction_features(
    first: FirstStage, shape: Sequence[int], windows: Windows, scorer: Scorer, store: ResumeStore
) -> np.ndarray:
    """Features (n, d) of the protocol's real clips after encoding and decoding, kept in store part by part.

    shape: (F, 3, H, W) of a clip in training; those of a chain go through one by one, each as long as that.
    """
    p, distance = scorer.protocol, scorer.extractors["distance"]

    def load(number: int) -> np.ndarray:
        video, start = windows[number]
        return load_window(video, start, p.frames, p.real_interval, p.resolution)

    def make(part: slice) -> dict[str, np.ndarray]:
        clips = np.stack(list(source[part]))
        pieces = torch.cat([to_tensor(clip) for clip in clips]).unflatten(0, (-1, shape[0]))  # (b k, F, 3, H, W)
        after = []
        for _, rebuilt in reconstructed(first.codec, pieces, first.device):
            after.append(rebuilt)
            progress(PARTS, part.start, len(windows))
        return {"features": distance.features(np.concatenate(after).reshape(clips.shape)).numpy()}

    with closing(InOrder(load, len(windows))) as source:
        parts = in_parts(PARTS, len(windows), PART_CLIPS, make, partial(progress, PARTS), store)
    return joined(parts, "features")
