"""The torchmetrics classes: order, numbers of clips, names."""

import lightning
import numpy as np
import pytest
import torch
from torchmetrics import Metric

from lavita.config.compose import read_protocol
from lavita.config.schema import ConfigError
from lavita.metrics.distances import frechet_distance, frechet_distance_float32, inception_score, kernel_distance
from lavita.metrics.features.base import Extractor
from lavita.metrics.memorization import memorization
from lavita.metrics.table import I3D_TORCHSCRIPT_HASH
from lavita.metrics.torchmetrics import (
    FrechetFrameDistance,
    FrechetVideoDistance,
    KernelVideoDistance,
    MemorizationCheck,
    VideoInceptionScore,
)


class Corners(Extractor):
    """Features are the first frame's first pixels; probabilities the same, made to sum to one."""

    name, weights_hash, num_features, num_classes = "corners", "abc", 6, 6

    def forward_features(self, clips):
        return clips[:, 0, 0, :2].flatten(1).float()

    def forward_probabilities(self, clips):
        return torch.softmax(self.forward_features(clips) / 255, dim=1)


def clips(count, seed, frames=4):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, 16, 16, 3), dtype=np.uint8)


def features(array):
    return array[:, 0, 0, :2].reshape(len(array), 6).astype(np.float64)


REAL, FAKE = clips(9, 0), clips(9, 1)


@pytest.mark.parametrize(
    "cls, function", [(FrechetVideoDistance, frechet_distance), (KernelVideoDistance, kernel_distance)]
)
def test_distances_are_those_of_the_features(cls, function):
    metric = cls(Corners(), n=9)
    assert isinstance(metric, Metric)
    metric.update(REAL, real=True)
    metric.update(FAKE[:4], real=False)
    metric.update(FAKE[4:], real=False)
    assert metric.compute().item() == function(features(REAL), features(FAKE))


def test_ddof_and_another_number_of_real_clips():
    metric = FrechetVideoDistance(Corners(), n=9, n_real=5, ddof=1)
    metric.update(REAL[:5], real=True)
    metric.update(FAKE, real=False)
    assert metric.compute().item() == frechet_distance(features(REAL[:5]), features(FAKE), ddof=1)


def test_order_batches_and_repeats_change_no_bit():
    whole = FrechetVideoDistance(Corners(), n=9)
    whole.update(REAL, real=True)
    whole.update(FAKE, real=False)
    mixed = FrechetVideoDistance(Corners(), n=9)
    for indices in ([7, 2], [0, 1, 3], [8, 4, 5, 6], [0, 7]):  # the last two repeat, as padded samplers do
        mixed.update(FAKE[indices], real=False, indices=indices)
        mixed.update(REAL[indices], real=True, indices=indices)
    assert mixed.compute().item() == whole.compute().item()


def test_two_parts_merged_are_the_whole():
    whole, one, two = (FrechetVideoDistance(Corners(), n=9) for _ in range(3))
    whole.update(REAL, real=True)
    whole.update(FAKE, real=False)
    for metric, indices in ((one, range(0, 9, 2)), (two, range(1, 9, 2))):
        metric.update(REAL[list(indices)], real=True, indices=indices)
        metric.update(FAKE[list(indices)], real=False, indices=indices)
    one.merge_state(two)
    assert one.compute().item() == whole.compute().item()


def test_features_kept_from_before_count_as_clips_do():
    metric = FrechetVideoDistance(Corners(), n=9)
    metric.add_rows(Corners().features(REAL), real=True)
    metric.update(FAKE, real=False)
    assert metric.compute().item() == frechet_distance(features(REAL), features(FAKE))


def test_inception_score_is_of_the_generated_clips():
    metric = VideoInceptionScore(Corners(), n=9, splits=3)
    metric.update(REAL, real=True)
    metric.update(FAKE, real=False)
    mean, deviation = inception_score(Corners().probabilities(FAKE).numpy(), 3)
    assert metric.compute().item() == mean and metric.mean_and_deviation() == (mean, deviation)


