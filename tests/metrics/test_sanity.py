"""Sanity rows: what they measure, and what they say."""

import numpy as np
import pytest
import torch

from lavita.metrics.corruptions import static
from lavita.metrics.distances import frechet_distance, inception_score
from lavita.metrics.features.base import Extractor
from lavita.metrics.sanity import SANITY_CORRUPTIONS, Sensitivity, sanity_rows, verdict


class FirstFrame(Extractor):
    """Blind to everything after the first frame."""

    name, weights_hash, num_features, num_classes = "first", "", 3, None

    def forward_features(self, clips):
        return clips[:, 0].float().mean(dim=(1, 2))

    forward_probabilities = forward_features


class Motion(FirstFrame):
    """Sees how much neighbouring frames differ, and detail."""

    def forward_features(self, clips):
        video = clips.float()
        moved, detail = video.diff(dim=1).square(), video.diff(dim=2).square()
        return torch.stack([(1 + part.mean(dim=(1, 2, 3, 4))).log() for part in (moved, detail)], dim=1)


def sliding(count=12, frames=6, size=16):
    """A wave moving by one pixel a frame over a fine texture that stays."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 40, (count, 1, size, size, 3))
    phase = np.arange(size)[None] - np.arange(frames)[:, None] + rng.integers(size, size=(count, 1, 1))
    wave = 128 + (70 + np.arange(count)[:, None, None]) * np.sin(2 * np.pi * phase / size)  # (count, frames, size)
    return (texture + wave[:, :, None, :, None]).astype(np.uint8)


def test_an_extractor_that_sees_only_one_frame_is_found_out():
    report = sanity_rows(FirstFrame(), sliding())
    # The first frame held is the clip itself for this extractor: the same distance, split by split.
    assert report.rows["static"] == report.rows["halves"]
    assert not report.informative and report.verdict.startswith("sensitive to ")
    said = report.verdict.partition("; not sensitive at this size to ")[2]
    assert "static 1.00" in said and "two real halves of 6 clips" in said


def test_an_extractor_that_sees_motion_and_detail_is_sensitive_to_both():
    report = sanity_rows(Motion(), sliding())
    assert report.informative and "not " not in report.verdict
    said = dict(one.rsplit(" ", 1) for one in report.verdict.removeprefix("sensitive to ").split(" (")[0].split(", "))
    ratios = {name.replace("_", " "): value for name, value in report.ratios().items()}
    assert list(said) == sorted(ratios, key=ratios.get, reverse=True)
    assert all(float(said[name]) == pytest.approx(value, rel=6e-3) for name, value in ratios.items())
    assert list(report.rows) == ["halves", "shuffled", "static", "blurred", "swapped", "half_frozen"]
    assert all(report.low[name] > report.high["halves"] for name in report.ratios())
    assert all(ratio >= 3 for ratio in report.ratios().values())
    assert all(report.low[name] <= value <= report.high[name] for name, value in report.rows.items())


def test_the_rows_are_frechet_distances_of_halves():
    clips = sliding(4)
    report = sanity_rows(Motion(), clips, seed=3, changes=["static"], splits=1)
    order = np.random.default_rng(3).permutation(4)
    one, other = clips[order[:2]], clips[order[2:]]
    corrupted = np.stack([static(clip, None) for clip in other])
    seen = [Motion().features(part).numpy() for part in (one, other, corrupted)]
    assert report.rows == {
        "halves": frechet_distance(seen[0], seen[1]),
        "static": frechet_distance(seen[0], seen[2]),
    }


def test_the_seed_decides_everything():
    assert sanity_rows(Motion(), sliding(), seed=1) == sanity_rows(Motion(), sliding(), seed=1)
    assert sanity_rows(Motion(), sliding(), seed=1).rows != sanity_rows(Motion(), sliding(), seed=2).rows


def test_the_verdict_names_what_is_not_seen():
    sensitive, text = verdict({"halves": 2.0, "shuffled": 5.0, "half_frozen": 6.0, "blurred": 246913.5}, 8)
    assert not sensitive and text == (
        "sensitive to blurred 123000, half frozen 3.00; not sensitive at this size to shuffled 2.50, wanted at least 3 "
        "(times the real-vs-real baseline, two real halves of 8 clips)"
    )
    assert verdict({"halves": 0.0, "static": 0.0}, 8)[0] is False
    assert verdict({"halves": 1.0, "static": float("nan")}, 8)[0] is False
    assert verdict({"halves": 0.0, "static": 3.0}, 8) == (
        True, "sensitive to static (times the real-vs-real baseline, two real halves of 8 clips)",
    )  # fmt: skip
    with pytest.raises(ValueError, match="got 3 real clips, wanted at least 4"):
        sanity_rows(Motion(), sliding(3))


def test_a_row_that_touches_the_baseline_is_not_clearly_seen():
    rows, low = {"halves": 1.0, "static": 9.0}, {"halves": 0.5, "static": 3.0}
    assert verdict(rows, 8, low, {"halves": 2.9, "static": 20.0})[0]
    sensitive, text = verdict(rows, 8, low, {"halves": 3.0, "static": 20.0})
    assert not sensitive and text.startswith(
        "sensitive to nothing that was tried; not clearly to static 9.00: some split lies no further than some two real"
    )


def test_other_clips_are_a_row_of_as_many_clips():
    clips, noise = sliding(4), np.random.default_rng(1).integers(0, 256, (3, 6, 16, 16, 3), dtype=np.uint8)
    report = sanity_rows(Motion(), clips, seed=3, changes=[], splits=1, others={"noise": noise})
    rng = np.random.default_rng(3)
    one, drawn = clips[rng.permutation(4)[:2]], noise[rng.permutation(3)[:2]]
    assert report.rows["noise"] == frechet_distance(*(Motion().features(part).numpy() for part in (one, drawn)))
    with pytest.raises(ValueError, match="noise: got 1, wanted 2, as many as a half; 1 are missing"):
        sanity_rows(Motion(), clips, others={"noise": noise[:1]})
    with pytest.raises(ValueError, match="'static' names a row already"):
        sanity_rows(Motion(), clips, others={"static": noise})


class Colours(FirstFrame):
    """Classes by the mean colour of the first frame."""

    num_classes = 3

    def forward_probabilities(self, clips):
        return torch.softmax(self.forward_features(clips) / 8, dim=1)


def test_the_inception_score_of_the_real_clips_where_there_are_classes():
    clips = sliding(6)
    assert sanity_rows(Motion(), clips, changes=[], splits=1, classes=Motion()).inception is None
    report = sanity_rows(Motion(), clips, changes=[], splits=1, classes=Colours(), is_splits=2)
    assert report.inception == inception_score(Colours().probabilities(clips).numpy(), 2)


def test_features_that_are_known_are_not_computed_again():
    class Counting(Motion):
        calls = 0

        def forward_features(self, clips):
            self.calls += 1
            return super().forward_features(clips)

    network, clip = Counting(), sliding(1)[0]
    fresh, reused = Sensitivity(network), Sensitivity(network)
    features = fresh.add(clip)
    assert network.calls == 1 + len(SANITY_CORRUPTIONS)
    assert reused.add(clip, features) is features and network.calls == 1 + 2 * len(SANITY_CORRUPTIONS)
