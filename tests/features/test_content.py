"""What a clip shows: its statistics, the contrastive loss, altered windows, and content of other data that is seen."""

import math

import numpy as np
import pytest
import torch

from lavita.data.clips import load_window
from lavita.data.layouts import read_layout
from lavita.data.synthetic import write_synthetic
from lavita.metrics.distances import frechet_distance
from lavita.metrics.features import content_training, in_domain_training
from lavita.metrics.features.content import CONTENT_WIDTH, NUM_CONTENTS, ContentNet, content_statistics
from lavita.metrics.features.content_training import contrastive_loss, fit_content, rearranged
from lavita.metrics.features.discriminants import weighted_axes, whitening
from lavita.metrics.features.in_domain_training import fit_in_domain, unfamiliar


def in_numpy(first, second, negatives, temperature):
    """InfoNCE row by row, as its formula stands."""
    first, second, negatives = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second, negatives)
    )
    terms = []
    for rows, others in ((first, second), (second, first)):
        for i, row in enumerate(rows):
            wanted = math.exp(row @ others[i] / temperature)
            told_from = [math.exp(row @ other / temperature) for j, other in enumerate(others) if j != i]
            told_from += [math.exp(row @ other / temperature) for other in negatives]
            terms.append(-math.log(wanted / (wanted + sum(told_from))))
    return np.mean(terms)


@pytest.mark.parametrize("videos, negatives, temperature", [(5, 7, 0.5), (2, 0, 0.1), (1, 3, 1.0)])
def test_the_contrastive_loss_is_the_formula(videos, negatives, temperature):
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((count, 6)) for count in (videos, videos, negatives)]
    found = contrastive_loss(*map(torch.from_numpy, rows), temperature)
    assert found.item() == pytest.approx(in_numpy(*rows, temperature), rel=1e-12)


def test_the_contrastive_loss_in_closed_form():
    axes = torch.eye(6, dtype=torch.float64)
    # Cosine 1 to the positive, 0 to the two other videos and the three negatives.
    found = contrastive_loss(axes[:3], 7 * axes[:3], axes[3:], 0.5)
    assert found.item() == pytest.approx(math.log(1 + 5 * math.exp(-2)), rel=1e-12)
    # All alike: one of six by chance. Nothing to be told from: no loss.
    same = torch.ones(6, 4, dtype=torch.float64)
    assert contrastive_loss(same[:3], same[:3], same[:3], 0.5).item() == pytest.approx(math.log(6), rel=1e-12)
    assert contrastive_loss(same[:1], same[:1], same[:0], 0.5).item() == 0


@pytest.mark.parametrize("size", [16, 21, 32])
def test_rearranged_windows_keep_every_pixel_and_move_all_frames_alike(size):
    rng, seen = np.random.default_rng(0), set()
    clip = np.arange(size * size, dtype=np.int64).reshape(1, size, size, 1)
    clip = np.repeat(np.concatenate([clip, clip + 1000]), 3, axis=3)
    for _ in range(20):
        made = rearranged(clip, rng)
        assert not np.array_equal(made, clip) and np.array_equal(made[1], made[0] + 1000)
        assert np.array_equal(np.sort(made[0], axis=None), np.sort(clip[0], axis=None))
        seen.add(made.tobytes())
    assert len(seen) > 10