def test_the_number_of_clips_is_part_of_the_metric():
    metric = FrechetVideoDistance(Corners(), n=9)
    metric.update(REAL, real=True)
    with pytest.raises(ValueError, match="generated clips: got none, the protocol wants 9; 9 are missing"):
        metric.compute()
    metric.update(FAKE[:7], real=False)
    with pytest.raises(ValueError, match="generated clips: got 7, the protocol wants 9; 2 are missing"):
        metric.compute()
    metric.update(FAKE[:4], real=False)
    with pytest.raises(ValueError, match="got 11, the protocol wants exactly 9; leave 2 out"):
        metric.compute()


def test_features_that_are_not_finite_name_their_clip():
    metric = FrechetVideoDistance(Corners(), n=9)
    metric.update(REAL, real=True)
    rows = Corners().features(FAKE)
    rows[6, 1] = torch.nan
    metric.add_rows(rows, real=False)
    with pytest.raises(ValueError, match="generated features: clip 6"):
        metric.compute()


def test_other_mistakes_are_refused():
    metric = FrechetVideoDistance(Corners(), n=9)
    metric.update(REAL, real=True)
    with pytest.raises(ValueError, match="clips of 5 frames after clips of 4"):
        metric.update(clips(2, 0, frames=5), real=False)
    with pytest.raises(ValueError, match="3 indices for 2 clips"):
        metric.update(REAL[:2], real=False, indices=[0, 1, 2])
    without = Corners()
    without.num_classes = None
    with pytest.raises(ValueError, match="gives no class probabilities"):
        VideoInceptionScore(without, n=9)


def test_only_the_standard_network_goes_without_its_name():
    key = FrechetVideoDistance.key
    assert key("i3d", 2048, 16, I3D_TORCHSCRIPT_HASH) == "fvd_n2048_f16"
    assert key("i3d", 2048, 16) == key("i3d", 2048, 16, "0" * 40) == "fvd_i3d_n2048_f16"
    assert key("embedded", 64, 8, I3D_TORCHSCRIPT_HASH) == "fvd_embedded_n64_f8"
    assert KernelVideoDistance.key("i3d", 48, 16, I3D_TORCHSCRIPT_HASH) == "kvd_n48_f16"
    # No hash of the C3D file was ever recorded, so its part is never absent.
    assert VideoInceptionScore.key("c3d", 2048, 16, "abc") == "is_c3d_n2048_f16"
    assert VideoInceptionScore.key("c3d", 2048, 16, None) == "is_c3d_n2048_f16"
    assert FrechetVideoDistance(Corners(), n=9).key_for(4) == "fvd_corners_n9_f4"


def test_distances_to_train_and_to_held_out_clips_have_names_of_their_own():
    metric = FrechetVideoDistance(Corners(), n=9, against="train")
    assert metric.key_for(4) == "fvd-train_corners_n9_f4"
    assert FrechetVideoDistance(Corners(), n=9, against="heldout").key_for(4) == "fvd-heldout_corners_n9_f4"
    key = FrechetVideoDistance.key
    assert key("i3d", 2048, 16, I3D_TORCHSCRIPT_HASH, "train") == "fvd-train_n2048_f16"
    assert KernelVideoDistance.key("i3d", 48, 16, None, "heldout") == "kvd-heldout_i3d_n48_f16"
    metric.update(REAL, real=True)
    metric.update(FAKE, real=False)
    assert metric.compute().item() == frechet_distance(features(REAL), features(FAKE))
    with pytest.raises(ValueError, match="against is 'test', allowed None, 'train', 'heldout'"):
        FrechetVideoDistance(Corners(), n=9, against="test")


def test_a_clip_that_is_not_finite_is_named_where_it_has_a_name():
    metric = FrechetVideoDistance(Corners(), n=9, names={"generated": [f"clip{i}.avi" for i in range(9)]})
    metric.add_rows(Corners().features(REAL), real=True)
    rows = Corners().features(FAKE)
    rows[6, 1] = torch.inf
    metric.add_rows(rows, real=False)
    with pytest.raises(ValueError, match="generated features: clip clip6.avi has a value that is not finite"):
        metric.compute()


