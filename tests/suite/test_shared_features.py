"""The shared parts of a run: on the accelerator, heard of at least each minute, and resumed where they were."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavita.config.plan import make_plan
from lavita.data import clips as data_clips
from lavita.data.catalogue import VideoEntry
from lavita.experiment import reconstruction, shared, shared_codec, shared_features
from lavita.experiment.peaks import Memory
from lavita.experiment.reconstruction import FirstStage, reconstruction_features
from lavita.experiment.scoring import Scorer
from lavita.experiment.shared_features import FeatureCache, real_clips, split_features
from lavita.metrics.features import stretches
from lavita.results.resume_store import ResumeStore
from lavita.training import distributed
from lavita.training.checkpoint import Stopped

CPU = torch.device("cpu")


@pytest.fixture
def experiment():
    small = ["protocol.n_real=20", "protocol.n_generated=20", "protocol.frames=4", "data.frames=4"]
    (made,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], small)
    return replace(made, protocol=replace(made.protocol, resolution=16, real_interval=1))


def video(number: int, split: str) -> VideoEntry:
    """20 frames, which no file holds."""
    return VideoEntry(f"{split}{number:02d}", f"{split}{number}.avi", f"g{number}", "walk", 0, split, 20)


@pytest.fixture
def catalogue():
    videos = [video(number, split) for split in ("train", "heldout") for number in range(8)]
    return SimpleNamespace(
        fingerprint="f" * 16, dataset="made up", split=lambda name: [v for v in videos if name in (v.split, "all")]
    )


class Clock:
    """Seconds that pass only where something is said to take some."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heard = [0.0]

    def progress(self, *_: object) -> None:
        self.heard.append(self.now)

    def longest_silence(self) -> float:
        return float(np.diff([*self.heard, self.now]).max())


class Network:
    """Two means of a clip as features and the brightness as a class; seconds: of a call on one thread of a CPU."""

    name, weights_hash, num_features, num_classes = "means", "0" * 64, 2, 2

    def __init__(self, clock: Clock, seconds: float = 1.45) -> None:
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def features(self, clips: np.ndarray) -> torch.Tensor:
        self.clock.now += self.seconds * len(clips)
        self.calls += len(clips)
        moved = np.abs(np.diff(clips.astype(float), axis=1)).mean(axis=(1, 2, 3, 4))
        return torch.from_numpy(np.stack([clips.mean(axis=(1, 2, 3, 4)), moved], axis=1)).float()

    def probabilities(self, clips: np.ndarray) -> torch.Tensor:
        self.clock.now += self.seconds * len(clips)
        share = torch.from_numpy(clips.mean(axis=(1, 2, 3, 4)) / 255).float()
        return torch.stack([share, 1 - share], dim=1)


def pixels(entry: VideoEntry, start: int, frames: int, interval: int, resolution: int) -> np.ndarray:
    seed = [*entry.video_id.encode(), start]
    return np.random.default_rng(seed).integers(0, 256, (frames, resolution, resolution, 3), dtype=np.uint8)


@pytest.fixture
def clock(monkeypatch):
    """No file is read, and reports go to a clock."""
    clock = Clock()
    for module in (shared, shared_features, reconstruction):
        monkeypatch.setattr(module, "progress", clock.progress)
    for module in (shared_features, reconstruction):
        monkeypatch.setattr(module, "load_window", pixels)
    return clock


def windows_of(catalogue, experiment) -> list[tuple[VideoEntry, int]]:
    p = experiment.protocol
    return data_clips.real_windows(catalogue, "train", p.frames, p.real_interval, None, p.n_real, p.clip_seed)


def cache_of(folder, catalogue, experiment) -> FeatureCache:
    return FeatureCache.of(folder / "cache", catalogue, experiment.protocol, CPU)


def test_real_and_split_clips_are_heard_of_each_minute_and_are_what_they_were(tmp_path, clock, experiment, catalogue):
    """With I3D in one thread of a CPU: seven calls of 1.45 s a real clip."""
    network, windows = Network(clock), windows_of(catalogue, experiment)
    cache, out = cache_of(tmp_path, catalogue, experiment), tmp_path / "out"
    found = real_clips(experiment.protocol, dict.fromkeys(("distance", "classes"), network), windows, 2, cache, out)
    splits = split_features(experiment.protocol, network, catalogue, cache, out)
    assert clock.longest_silence() < 60 < clock.now
    with np.load(found.features) as file:
        assert file.files == ["features", "names", "probabilities"]
        p = experiment.protocol
        clips = np.stack([pixels(v, start, p.frames, p.real_interval, p.resolution) for v, start in windows])
        assert np.array_equal(file["features"], network.features(clips).numpy())
        assert list(file["names"]) == [f"{v.video_id}@{start}" for v, start in windows]
    by_hand = shared_features.Sensitivity(network)
    for clip in clips:
        by_hand.add(clip)
    assert found.sensitivity.rows == by_hand.report(ddof=p.ddof).rows
    assert {path.name for path in out.iterdir()} == {
        "real.npz", "real.gif", "real.sprite.webp", "real.sprite.json", "train.npz", "heldout.npz"
    }  # fmt: skip
    with np.load(splits["heldout"]) as file:
        assert len(file["features"]) == 40 and all(name.startswith("heldout") for name in file["names"])


