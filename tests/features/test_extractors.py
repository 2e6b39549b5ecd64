"""The extractor interface, and TorchScript files that are right, wrong or no TorchScript at all."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from lavita.metrics.features.base import Extractor, exact_arithmetic
from lavita.metrics.features.torchscript import TorchScriptC3D, TorchScriptI3D
from lavita.metrics.features.weights import git_blob_hash


class TinyI3D(nn.Module):
    """Called as the real one; its outputs are figures of the clip that can be computed by hand."""

    def forward(self, video: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert rescale and resize and return_features and video.shape[1] == 3
        means = video.mean(dim=(2, 3, 4))
        return means.repeat(1, 134)[:, :400]


class TinyC3D(nn.Module):
    def __init__(self, classes: int = 101, logits: bool = False):
        super().__init__()
        self.classes, self.logits = classes, logits

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        assert video.dtype == torch.uint8 and video.shape[1] == 3
        scores = torch.arange(self.classes).float() * video.float().mean(dim=(1, 2, 3, 4))[:, None] / 1000
        return scores if self.logits else scores.softmax(dim=1)


def saved(module, path):
    torch.jit.script(module).save(str(path))
    return path


def clips(count=3, frames=4, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8)


def test_i3d_is_called_with_channels_first_and_0_to_255(tmp_path):
    extractor = TorchScriptI3D(saved(TinyI3D(), tmp_path / "i3d.pt"))
    found = extractor.features(clips())
    assert found.shape == (3, 400) and found.dtype == torch.float32
    wanted = clips().astype(np.float64).mean(axis=(1, 2, 3))
    # float32 means of 1024 values below 256.
    np.testing.assert_allclose(found[:, :3].numpy(), wanted, rtol=1e-5)
    assert extractor.probabilities(clips()) is None


def test_c3d_gives_probabilities_and_no_features(tmp_path):
    extractor = TorchScriptC3D(saved(TinyC3D(), tmp_path / "c3d.pt"))
    rows = extractor.probabilities(clips())
    assert rows.shape == (3, 101)
    np.testing.assert_allclose(rows.sum(dim=1).numpy(), 1, atol=1e-5)
    with pytest.raises(ValueError, match="no features"):
        extractor.features(clips())


def test_the_hash_is_gits(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")
    # git hash-object of a file that holds "hello" and a newline.
    assert git_blob_hash(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"
    path = saved(TinyI3D(), tmp_path / "i3d.pt")
    content = path.read_bytes()
    wanted = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert TorchScriptI3D(path).weights_hash == wanted


def test_a_clip_does_not_see_its_neighbours():
    class Leaky(Extractor):
        name, weights_hash, num_features, num_classes = "leaky", "", 1, None

        def forward_features(self, clips):
            return torch.full((len(clips), 1), float(len(clips)))

        forward_probabilities = forward_features

    # An extractor that leaked the size of its batch would give 1 only with an inner batch of one clip.
    assert Leaky().features(clips(5)).flatten().tolist() == [1.0] * 5


def test_arithmetic_is_exact_inside_and_as_it_was_after():
    def settings():
        cudnn = torch.backends.cudnn
        return (
            cudnn.enabled,
            cudnn.benchmark,
            cudnn.deterministic,
            cudnn.allow_tf32,
        ), torch.get_float32_matmul_precision()

    before = settings()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), exact_arithmetic():
            assert settings() == ((True, False, True, False), "highest")
            raise KeyError
        assert settings() == (before[0], "high")
    finally:
        torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is not there; download it from https://www.dropbox.com"),
        (b"\n<!DOCTYPE html><html>quota exceeded</html>", "is a web page, not a network"),
        (b"\x80\x02 a pickle", "is no TorchScript archive"),
        (b"PK\x03\x04 cut short", "cannot be read as TorchScript"),
    ],
)
def test_files_that_are_no_network_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "i3d.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        TorchScriptI3D(path)
    assert "\n" not in str(error.value) and "i3d.pt" in str(error.value)


def test_a_checkpoint_saved_under_the_name_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "i3d.pt")
    with pytest.raises(ValueError, match="cannot be read as TorchScript") as error:
        TorchScriptI3D(tmp_path / "i3d.pt")
    assert "\n" not in str(error.value)


def test_other_networks_are_refused_in_one_line(tmp_path):
    for cls, module, message in (
        (TorchScriptI3D, TinyC3D(), "calling it failed"),
        (TorchScriptC3D, TinyC3D(classes=400), r"got output \(1, 400\), wanted \(1, 101\)"),
        (TorchScriptC3D, TinyC3D(logits=True), "no probabilities"),
    ):
        extractor = cls(saved(module, tmp_path / "other.pt"))
        with pytest.raises(ValueError, match=f"is another network: .*{message}") as error:
            extractor.features(clips()) if cls is TorchScriptI3D else extractor.probabilities(clips())
        assert "\n" not in str(error.value)


def test_the_door_refuses_other_shapes_and_dtypes(tmp_path):
    extractor = TorchScriptI3D(saved(TinyI3D(), tmp_path / "i3d.pt"))
    with pytest.raises(ValueError, match="wanted 3"):
        extractor.features(clips().transpose(0, 1, 4, 2, 3))
    with pytest.raises(ValueError, match="dtype"):
        extractor.features(clips().astype(np.float32))
    with pytest.raises(ValueError, match="got none"):
        extractor.features(clips(0))