def test_one_index_for_two_clips_is_refused():
    metric = FrechetVideoDistance(Corners(), n=9)
    metric.update(REAL, real=True, indices=range(9))
    metric.update(FAKE[:2], real=True, indices=[4, 5])
    metric.update(FAKE, real=False)
    with pytest.raises(ValueError, match="real clips: index 4 came with two clips"):
        metric.compute()


class FrameCorners:
    """Features of each frame: its first pixels."""

    name, weights_hash, num_features = "corners", "abc", 3

    def frame_features(self, clips):
        return torch.as_tensor(clips[:, :, 0, 0]).flatten(0, 1).float()


def test_fid_is_of_all_frames_of_all_clips():
    metric = FrechetFrameDistance(FrameCorners(), n=9)
    metric.update(FAKE[[3, 4, 5, 6, 7, 8]], real=False, indices=[3, 4, 5, 6, 7, 8])
    metric.update(FAKE[:3], real=False, indices=[0, 1, 2])
    metric.update(REAL, real=True)
    frames = [array[:, :, 0, 0].reshape(-1, 3).astype(np.float64) for array in (REAL, FAKE)]
    assert metric.compute().item() == frechet_distance(*frames)
    # No hash of an Inception file is recorded, so the network's name is always there.
    assert FrechetFrameDistance.key("inception", 2048, 16, "abc") == "fid_inception_n2048_f16"
    metric.extractor.num_features = 4
    with pytest.raises(ValueError, match=r"fid: extractor corners gave \(8, 3\) features, wanted \(8, 4\)"):
        metric.update(FAKE[:2], real=False)


def test_memorisation_names_the_training_clip():
    train, heldout = clips(12, 2), clips(7, 3)
    metric = MemorizationCheck(Corners(), n=9, n_train=12, n_heldout=7, names={"train": [f"v{i}" for i in range(12)]})
    copied = FAKE.copy()
    copied[4] = train[10]
    for side, part in (("train", train), ("heldout", heldout), ("generated", copied)):
        metric.update(part, side)
    found, wanted = metric.found(), memorization(features(copied), features(train), features(heldout))
    assert found.ratio == wanted.ratio == metric.compute().item()
    assert found.closest(1) == [(4, "v10", 0.0, 0.0)] and list(found.copies) == [4]
    assert metric.key_for(4) == "memorisation_corners_n9_f4"
    with pytest.raises(ValueError, match="got side 'real', allowed train, heldout, generated"):
        metric.update(train, "real")


SMALL = read_protocol("pvdm", {"frames": 4, "resolution": 16})


def test_a_protocol_says_numbers_statistics_and_arithmetic():
    metric = FrechetVideoDistance(Corners(), protocol=SMALL)
    assert (metric.n, metric.n_real, metric.ddof, metric.precision) == (2048, 2048, 1, "float32-svd")
    metric = FrechetVideoDistance(protocol=SMALL, extractor=Corners(), n=9)
    metric.update(REAL, real=True)
    metric.update(FAKE, real=False)
    assert metric.compute().item() == frechet_distance_float32(features(REAL), features(FAKE), ddof=1)
    assert metric.protocol.name == "pvdm[n=9,resolution=16,frames=4,is_splits=1]"
    metric = FrechetVideoDistance(protocol=SMALL, extractor=Corners(), n=9, n_real=5, ddof=0, precision="float64")
    metric.update(REAL[:5], real=True)
    metric.update(FAKE, real=False)
    assert metric.compute().item() == frechet_distance(features(REAL[:5]), features(FAKE))
    assert metric.protocol.name.endswith("n_real=5,n_generated=9,ddof=0,precision=float64,is_splits=1]")
    score = VideoInceptionScore(Corners(), protocol=SMALL, n=9, splits=3)
    score.update(FAKE)
    wanted = inception_score(Corners().probabilities(FAKE).numpy(), 3, SMALL.is_shuffle_seed)
    assert score.mean_and_deviation() == wanted


