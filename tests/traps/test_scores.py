"""Known traps of published FVD and IS code, in the arithmetic of scores: a faulty stand-in fails, ours passes.

The numbers of the traps are those of docs/traps.md.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavita.metrics.clips import TooFew, array_items, picks
from lavita.metrics.distances import frechet_distance, inception_score, kernel_distance
from lavita.metrics.extract import Job, Networks, extract
from lavita.metrics.features.base import exact_arithmetic
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet
from lavita.metrics.table import METRICS
from tests.traps.faulty import protocol

RNG = np.random.default_rng(0)


def rows_of(kind: str) -> np.ndarray:
    """Features (n, d) whose covariance has full rank, or not."""
    sizes = {"n < d": (20, 64), "n = d": (64, 64), "n > d": (200, 64), "duplicated rows": (40, 64)}
    rows = RNG.standard_normal(sizes[kind])
    return np.concatenate([rows[:20], rows[:20]]) if kind == "duplicated rows" else rows


def root_of_product(s1: np.ndarray, s2: np.ndarray) -> float:
    """Trap 1: the trace of a root of S1 S2 from eigenvalues of the product, in single precision."""
    return float(np.sqrt(np.linalg.eigvals((s1 @ s2).astype(np.float32)).astype(complex)).real.sum())


@pytest.mark.parametrize("kind", ["n < d", "duplicated rows", "n = d", "n > d"])
def test_1_a_set_has_no_distance_to_itself_however_singular(kind):
    x = rows_of(kind)
    s = np.cov(x.T, ddof=0)
    if kind in ("n < d", "duplicated rows"):  # far from full rank
        assert abs(2 * np.trace(s) - 2 * root_of_product(s, s)) > 1e-4 * np.trace(s)
    # The documented error: about epsilon times both traces; a thousand of them for 64 terms.
    assert abs(frechet_distance(x, x)) < 1000 * 2.0**-52 * 2 * np.trace(s)


def test_3_precision_and_recall_are_not_offered():
    """Exchanged in all releases of a library until 2026: the suite has neither, so that nobody can mistake them."""
    assert not {"precision", "recall"} & set(METRICS)


def features_by(network: InDomainExtractor, clips: np.ndarray) -> np.ndarray:
    """What the suite scores: features (n, d) of clips (N, F, H, W, 3)."""
    items = array_items(clips)
    job = Job(protocol(len(clips)), Networks(network, network, None), picks(items, protocol(len(clips)), False))
    extract(items, [job], False, 1, lambda done, total: None)
    return np.stack(job.features.features)


def test_6_features_do_not_depend_on_what_else_is_scored():
    torch.manual_seed(0)
    network = InDomainExtractor(InDomainNet(3), {})
    clips = RNG.integers(0, 256, (7, 4, 16, 16, 3), dtype=np.uint8)
    together = features_by(network, clips)
    assert all(np.array_equal(features_by(network, clips[[k, 0]])[0], together[k]) for k in range(7))
    # A network left in training mode normalises by its batch.
    left = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    pictures = torch.from_numpy(clips[:, 0]).permute(0, 3, 1, 2).float()
    assert not torch.allclose(left(pictures)[:1], left(pictures[:1]), atol=0.1)


def with_one_n(x: np.ndarray, y: np.ndarray) -> float:
    """Trap 7: both covariances divided by the number of generated clips. For features of width 1."""
    variances = [((one - one.mean()) ** 2).sum() / len(y) for one in (x, y)]
    return float((x.mean() - y.mean()) ** 2 + sum(variances) - 2 * np.sqrt(variances[0] * variances[1]))


def test_7_unequal_numbers_of_clips():
    """Clips that stand twice change no mean and no variance: the distance stays."""
    x, y = RNG.standard_normal((300, 1)), 2 * RNG.standard_normal((350, 1)) + 1
    twice = np.concatenate([y, y])
    assert abs(with_one_n(x, twice) - with_one_n(x, y)) > 0.1
    for real, generated, other in ((x, y, twice), (y, x, np.concatenate([x, x]))):
        assert frechet_distance(real, other) == pytest.approx(frechet_distance(real, generated), rel=1e-9)
    wanted = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2  # the closed form of width 1
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-9)


def test_9_no_epsilon_on_the_covariance():
    x = RNG.standard_normal((50, 32))
    s, epsilon = np.cov(x.T, ddof=0), 1e-3
    widened = s + epsilon * np.eye(32)
    roots = np.sqrt(np.linalg.eigvals(widened @ widened).astype(complex)).real.sum()
    assert 2 * np.trace(s) - 2 * roots == pytest.approx(-2 * 32 * epsilon, rel=1e-6)  # below zero
    assert abs(frechet_distance(x, x)) < 1e-11
    assert frechet_distance(2 * x, x) == pytest.approx(np.trace(s) + (x.mean(0) ** 2).sum(), rel=1e-9)


def in_order(p: np.ndarray, splits: int) -> float:
    """Trap 10: the splits of IS are taken in the order of the files."""
    parts = np.array_split(p, splits)
    return float(np.mean([np.exp(np.mean(np.sum(q * np.log((q + 1e-12) / q.mean(0)), 1))) for q in map(smooth, parts)]))


def smooth(p: np.ndarray) -> np.ndarray:
    return (p + 1e-9) / (p + 1e-9).sum(1, keepdims=True)


def test_10_is_does_not_fall_where_clips_are_sorted_by_class():
    by_class = np.eye(10)[np.arange(1000) // 100]
    mixed = by_class[RNG.permutation(1000)]
    assert in_order(by_class, 10) < 1.01 and in_order(mixed, 10) > 9
    # Splits of 100 of 10 equal classes have entropies within log 10 of their sample: 9.5 on average, never above 10.
    for order in (by_class, mixed):
        assert 9 < inception_score(order, 10, 42)[0] <= 10 + 1e-9


def v_statistic(x: np.ndarray, y: np.ndarray) -> float:
    """Trap 31: the kernel distance with each clip's term with itself."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a @ b.T / a.shape[1] + 1) ** 3).mean())

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def test_31_two_samples_of_one_law_have_no_kernel_distance_on_average():
    pairs = [RNG.standard_normal((2, 32, 16)) for _ in range(200)]
    biased, ours = (np.array([score(x, y) for x, y in pairs]) for score in (v_statistic, kernel_distance))
    error = ours.std() / np.sqrt(len(pairs))
    assert abs(ours.mean()) < 4 * error < biased.mean()


def test_27_too_few_clips_are_no_score():
    items = array_items(RNG.integers(0, 256, (5, 4, 16, 16, 3), dtype=np.uint8))
    resampled = RNG.choice(len(items), 8, replace=True)
    assert len(resampled) == 8 > len(set(resampled))  # a score of 8 clips, of which some are one
    with pytest.raises(TooFew, match="scores 8 generated clips, there are 5: 3 are missing"):
        picks(items, protocol(8), False)
    assert len({pick.item for pick in picks(items, protocol(5), False)}) == 5


def test_tf32_is_off_in_feature_networks():
    """Libraries leave it as the process has it: ten bits of mantissa in features that a distance subtracts."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            assert torch.backends.cudnn.allow_tf32  # as it would be found
            with exact_arithmetic():
                assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
