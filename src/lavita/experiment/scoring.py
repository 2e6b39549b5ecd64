"""Scores a run's clips against the real clips: features once, then every metric that they allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lavita.codecs.base import Codec
from lavita.config.compose import Experiment
from lavita.data.catalogue import VideoEntry
from lavita.data.clip_folder import write_grid, write_sprite
from lavita.data.clips import load_window, to_tensor, to_uint8
from lavita.diffusion.rng import SampleRNG
from lavita.executors.heartbeat import progress
from lavita.metrics.confidence import LEAST_CLIPS
from lavita.metrics.evaluate import scores_of
from lavita.metrics.extract import load_arrays, save_arrays
from lavita.metrics.features.load import load_extractors
from lavita.metrics.table import METRICS, MetricRow, NetworkId, metric_key
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.results.shared import SharedArtifacts
from lavita.sampling.generate import in_parts, joined

CLIPS_AT_ONCE = 16  # whose features are extracted between two looks at whether the process is asked to end


class Scorer:
    """The feature networks and the real clips' features, loaded once per run of a method."""

    def __init__(self, shared: SharedArtifacts, experiment: Experiment, device: str) -> None:
        self.protocol = experiment.protocol
        self.extractors = load_extractors(experiment.protocol, experiment.weights, shared.extractor, device)
        self.real = load_arrays(shared.real)
        self.splits = {split: load_arrays(path) for split, path in shared.splits.items()}
        # An inception score needs classes that mean something for this data set.
        self.has_classes = self.extractors["classes"].num_classes is not None and shared.num_classes is not None

    def score(
        self,
        clips: np.ndarray,
        keep: Path,
        by_split: bool = False,
        kept: ResumeStore | None = None,
        name: str = "score",
        stage: str = "generated",
    ) -> list[Score]:
        """Every score that the protocol has of clips uint8 (N, F, H, W, 3).

        keep: the .npz that takes what the scores are made from (features, probabilities, names), so that anybody can
        make them again. by_split: also the distances to train and to held-out clips, and how near clips come to
        training clips. kept: features are kept there under the name part by part, and taken from there. stage: that of
        the scores.
        """
        names = {"names": np.array([f"{index:06d}" for index in range(len(clips))])}
        arrays = self.features(clips, kept, name) | names
        # A distance to a handful of clips says nothing of a split.
        splits = {split: rows for split, rows in self.splits.items() if len(rows["names"]) >= LEAST_CLIPS}
        sides = {"real": self.real, "generated": arrays, **(splits if by_split else {})}
        scores = scores_of(self.protocol, sides, self.networks(), stage)
        save_arrays(keep, arrays)
        return scores

    def features(self, clips: np.ndarray, kept: ResumeStore | None, name: str) -> dict[str, np.ndarray]:
        """Features and, where they mean something, class probabilities of clips."""

        def make(part: slice) -> dict[str, np.ndarray]:
            rows = {"features": self.extractors["distance"].features(clips[part]).numpy()}
            if self.has_classes:
                rows["probabilities"] = self.extractors["classes"].probabilities(clips[part]).numpy()
            return rows

        parts = in_parts(name, len(clips), CLIPS_AT_ONCE, make, partial(progress, name), kept)
        return {key: joined(parts, key) for key in parts[0]}

    def networks(self) -> dict[str, NetworkId]:
        """The feature networks, by the array that they give."""
        uses = {"features": "distance", "probabilities": "classes"}
        found = {array: self.extractors[use] for array, use in uses.items()}
        return {array: NetworkId(network.name, network.weights_hash) for array, network in found.items()}

    def reconstruction_scores(self, batches: Iterable[np.ndarray], keep: Path, stage: str) -> list[Score]:
        """The real clips against themselves after an autoencoder, which come in batches uint8 (b, F, H, W, 3).

        keep: the .npz that takes the features of the latter. stage: that of the scores.
        """
        features = np.concatenate([self.extractors["distance"].features(clips).numpy() for clips in batches])
        save_arrays(keep, {"features": features})
        sides = {"real": self.real, "reconstruction": {"features": features}}
        counts = {"n_real": len(features), "n_generated": len(features)}
        return [replace(score, **counts) for score in scores_of(self.protocol, sides, self.networks(), stage)]


BATCH_CLIPS = 8
LOOK_CLIPS = 4
PerceptualScore = Callable[[Tensor, Tensor], Tensor | None]


@torch.no_grad()
def reconstruction(codec: Codec, video: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Clips uint8 (B, F, H, W, 3) of video (B, F, 3, H, W) in [-1, 1], and the same after encoding and decoding."""
    after = codec.decode(codec.encode(video, SampleRNG(range(len(video)), video.device)))
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
    write_sprite(path.parent, path.stem, np.stack(rows), columns=3)


def reconstruction_scores(
    codec: Codec,
    stage: str,
    heldout: Tensor,
    windows: Sequence[tuple[VideoEntry, int]],
    scorer: Scorer,
    perceptual: PerceptualScore,
    picture: Path,
) -> list[Score]:
    """Scores of an autoencoder: psnr, ssim and (where its weights were given) lpips of held-out clips
    (B, F, 3, H, W) in [-1, 1]; rfvd of the protocol's real clips against their reconstructions.

    psnr_average4x4 is that of each frame averaged to 4x4 blocks, which an autoencoder must beat by far. picture (.gif)
    is written beside them: original, reconstruction, 4x4 average; and an .npz of its name with the features of rfvd.
    """
    before, after = reconstruction(codec, heldout)
    average = averaged(before)
    write_comparison(picture, before, after, average)
    psnr, ssim = psnr_and_ssim(before, after)
    values = {"psnr": psnr, "psnr_average4x4": psnr_and_ssim(before, average)[0], "ssim": ssim}
    pair = [torch.stack([to_tensor(clip) for clip in clips]).to(heldout.device) for clips in (before, after)]
    distance = perceptual(*pair)
    if distance is not None:
        values["lpips"] = float(distance.mean())
    scores = [score_of_pixels(METRICS[name], value, before, stage) for name, value in values.items()]
    batches = reconstructed(codec, windows, scorer, heldout)
    return scores + scorer.reconstruction_scores(batches, picture.with_suffix(".npz"), stage)


def score_of_pixels(row: MetricRow, value: float, clips: np.ndarray, stage: str) -> Score:
    """The score of a metric that only clips (B, F, H, W, 3) give, no stored array."""
    return Score(
        metric=metric_key(row, len(clips), clips.shape[1]),
        stage=stage,
        value=value,
        unit=row.unit,
        lower_is_better=row.lower_is_better,
        n_real=len(clips),
        n_generated=len(clips),
    )


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
