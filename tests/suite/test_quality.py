"""Reconstruction scores: PSNR by its definition, SSIM of equal and noisy pictures, a lossless autoencoder."""

import numpy as np
import pytest
import torch

from lavita.codecs.base import PixelCodec
from lavita.experiment import scoring
from lavita.experiment.scoring import averaged, psnr_and_ssim, reconstruction


def clips(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 3, 24, 24, 3), dtype=np.uint8)


def test_psnr_is_its_definition():
    before, after = clips(0), clips(1)
    error = np.mean((before.astype(float) - after.astype(float)) ** 2)
    psnr, ssim = psnr_and_ssim(before, after)
    # A mean of 10,368 squares in float32: relative 1e-6 at most, 4e-6 dB.
    assert psnr == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
    assert abs(ssim) < 0.1  # independent noise has no common structure
    assert psnr_and_ssim(before, before)[1] == pytest.approx(1.0, abs=1e-6)


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
    before, after = reconstruction(PixelCodec(), video)
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


def test_clips_of_a_chain_go_through_the_first_stage_one_by_one(monkeypatch):
    """An autoencoder of three-frame clips that reverses them: six frames come back as two reversed halves."""

    class Reversing(PixelCodec):
        def decode(self, latent):
            assert latent.shape[1] == 3
            return latent.flip(1)

    class protocol:
        frames, real_interval, resolution = 6, 1, 24

    class scorer:
        pass

    scorer.protocol = protocol
    long = clips(5).reshape(1, 6, 24, 24, 3)
    monkeypatch.setattr(scoring, "load_window", lambda *_: long[0])
    (after,) = scoring.reconstructed(Reversing(), [(None, 0)], scorer, torch.zeros(8, 3, 3, 24, 24))
    assert np.array_equal(after, long[:, [2, 1, 0, 5, 4, 3]])
