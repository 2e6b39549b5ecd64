"""Scores a cell's clips against the run's real clips: features once, then every metric of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
from lavita.metrics.confidence import LEAST_CLIPS, interval_columns
from lavita.metrics.extract import save_arrays
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.load import load_extractors
from lavita.metrics.resampling import FrechetOfSubsets, KernelOfSubsets
from lavita.metrics.torchmetrics import (
    ClipMetric,
    FrechetVideoDistance,
    KernelVideoDistance,
    MemorizationCheck,
    VideoInceptionScore,
)
from lavita.results.resume_store import ResumeStore
from lavita.results.shared import SharedArtifacts
from lavita.sampling.generate import in_parts, joined

# One process scores all clips of a cell; were others asked for theirs, they would be waited for in vain.
ALONE = {"sync_on_compute": False}
CLIPS_AT_ONCE = 16  # described between two looks at whether the process is asked to end


class Scorer:
    """The feature networks and the real clips' features, loaded once a cell."""

    def __init__(self, shared: SharedArtifacts, cell: Experiment, device: str) -> None:
        self.protocol = cell.protocol
        self.extractors = load_extractors(cell.protocol, cell.weights, shared.extractor, device)
        self.real = torch.from_numpy(np.load(shared.real)["features"])
        self.splits = {split: np.load(path) for split, path in shared.splits.items()}
        # An inception score needs classes that mean something for this data set.
        self.has_classes = self.extractors["classes"].num_classes is not None and shared.num_classes is not None

    def score(
        self,
        clips: np.ndarray,
        keep: Path,
        by_split: bool = False,
        kept: ResumeStore | None = None,
        name: str = "score",
    ) -> list[dict[str, Any]]:
        """One entry a metric for clips uint8 (N, F, H, W, 3): metric, value, unit, lower_is_better, interval.

        keep: the .npz that takes what the scores are made from (features, probabilities, names), so that anybody can
        make them again. by_split: also the distances to train and to held-out clips, and how near clips come to
        training clips. kept: features are kept there under the name part by part, and taken from there.
        """
        p, distance = self.protocol, self.extractors["distance"]
        described = self.described(clips, kept, name)
        features = torch.from_numpy(described["features"])
        arrays = described | {"names": np.array([f"{index:06d}" for index in range(len(clips))])}
        fvd = FrechetVideoDistance(distance, n=p.n_generated, n_real=p.n_real, ddof=p.ddof, **ALONE)
        entries = []
        kvd = KernelVideoDistance(distance, n=p.n_generated, n_real=p.n_real, **ALONE)
        x, y = self.real.double().numpy(), features.double().numpy()
        for metric, parts in ((fvd, FrechetOfSubsets(x, y, p.ddof)), (kvd, KernelOfSubsets(x, y))):
            metric.add_rows(self.real, real=True)
            metric.add_rows(features, real=False)
            value = float(metric.compute())
            entries.append(self.entry(metric, distance, value, p.n_generated) | interval_columns(parts, value))
        if by_split:
            entries += self.split_entries(features)
        if self.has_classes:
            classes = self.extractors["classes"]
            how = {"splits": p.is_splits, "shuffle_seed": p.is_shuffle_seed}
            metric = VideoInceptionScore(classes, p.n_generated, **how, **ALONE)
            metric.add_rows(torch.from_numpy(described["probabilities"]), real=False)
            mean, deviation = metric.mean_and_deviation()
            entry = self.entry(metric, classes, mean, p.n_generated)
            if p.is_splits > 1:
                entry |= {"ci_low": mean - deviation, "ci_high": mean + deviation}
                entry |= {"ci_kind": f"mean +- std over {p.is_splits} splits"}
            entries.append(entry)
        save_arrays(keep, arrays)
        return entries

    def described(self, clips: np.ndarray, kept: ResumeStore | None, name: str) -> dict[str, np.ndarray]:
        """Features and, where they mean something, class probabilities of clips."""

        def make(part: slice) -> dict[str, np.ndarray]:
            rows = {"features": self.extractors["distance"].features(clips[part]).numpy()}
            if self.has_classes:
                rows["probabilities"] = self.extractors["classes"].probabilities(clips[part]).numpy()
            return rows

        parts = in_parts(name, len(clips), CLIPS_AT_ONCE, make, partial(progress, name), kept)
        return {key: joined(parts, key) for key in parts[0]}

    def split_entries(self, features: torch.Tensor) -> list[dict[str, Any]]:
        """Distances to the real clips of each split, and the memorisation check, where a split has clips enough."""
        p, distance, entries = self.protocol, self.extractors["distance"], []
        counts = {split: len(rows["features"]) for split, rows in self.splits.items()}
        for split, count in counts.items():
            if count >= LEAST_CLIPS:
                how = {"n": p.n_generated, "n_real": count, "ddof": p.ddof, "against": split}
                metric = FrechetVideoDistance(distance, **how, **ALONE)
                metric.add_rows(torch.from_numpy(self.splits[split]["features"]), real=True)
                metric.add_rows(features, real=False)
                entries.append(self.entry(metric, distance, float(metric.compute()), p.n_generated) | {"n_real": count})
        if len(entries) < len(self.splits) or not entries:
            return entries
        names = {"train": list(self.splits["train"]["names"])}
        check = MemorizationCheck(distance, p.n_generated, counts["train"], counts["heldout"], names=names, **ALONE)
        for side, rows in (("train", None), ("heldout", None), ("generated", features)):
            check.add_rows(torch.from_numpy(self.splits[side]["features"]) if rows is None else rows, side)
        found = check.found()
        closest = [
            {"clip": clip, "training_clip": name, "distance": far, "ratio": ratio}
            for clip, name, far, ratio in found.closest(5)
        ]
        entry = self.entry(check, distance, found.ratio, p.n_generated)
        entry |= {"n_real": counts["train"], "copies": len(found.copies), "closest": closest}
        return [*entries, entry]

    def reconstruction_distance(self, batches: Iterable[np.ndarray], keep: Path) -> dict[str, Any]:
        """rfvd: the real clips against themselves after a first stage, which come in batches uint8 (b, F, H, W, 3).

        keep: the .npz that takes the features of the latter.
        """
        p, distance = self.protocol, self.extractors["distance"]
        metric = FrechetVideoDistance(distance, n=p.n_real, n_real=p.n_real, ddof=p.ddof, **ALONE)
        metric.add_rows(self.real, real=True)
        features = torch.cat([distance.features(clips) for clips in batches])
        metric.add_rows(features, real=False)
        save_arrays(keep, {"features": features.numpy()})
        entry = self.entry(metric, distance, float(metric.compute()), p.n_real)
        return entry | {"metric": "r" + entry["metric"]}

    def entry(self, metric: ClipMetric, extractor: Extractor, value: float, n: int) -> dict[str, Any]:
        """A score of n clips under its full name, which says the feature network unless it is the standard one."""
        return {
            "metric": metric.key(extractor.name, n, self.protocol.frames, extractor.weights_hash, metric.against),
            "value": value,
            "unit": metric.unit,
            "lower_is_better": None if metric.higher_is_better is None else not metric.higher_is_better,
            "extractor": extractor.name,
            "extractor_hash": extractor.weights_hash,
        }


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
