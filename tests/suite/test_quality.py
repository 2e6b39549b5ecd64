"""Reconstruction scores: PSNR by its definition, SSIM of equal and noisy pictures, a lossless autoencoder."""

import numpy as np
import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.experiment import reconstruction
from lavita.experiment.reconstruction import (
    Fidelity,
    FirstStage,
    averaged,
    pixel_scores,
    reconstructed,
    reconstruction_features,
)
from lavita.results.resume_store import ResumeStore

CPU = torch.device("cpu")


def clips(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 3, 24, 24, 3), dtype=np.uint8)


def fidelity(*pairs: tuple[np.ndarray, np.ndarray]) -> Fidelity:
    found = Fidelity()
    for before, after in pairs:
        found.add(before, after)
    return found


def test_psnr_is_its_definition():
    before, after = clips(0), clips(1)
    error = np.mean((before.astype(float) - after.astype(float)) ** 2)
    found = fidelity((before, after))
    # A mean of 10,368 squares in float32: relative 1e-6 at most, 4e-6 dB.
    assert found.psnr() == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
    assert abs(found.ssim()) < 0.1  # independent noise has no common structure
    assert fidelity((before, before)).ssim() == pytest.approx(1.0, abs=1e-6)


def test_clip_by_clip_is_all_at_once():
    before, after = clips(6), np.clip(clips(6).astype(int) + np.random.default_rng(0).integers(-9, 9), 0, 255)
    after = np.where(np.arange(2)[:, None, None, None, None] == 0, after, clips(7)).astype(np.uint8)  # unequal errors
    whole, parts = fidelity((before, after)), fidelity(*((before[i : i + 1], after[i : i + 1]) for i in range(2)))
    # Sums of float32 in another order.
    assert parts.psnr() == pytest.approx(whole.psnr(), rel=1e-6)
    assert parts.ssim() == pytest.approx(whole.ssim(), rel=1e-5)


def test_ssim_by_its_formula_in_one_window():
    """Of pictures of the window's size, the middle pixel's SSIM written out with numpy; the mean has more pixels."""
    rng = np.random.default_rng(2)
    x, y = (rng.integers(0, 256, (11, 11)).astype(float) for _ in range(2))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
    cov = (window * (x - mx) * (y - my)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    wanted = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    from torchmetrics.functional.image import structural_similarity_index_measure

    pictures = [torch.from_numpy(picture).float()[None, None] for picture in (x, y)]
    _, image = structural_similarity_index_measure(*pictures, data_range=255.0, return_full_image=True)
    # Squares of values up to 255 in float32: the variance's relative error is about 1e-5.
    assert float(image[0, 0, 5, 5]) == pytest.approx(wanted, abs=1e-4)


def test_pixels_lose_nothing():
    video = torch.from_numpy(clips(3)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    ((before, after),) = reconstructed(PixelCodec(), video, CPU)
    assert np.array_equal(before, after) and np.array_equal(before, clips(3))


def test_average_is_the_mean_of_every_block():
    picture = clips(4)  # 24 x 24: blocks of 6 x 6
    mean = averaged(picture)
    assert mean.shape == picture.shape and mean.dtype == np.uint8
    for row, column in ((0, 0), (7, 10), (23, 23)):
        top, left = row // 6 * 6, column // 6 * 6
        block = picture[1, 2, top : top + 6, left : left + 6].reshape(36, 3).astype(float).mean(axis=0)
        assert np.array_equal(mean[1, 2, row, column], np.rint(block))
    assert np.array_equal(averaged(mean), mean)


class Reversing(PixelCodec):
    """An autoencoder of three-frame clips that reverses them."""

    def decode(self, latent):
        assert latent.shape[1] == 3
        return latent.flip(1)


class Protocol:
    frames, real_interval, resolution = 6, 1, 24


class Means:
    """The mean of each frame."""

    def __init__(self):
        self.seen = []

    def features(self, clips):
        self.seen.append(clips)
        return torch.from_numpy(clips.mean(axis=(2, 3, 4)))


class ScorerOfMeans:
    def __init__(self):
        self.protocol, self.extractors = Protocol, {"distance": Means()}


def test_clips_of_a_chain_go_through_the_first_stage_one_by_one(tmp_path, monkeypatch):
    """Six frames come back as two reversed halves."""
    long, scorer = clips(5).reshape(1, 6, 24, 24, 3), ScorerOfMeans()
    monkeypatch.setattr(reconstruction, "load_window", lambda *_: long[0])
    first = FirstStage(Reversing(), CPU, "codec")
    found = reconstruction_features(first, (3, 3, 24, 24), [(None, 0)], scorer, ResumeStore(tmp_path))
    (after,) = scorer.extractors["distance"].seen
    assert np.array_equal(after, long[:, [2, 1, 0, 5, 4, 3]]) and found.shape == (1, 6)


def test_any_number_of_clips_is_read_encoded_and_described_a_few_at_a_time(tmp_path, monkeypatch):
    """20 windows in parts of 8, the codec given 4 clips at a time, and what was kept not made again."""
    made = {start: np.random.default_rng(start).integers(0, 256, (6, 24, 24, 3), dtype=np.uint8) for start in range(20)}
    monkeypatch.setattr(reconstruction, "load_window", lambda video, start, *_: made[start])
    monkeypatch.setattr(reconstruction, "PIXELS_AT_ONCE", 4 * 3 * 24 * 24)
    sizes = []

    class Counting(Reversing):
        def encode(self, video, rng):
            sizes.append((len(video), len(rng)))
            return video

    windows, first = [(None, start) for start in range(20)], FirstStage(Counting(), CPU, "codec")
    store = ResumeStore(tmp_path)
    found = reconstruction_features(first, (3, 3, 24, 24), windows, ScorerOfMeans(), store)
    assert sizes == [(4, 4)] * 10  # each window is two clips
    wanted = np.stack([made[start][[2, 1, 0, 5, 4, 3]].mean(axis=(1, 2, 3)) for start in range(20)])
    assert np.array_equal(found, wanted)
    sizes.clear()
    store.delete("reconstruction-000008", ".npz")
    assert np.array_equal(reconstruction_features(first, (3, 3, 24, 24), windows, ScorerOfMeans(), store), wanted)
    assert len(sizes) == 4  # the eight windows of one part


def test_pixel_scores_do_not_depend_on_the_chunks(tmp_path, monkeypatch):
    video = torch.from_numpy(np.concatenate([clips(seed) for seed in range(3)])).permute(0, 1, 4, 2, 3) / 127.5 - 1
    first = FirstStage(Reversing(), CPU, "codec", lambda a, b: (a - b).abs().mean(dim=(1, 2, 3, 4)))
    monkeypatch.setattr("lavita.experiment.reconstruction.write_comparison", lambda path, rows: shown.append(rows))
    shown, values = [], []
    for clips_at_once in (6, 2, 1):
        monkeypatch.setattr(reconstruction, "PIXELS_AT_ONCE", clips_at_once * 3 * 24 * 24)
        values.append({score.metric: score.value for score in pixel_scores(first, video, tmp_path / "codec.gif")})
    assert values[0].keys() == {f"{name}_n6_f3" for name in ("psnr", "psnr_average4x4", "ssim", "lpips")}
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-5)
    assert all(len(rows) == 12 and np.array_equal(rows, shown[0]) for rows in shown)