def test_what_was_kept_is_not_extracted_again(tmp_path, clock, experiment, catalogue):
    """A process that is ended within the third part goes on there, and a second run finds all."""
    windows, cache = windows_of(catalogue, experiment), cache_of(tmp_path, catalogue, experiment)

    class Ending(Network):
        def features(self, clips):
            if self.calls == 18 * 6:
                raise Stopped("asked to stop")
            return super().features(clips)

    def fit(network):
        networks = dict.fromkeys(("distance", "classes"), network)
        return real_clips(experiment.protocol, networks, windows, None, cache, tmp_path / "out")

    with pytest.raises(Stopped):
        fit(Ending(clock))
    (part,) = (tmp_path / "cache").glob(".real-*.part")
    assert len(list((part / "progress").glob("real clips-*.npz"))) == 2
    second = Network(clock)
    found = fit(second)
    assert second.calls == 4 * 6  # clips 16 to 19, whole and in five corruptions
    third, whole = Network(clock), Network(clock)
    assert fit(third) == found and third.calls == 0
    cache = cache_of(tmp_path / "other", catalogue, experiment)
    networks = dict.fromkeys(("distance", "classes"), whole)
    other = real_clips(experiment.protocol, networks, windows, None, cache, tmp_path / "other" / "out")
    assert whole.calls == 20 * 6 and other.sensitivity == found.sensitivity
    assert other.features.read_bytes() == found.features.read_bytes()


def test_what_decides_features_decides_their_place(tmp_path, experiment, catalogue):
    cache, windows = cache_of(tmp_path, catalogue, experiment), windows_of(catalogue, experiment)
    made = []
    for one, some in (
        (cache, windows),
        (cache, windows[1:]),
        (FeatureCache.of(cache.folder, catalogue, replace(experiment.protocol, clip_seed=9), CPU), windows),
        (FeatureCache.of(cache.folder, catalogue, experiment.protocol, torch.device("cuda", 0)), windows),
    ):
        made.append(one.made("real", some, lambda folder, store: None))
    assert len(set(made)) == 4 and cache.made("real", windows, None) == made[0]


def test_reconstructions_are_heard_of_each_minute(tmp_path, clock, experiment, catalogue, monkeypatch):
    """With Stable Diffusion's autoencoder on a CPU of 2 TFLOP/s: 115 s for a part of eight clips."""
    monkeypatch.setattr(reconstruction, "PIXELS_AT_ONCE", 2 * 4 * 16 * 16)

    class Slow(reconstruction.Codec):
        def encode(self, video, rng):
            clock.now += 14.3 * len(video)
            return video

        def decode(self, latent):
            return latent

    windows, scorer = windows_of(catalogue, experiment), SimpleNamespace(protocol=experiment.protocol)
    scorer.extractors = {"distance": Network(clock)}
    first = FirstStage(Slow(), CPU, "codec")
    reconstruction_features(first, (4, 3, 16, 16), windows, scorer, ResumeStore(tmp_path))
    assert clock.longest_silence() < 60 < clock.now


def test_training_of_the_extractor_is_heard_of_each_minute(tmp_path, clock, experiment, catalogue, monkeypatch):
    """35 s to read a video, 30 s for a step."""

    def read(entry, count, resolution):
        return np.zeros((count, resolution, resolution, 3), np.uint8)

    class Nothing:
        weights_hash = ""

    def fit(frames, *_, steps, report, **__):
        assert len(frames) == 8
        for step in range(steps):
            clock.now += 30
            report(step + 1, steps, 0.1)
        return Nothing()

    def slow(work, items, *_):
        for item in items:
            clock.now += 35
            yield work(item)

    monkeypatch.setattr(stretches, "load_start", read)
    monkeypatch.setattr(stretches, "in_threads", slow)
    monkeypatch.setattr(shared, "fit_in_domain", fit)
    monkeypatch.setattr(shared, "save_in_domain", lambda *_: None)
    shared.train_extractor(shared.fit_setting(experiment, None), catalogue, tmp_path)
    assert clock.longest_silence() < 60 < clock.now


def test_real_split_and_generated_clips_go_to_one_accelerator(tmp_path, clock, experiment, catalogue, monkeypatch):
    """Every place that loads a network or an autoencoder, on a machine that says it has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    asked = []

    def load(protocol, weights, in_domain, device):
        asked.append(device)
        return dict.fromkeys(("distance", "classes"), Network(clock))

    class Codec:
        def to(self, device):
            asked.append(str(device))
            raise InterruptedError  # what comes after needs the device

    monkeypatch.setattr(shared, "load_extractors", load)
    monkeypatch.setattr("lavita.experiment.scoring.load_extractors", load)
    monkeypatch.setattr("lavita.experiment.scoring.load_arrays", lambda path: {})
    monkeypatch.setattr(shared_features, "load_suite_codec", lambda *_: Codec())

    # The shared process, as far as its features, each part replaced that would need data.
    (tmp_path / "spec.json").write_text(json.dumps({"experiments": [None], "cache": str(tmp_path), "reuse": False}))
    catalogue.class_names = []
    for name, value in {
        "experiment_from_dict": experiment,
        "usable_catalogue": catalogue,
        "check_experiments": windows_of(catalogue, experiment),
        "external_hashes": {},
        "fit_codec": shared_codec.SharedCodec(tmp_path, "c" * 64, None),
        "fill_cache": (None, None),
        "fit_extractor": None,
        "device_memory": Memory(2**34),
    }.items():
        monkeypatch.setattr(shared, name, lambda *_, value=value: value)
    with pytest.raises(InterruptedError):
        shared.main(tmp_path / "spec.json", tmp_path / "out")
    assert asked == ["cuda:0"] * 2  # the networks of real and split clips, then the autoencoder
    assert len(list(tmp_path.glob("split-*"))) == 2 and len(list(tmp_path.glob("real-*"))) == 1
    artifacts = SimpleNamespace(extractor=None, real=None, splits={}, num_classes=None)
    Scorer(artifacts, experiment, str(distributed.own_device()))  # as the process of a run calls it
    assert asked == ["cuda:0"] * 3