def test_statistics_of_a_flat_and_of_a_striped_clip():
    flat = torch.full((2, 4, 3, 16, 16), 0.25)
    rows = content_statistics(flat)
    assert rows.shape == (2, NUM_CONTENTS) and torch.isfinite(rows).all()
    # Grey: its luminance is its level, its colour differences are 0, and nothing varies.
    torch.testing.assert_close(rows[0, :3], torch.tensor([0.25, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[0, 3:6], torch.full((3,), math.log(0.02)), atol=1e-4, rtol=0)
    stripes = torch.tensor([-0.5, 0.5]).repeat(8).expand(1, 4, 3, 16, 16)
    row = content_statistics(stripes)[0]
    across, down = row[57:60], row[60:63]  # after 3 + 3 + 3 * 16 + 3 columns: the finest scale's log amplitudes
    assert across[0].item() == pytest.approx(0.5 * math.log(1 + 1e-5), abs=1e-4)  # steps of 1 between all neighbours
    assert down[0].item() == pytest.approx(0.5 * math.log(1e-5), abs=1e-4)


def test_the_order_of_frames_is_not_content():
    video = torch.rand(3, 6, 3, 16, 16)
    shuffled = video[:, [4, 1, 0, 3, 2, 5]]
    torch.testing.assert_close(content_statistics(video), content_statistics(shuffled), atol=1e-5, rtol=1e-5)


def test_whitened_clips_are_white_and_axes_weigh_what_they_separate():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((500, 4)) @ rng.standard_normal((4, 4)))
    centre, white = whitening(rows, 0.0)
    np.testing.assert_allclose(np.cov(((rows - centre) @ white).numpy().T), np.eye(4), atol=1e-9)
    axes = weighted_axes(torch.diag(torch.tensor([1.0, 9.0, 0.0, 4.0], dtype=torch.float64)), 0.5)
    np.testing.assert_allclose(axes.abs().numpy(), [[0, 1 / 3, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 2 / 3, 0]])
    assert torch.isfinite(weighted_axes(torch.zeros(2, 2, dtype=torch.float64), 0.5)).all()


def test_unfamiliar_clips_move_as_before():
    video = torch.rand(8, 5, 3, 16, 16) * 2 - 1
    made = unfamiliar(video, np.random.default_rng(0))
    energy = lambda clips: clips.diff(dim=1).square().sum(dim=(2, 3, 4))  # noqa: E731
    torch.testing.assert_close(energy(made), energy(video))
    assert not any(torch.equal(one, other) for one, other in zip(made, video, strict=True))
    assert unfamiliar(video[..., :12], np.random.default_rng(0)).shape == (8, 5, 3, 16, 12)


@pytest.mark.parametrize("videos", [1, 3])
def test_windows_of_one_video_come_together_and_rearranged_ones_apart(videos, monkeypatch):
    monkeypatch.setattr(content_training, "POOL", 64)
    monkeypatch.setattr(content_training, "REARRANGED_POOL", 32)
    pictures = np.random.default_rng(1).integers(0, 256, (videos, 1, 16, 16, 3), dtype=np.uint8).repeat(4, axis=1)
    rng = np.random.default_rng(0)

    def draw(numbers, altered):
        clips = np.stack([rearranged(pictures[number], rng) if altered else pictures[number] for number in numbers])
        video = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        return video + torch.from_numpy(rng.normal(0, 0.02, video.shape)).float()

    torch.manual_seed(0)
    net = ContentNet()
    fit_content(net, draw, videos, 60, rng)
    with torch.no_grad():
        place = lambda flag: (net(content_statistics(draw(np.zeros(16, int), flag))) - net.centre) @ net.projection  # noqa: E731
        real, other = place(False), place(True)
    assert real.shape == (16, CONTENT_WIDTH)
    assert (real - real.mean(dim=0)).norm(dim=1).max() < (other - real.mean(dim=0)).norm(dim=1).median() / 3


def test_content_of_other_synthetic_data_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(content_training, "POOL", 256)
    monkeypatch.setattr(content_training, "REARRANGED_POOL", 128)
    monkeypatch.setattr(in_domain_training, "WHITENING_CLIPS", 32)
    sets = {name: read_layout(name, write_synthetic(name, tmp_path)) for name in ("skytimelapse", "taichi")}

    def windows(name, split):
        return np.stack([load_window(v, 0, 6, 1, 16) for v in sets[name].split(split)])

    stretches = [load_window(video, 0, 12, 1, 16) for video in sets["skytimelapse"].split("train")]
    made = fit_in_domain(stretches, 6, 1, flip=False, steps=60)
    heldout, other = windows("skytimelapse", "heldout"), windows("taichi", "heldout")
    one, two = heldout[:6], heldout[6:12]  # no video is in both
    baseline, distance = (
        frechet_distance(made.features(one).numpy(), made.features(rows).numpy()) for rows in (two, other[:6])
    )
    assert distance > 3 * baseline, (distance, baseline)
    # Seen by the content network: the features behind the seven of motion.
    seen = [made.features(rows).numpy()[:, -CONTENT_WIDTH:] for rows in (one, two, other[:6])]
    assert frechet_distance(seen[0], seen[2]) > 3 * frechet_distance(seen[0], seen[1])
