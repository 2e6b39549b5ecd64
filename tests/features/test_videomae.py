"""VideoMAE: names in three namings without the package transformers, and features with it."""

import hashlib
import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lavita.metrics.features.load import load_extractor
from lavita.metrics.features.videomae import from_official, load_videomae, official_sizes, to_installed

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="the package transformers is not installed")


def official(width=384, depth=1, patch=14, hidden=48, seed=0):
    """A state dict with the names and shapes of the authors' code."""
    shapes = {"patch_embed.proj.weight": (width, 3, 2, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(depth):
        block = {"norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,)}
        block |= {"attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width)}
        block |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
        block |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)}
        block |= {"mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,)}
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    shapes |= {"fc_norm.weight": (width,), "fc_norm.bias": (width,), "head.weight": (174, width), "head.bias": (174,)}
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def clips(count=2, frames=16, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, frames, size, size, 3), dtype=np.uint8)


def test_official_names_become_those_of_transformers():
    state = official(depth=2)
    renamed = from_official(state)
    place = "encoder.layer.1."
    assert torch.equal(renamed[place + "attention.attention.key.weight"], state["blocks.1.attn.qkv.weight"][384:768])
    for old, new in {
        "attn.q_bias": "attention.attention.q_bias",
        "attn.proj.bias": "attention.output.dense.bias",
        "mlp.fc1.weight": "intermediate.dense.weight",
        "mlp.fc2.weight": "output.dense.weight",
        "norm1.weight": "layernorm_before.weight",
        "norm2.bias": "layernorm_after.bias",
    }.items():
        assert renamed[place + new] is state["blocks.1." + old]
    assert "embeddings.patch_embeddings.projection.weight" in renamed and "fc_norm.weight" in renamed


@pytest.mark.parametrize("bias", ["q_bias", "query.bias"])
def test_biases_have_the_name_of_the_installed_version(bias):
    wanted = [f"videomae.encoder.layer.0.attention.attention.{bias}"]
    for given in (official(), {"videomae.encoder.layer.0.attention.attention.q_bias": torch.ones(2)}):
        found = to_installed(given, wanted)
        assert wanted[0] in found and not any(name.startswith(("head", "videomae.head")) for name in found)
    later = to_installed({"videomae.encoder.layer.0.attention.attention.query.bias": torch.ones(2)}, wanted)
    assert list(later) == wanted


def test_sizes_come_from_the_shapes():
    sizes = official_sizes(official(width=768, depth=3, patch=16, hidden=40))
    assert (sizes["hidden_size"], sizes["num_hidden_layers"], sizes["num_attention_heads"]) == (768, 3, 12)
    assert (sizes["patch_size"], sizes["tubelet_size"], sizes["intermediate_size"]) == (16, 2, 40)
    with pytest.raises(ValueError, match="got width 100 and 1 blocks, known widths"):
        official_sizes(official(width=100))


@pytest.mark.skipif(HAS_TRANSFORMERS, reason="the package transformers is installed")
def test_without_transformers_one_line_says_what_to_install(tmp_path):
    torch.save({"module": official()}, tmp_path / "vit.pth")
    for name in (str(tmp_path / "vit.pth"), str(tmp_path)):
        with pytest.raises(ValueError, match="needs the package transformers; pip install transformers") as error:
            load_extractor(name)
        assert "\n" not in str(error.value)


def written_out(state, video):
    """The authors' network of one block in plain operations: video (b, 3, 16, 224, 224) -> (b, width)."""
    width = len(state["fc_norm.weight"])
    x = functional.conv3d(video, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], (2, 14, 14))
    x = x.flatten(2).transpose(1, 2)  # (b, N, width)
    angles = np.arange(x.shape[1])[:, None] / np.power(10000, 2 * (np.arange(width) // 2) / width)
    table = np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles))
    x = x + torch.from_numpy(table).float()
    block = {name.removeprefix("blocks.0."): value for name, value in state.items()}

    def norm(x, name):
        return functional.layer_norm(x, (width,), block[f"{name}.weight"], block[f"{name}.bias"], 1e-6)

    q, k, v = (norm(x, "norm1") @ block["attn.qkv.weight"].T).chunk(3, dim=2)
    q, v = q + block["attn.q_bias"], v + block["attn.v_bias"]
    q, k, v = (part.unflatten(2, (6, -1)).transpose(1, 2) for part in (q, k, v))  # (b, 6, N, c)
    mixed = ((q @ k.transpose(2, 3)) * (width // 6) ** -0.5).softmax(dim=3) @ v
    x = x + functional.linear(mixed.transpose(1, 2).flatten(2), block["attn.proj.weight"], block["attn.proj.bias"])
    hidden = functional.gelu(functional.linear(norm(x, "norm2"), block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
    x = x + functional.linear(hidden, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    return norm(x.mean(dim=1), "fc_norm")


@needs_transformers
def test_features_are_the_normed_mean_over_tokens(tmp_path):
    state = official()
    torch.save({"module": state}, tmp_path / "vit.pth")
    extractor = load_extractor(str(tmp_path / "vit.pth"))
    assert (extractor.name, extractor.num_features, extractor.preprocess) == ("videomae", 384, "unit")
    frames = torch.from_numpy(clips()).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    video = functional.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
    wanted = written_out(state, video.unflatten(0, (2, 16)).transpose(1, 2))
    found = extractor.features(clips())
    # Float32 through one block; the spread between the clips is what a distance sees.
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
    assert torch.equal(found[1:], extractor.features(clips()[1:]))
    with pytest.raises(ValueError, match="got clips of 8 frames, wanted 16"):
        extractor.features(clips(frames=8))


@pytest.fixture
def folder(tmp_path):
    """A folder of transformers with a tiny network of 4 frames of 32 x 32."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, num_labels=3)
    torch.manual_seed(0)
    network = VideoMAEForVideoClassification(VideoMAEConfig(image_size=32, num_frames=4, **sizes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1)
    network.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


@needs_transformers
def test_a_folder_is_read_whichever_version_wrote_it(folder):
    found = load_videomae(folder).features(clips(frames=4))
    state = load_file(folder / "model.safetensors")
    new = any(name.endswith("query.bias") for name in state)
    pairs = (
        (("query.bias", "q_bias"), ("value.bias", "v_bias"))
        if new
        else (("q_bias", "query.bias"),) + (("v_bias", "value.bias"),)
    )
    renamed = {}
    for name, value in state.items():
        for old, other in pairs:
            name = name.replace(old, other)
        renamed[name] = value
    save_file(renamed, folder / "model.safetensors")
    assert torch.equal(load_videomae(folder).features(clips(frames=4)), found)


@needs_transformers
def test_a_folder_with_other_content_is_refused(folder):
    state = load_file(folder / "model.safetensors")
    hashed = load_videomae(folder).weights_hash
    names = b"".join(
        f"{name} {hashlib.sha1(b'blob %d' % len(data) + bytes(1) + data).hexdigest()}\n".encode()
        for name in ("config.json", "model.safetensors")
        for data in [(folder / name).read_bytes()]
    )
    assert hashed == hashlib.sha256(names).hexdigest()
    save_file({name: value for name, value in state.items() if "fc_norm" not in name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="2 missing names, first fc_norm.bias") as error:
        load_videomae(folder)
    assert "\n" not in str(error.value)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="says model_type 'vit', wanted 'videomae'"):
        load_videomae(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json: it is not there; give a folder with config.json"):
        load_videomae(folder)