def test_clips_that_are_not_the_protocols_are_refused():
    metric = FrechetVideoDistance(protocol="latte-2024", extractor=Corners(), n=16)
    said = r"got clips of 4 frames of 16x16, protocol latte-2024\[n=16\] scores 16 of 256x256"
    with pytest.raises(ValueError, match=said):
        metric.update(REAL, real=True)
    with pytest.raises(ConfigError, match="latte-2023"):
        FrechetVideoDistance(protocol="latte-2023", extractor=Corners())
    with pytest.raises(ValueError, match="fvd: extractor is missing; give it, or a protocol"):
        FrechetVideoDistance(n=9)
    with pytest.raises(ValueError, match="fvd: n is missing; give it, or a protocol"):
        FrechetVideoDistance(Corners())
    with pytest.raises(ValueError, match="fid: extractor is missing; no protocol names one that gives frame_features"):
        FrechetFrameDistance(protocol="latte-2024")


def test_a_protocols_own_network_is_loaded_for_each_side(monkeypatch):
    """LVDM feeds real and generated clips in two ways; a file that is not the recorded one is refused."""
    calls = []

    def load(name, weights, device, preprocess, offline):
        calls.append((name, weights, device, preprocess, offline))
        return Corners()

    monkeypatch.setattr("lavita.metrics.clip_metric.load_extractor", load)
    lvdm = read_protocol("lvdm", {"extractor_hash": "abc"})
    metric = FrechetVideoDistance(protocol=lvdm, weights="file", offline=True)
    assert calls == [
        (lvdm.extractor, "file", "cpu", way, True) for way in (lvdm.real_preprocess, lvdm.generated_preprocess)
    ]
    assert lvdm.real_preprocess != lvdm.generated_preprocess and metric.real_extractor is not metric.extractor
    with pytest.raises(ValueError, match="protocol.extractor_hash is "):
        FrechetVideoDistance(protocol="latte-2024")


class Training(lightning.LightningModule):
    """A brightness that is learned; validation scores clips of it against clips of the data."""

    def __init__(self):
        super().__init__()
        self.brightness = torch.nn.Parameter(torch.tensor(10.0))
        self.fvd = FrechetVideoDistance(Corners(), protocol=SMALL, n=9)

    def training_step(self, batch, _):
        return (self.brightness - batch.float().mean()).square()

    def validation_step(self, batch, _):
        self.fvd.update(batch, real=True)
        self.fvd.update((batch.float() * 0.5 + self.brightness).to(torch.uint8), real=False)
        self.log("fvd", self.fvd)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.25)


@pytest.mark.filterwarnings("ignore:fvd. real clips. got 2:UserWarning")
def test_a_lightning_module_logs_it_in_validation(tmp_path):
    """Two steps of training; the sanity check before them, which sees a part of the clips, leaves nothing behind."""
    module, data = Training(), torch.from_numpy(REAL)
    loaders = [torch.utils.data.DataLoader(data, batch_size=4), torch.utils.data.DataLoader(data, batch_size=2)]
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, num_sanity_val_steps=1, limit_train_batches=2,
    )  # fmt: skip
    trainer.fit(module, *loaders)
    generated = (torch.from_numpy(REAL).float() * 0.5 + module.brightness.detach()).to(torch.uint8).numpy()
    assert module.brightness.item() != 10.0 and trainer.global_step == 2
    wanted = frechet_distance_float32(features(REAL), features(generated), ddof=1)
    assert trainer.callback_metrics["fvd"].item() == wanted


def test_missing_clips_are_nan_where_a_protocol_is_named():
    metric = FrechetVideoDistance(Corners(), protocol=SMALL, n=9)
    metric.update(REAL, real=True)
    metric.update(FAKE[:7], real=False)
    with pytest.warns(UserWarning, match="fvd: generated clips: got 7, the protocol wants 9; 2 are missing; the score"):
        assert np.isnan(metric.compute().item())
    metric.update(FAKE[:4], real=False)
    with pytest.raises(ValueError, match="got 11, the protocol wants exactly 9"):
        metric.compute()
    strict = FrechetVideoDistance(Corners(), protocol=SMALL, n=9, incomplete="raise")
    strict.update(REAL, real=True)
    with pytest.raises(ValueError, match="generated clips: got none"):
        strict.compute()
    with pytest.raises(ValueError, match="incomplete is 'zero', allowed 'raise', 'nan'"):
        FrechetVideoDistance(Corners(), n=9, incomplete="zero")
