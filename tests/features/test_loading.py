"""A feature network from a name or from a file, whose content decides what it is."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lavita.metrics.features import load
from lavita.metrics.features.i3d import I3D, I3DExtractor
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain
from lavita.metrics.features.load import load_extractor
from lavita.metrics.features.torchscript import TorchScriptC3D, TorchScriptI3D
from lavita.metrics.features.weights import KnownFile
from lavita.parity.adapters import fill_i3d


class TinyI3D(nn.Module):
    """Says in its first three outputs how it was called and what it saw."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        seen = torch.stack([x.amin(dim=(1, 2, 3, 4)), x.amax(dim=(1, 2, 3, 4))], dim=1)
        called = torch.full((x.shape[0], 1), 4.0 * float(rescale) + 2.0 * float(resize) + float(return_features))
        size = torch.full((x.shape[0], 397), float(x.shape[4]))
        return torch.cat([called, seen, size], dim=1)


class TinyC3D(nn.Module):
    def forward(self, video: torch.Tensor):
        return torch.full((video.shape[0], 101), 1 / 101)


class TinyImageNet(nn.Module):
    def forward(self, img: torch.Tensor, return_features: bool = False):
        return img.float().mean(dim=(2, 3))


class TwoInputs(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor):
        return a + b


def script(module, path):
    torch.jit.script(module).save(str(path))
    return str(path)


def clips(count=2, frames=9, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8)


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Names stand for small files that are made here."""

    def make(name, path):
        data = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        monkeypatch.setitem(load.KNOWN, name, KnownFile(path.name, name, ("http://127.0.0.1:9/x",), blob))

    return make


def test_torchscript_files_are_told_apart_by_their_arguments(tmp_path):
    i3d = load_extractor(script(TinyI3D(), tmp_path / "a.pt"))
    assert isinstance(i3d, TorchScriptI3D) and i3d.name == "i3d" and i3d.preprocess == "inside"
    assert isinstance(load_extractor(script(TinyC3D(), tmp_path / "b.pt")), TorchScriptC3D)
    with pytest.raises(ValueError, match="gives features of images, not of clips"):
        load_extractor(script(TinyImageNet(), tmp_path / "c.pt"))
    with pytest.raises(ValueError, match=r"called with \(a, b\), neither as I3D nor as C3D"):
        load_extractor(script(TwoInputs(), tmp_path / "d.pt"))


def test_torchscript_i3d_resizes_inside_or_is_handed_what_a_protocol_made(tmp_path):
    path = script(TinyI3D(), tmp_path / "a.pt")
    inside = load_extractor(path).features(clips())
    assert inside[:, 0].tolist() == [7, 7] and inside[0, 1] == 0 and inside[0, 2] == 255 and inside[0, 3] == 16
    other = load_extractor(path, preprocess="short-side")
    assert other.name == "i3d-short-side"
    outside = other.features(clips())
    assert outside[:, 0].tolist() == [1, 1] and outside[0, 3] == 224
    assert -1 <= outside[0, 1] < -0.9 and 0.9 < outside[0, 2] <= 1
    with pytest.raises(ValueError, match="preprocess: got 'unit', allowed inside, straight"):
        load_extractor(path, preprocess="unit")


def test_state_dicts_are_told_apart_by_their_names(tmp_path):
    torch.save(fill_i3d(I3D()).state_dict(), tmp_path / "i3d.pt")
    found = load_extractor(str(tmp_path / "i3d.pt"), preprocess="short-side")
    assert isinstance(found, I3DExtractor) and found.preprocess == "short-side"
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pt")
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("other.pt", "other.safetensors"):
        with pytest.raises(ValueError, match=r"another network \(1 tensors, first conv.weight\); wanted I3D") as error:
            load_extractor(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_an_in_domain_extractor_is_found_by_name_and_by_content(tmp_path):
    path = tmp_path / "fitted.safetensors"
    save_in_domain(InDomainExtractor(InDomainNet(None), {}), path)
    for name in (f"embedded:{path}", str(path)):
        assert isinstance(load_extractor(name), InDomainExtractor)
    with pytest.raises(ValueError, match="preprocess: got 'straight', extractor embedded is fed in one way only"):
        load_extractor(str(path), preprocess="straight")
    with pytest.raises(ValueError, match="absent.safetensors is not there"):
        load_extractor(f"embedded:{tmp_path / 'absent.safetensors'}")


def test_a_name_stands_for_one_file(tmp_path, known):
    script(TinyI3D(), tmp_path / "i3d_torchscript.pt")
    known("i3d", tmp_path / "i3d_torchscript.pt")
    for options in ({"folder": tmp_path}, {"weights": tmp_path / "i3d_torchscript.pt", "folder": tmp_path / "notes"}):
        assert isinstance(load_extractor("i3d", **options), TorchScriptI3D)
    script(TinyC3D(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="another file; delete it and fetch http.*or give it as FILE"):
        load_extractor("i3d", weights=tmp_path / "other.pt", folder=tmp_path)
    with pytest.raises(ValueError, match="looked for .*absent/i3d_torchscript.pt: it is not there, and offline"):
        load_extractor("i3d", folder=tmp_path / "absent", offline=True)


def test_names_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="got 'i3', which is no name and no file at .*did you mean 'i3d'"):
        load_extractor("i3")
    with pytest.raises(ValueError, match="weights go with i3d, i3d_pretrained_400, c3d, videomae"):
        load_extractor("net.pt", weights="other.pt")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is an empty file; delete it and fetch it again"),
        (b"<html>", "is a web page; the address asked for a login"),
        (b"\x80\x04\x95.", "is a file of an unknown kind; give a file of weights"),
        (b"PK\x03\x04", "is a zip archive cut short; the download stopped early"),
    ],
)
def test_files_that_are_none(tmp_path, data, message):
    (tmp_path / "net.pt").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        load_extractor(str(tmp_path / "net.pt"))
    assert "\n" not in str(error.value)
