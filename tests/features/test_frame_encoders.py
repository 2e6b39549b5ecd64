"""Networks of single frames: the order of frames, what they are handed, and files that are other networks."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lavita.metrics.features.frame_encoders import Dinov2Extractor, TorchScriptInception, dinov2_images
from lavita.metrics.features.weights import git_blob_hash

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


class TinyInception(nn.Module):
    """Its features are figures of the frame that can be computed by hand."""

    def __init__(self, width: int = 2048):
        super().__init__()
        self.width = width

    def forward(self, img: torch.Tensor, return_features: bool = False):
        assert return_features and img.dtype == torch.uint8 and img.shape[1] == 3
        return img.float().mean(dim=(2, 3)).repeat(1, 683)[:, : self.width]


def saved(module, path):
    torch.jit.script(module).save(str(path))
    return path


def clips(count=3, frames=4, size=20):
    return np.random.default_rng(0).integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8)


def test_inception_gives_a_row_a_frame_in_order(tmp_path):
    path = saved(TinyInception(), tmp_path / "inception.pt")
    extractor = TorchScriptInception(path)
    assert (extractor.name, extractor.num_features, extractor.weights_hash) == ("inception", 2048, git_blob_hash(path))
    found = extractor.frame_features(clips())
    assert found.shape == (12, 2048) and found.dtype == torch.float32
    # float32 means of 400 values below 256.
    np.testing.assert_allclose(found[:, :3], clips().astype(float).mean(axis=(2, 3)).reshape(12, 3), rtol=1e-5)
    assert torch.equal(found[4:8], extractor.frame_features(clips()[1:2]))


def test_another_network_or_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"is another network: got output \(4, 64\), wanted \(4, 2048\)"):
        TorchScriptInception(saved(TinyInception(64), tmp_path / "other.pt")).frame_features(clips(1))
    (tmp_path / "page.pt").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is a web page"):
        TorchScriptInception(tmp_path / "page.pt")
    extractor = TorchScriptInception(saved(TinyInception(), tmp_path / "inception.pt"))
    with pytest.raises(ValueError, match="dtype"):
        extractor.frame_features(clips().astype(np.float32))


def test_dinov2_images_are_resized_by_pillow_and_normalised_as_imagenet():
    frame = clips(1, 1, 300)[0]
    found = dinov2_images(frame)
    small = np.asarray(Image.fromarray(frame[0]).resize((224, 224), Image.Resampling.BICUBIC)).astype(np.float64) / 255
    wanted = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found[0].permute(1, 2, 0), wanted, atol=1e-5)


@pytest.mark.skipif(HAS_TRANSFORMERS, reason="the package transformers is installed")
def test_without_transformers_one_line_says_what_to_install(tmp_path):
    with pytest.raises(ValueError, match="extractor dinov2: needs the package transformers; pip install transformers"):
        Dinov2Extractor(tmp_path)


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="the package transformers is not installed")
def test_dinov2_gives_the_class_token_and_refuses_a_part_of_a_network(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2)
    network = Dinov2Model(Dinov2Config(image_size=56, patch_size=14, **sizes)).eval()
    network.save_pretrained(tmp_path)
    extractor = Dinov2Extractor(tmp_path)
    found = extractor.frame_features(clips(2, 2))
    assert found.shape == (4, 24) and extractor.num_features == 24
    with torch.no_grad():
        wanted = network(pixel_values=dinov2_images(clips(2, 2).reshape(4, 20, 20, 3))).last_hidden_state[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in state.items() if name != "layernorm.bias"}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ValueError, match="is another network: missing_keys: layernorm.bias"):
        Dinov2Extractor(tmp_path)
