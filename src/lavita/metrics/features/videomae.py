"""VideoMAE, the network of the content-debiased FVD, through the package transformers where that is installed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from lavita.metrics.features.base import Extractor, transform
from lavita.metrics.features.weights import git_blob_hash, load_strictly, read_state_dict
from lavita.shapes import check

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def import_transformers(who: str) -> ModuleType:
    """The package. Raises ValueError, one line, where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ValueError(f"extractor {who}: needs the package transformers; pip install transformers") from None
    return transformers


def read_config(folder: Path | str, title: str, model_type: str) -> dict[str, Any]:
    """The configuration of a folder that holds config.json and model.safetensors. Raises ValueError for another one."""
    folder = Path(folder)
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise ValueError(f"{title}: looked for {file}: it is not there; give a folder with {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
        found = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{title}: {folder / CONFIG} cannot be read ({error})") from None
    if found != model_type:
        raise ValueError(f"{title}: {folder / CONFIG} says model_type {found!r}, wanted {model_type!r}")
    return config


def folder_hash(folder: Path | str) -> str:
    """sha256 in 64 hex digits over the git blob names of the configuration and the weights."""
    names = [f"{name} {git_blob_hash(Path(folder) / name)}\n" for name in (CONFIG, WEIGHTS)]
    return hashlib.sha256("".join(names).encode()).hexdigest()


BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# Width -> attention heads of the published networks (S, B, L, H, g), which no shape in a file tells.
NUM_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
# Heads of classification, which no feature needs.
UNUSED = ("head.", "classifier.")


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the authors' code."""
    return "patch_embed.proj.weight" in state


def official_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of transformers that a state dict with official names has; 16 frames of 224 x 224, as all of
    the published ones. Raises ValueError for a width that none of them has, and where the first block is missing.
    """
    width, _, tubelet, patch, _ = state["patch_embed.proj.weight"].shape
    blocks = {int(match[1]) for match in map(BLOCK.match, state) if match}
    if width not in NUM_HEADS or "blocks.0.mlp.fc1.weight" not in state:
        raise ValueError(f"VideoMAE: got width {width} and {len(blocks)} blocks, known widths: {[*NUM_HEADS]}")
    return {
        "image_size": 224,
        "num_frames": 16,
        "patch_size": patch,
        "tubelet_size": tubelet,
        "hidden_size": width,
        "num_hidden_layers": max(blocks) + 1,
        "num_attention_heads": NUM_HEADS[width],
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "layer_norm_eps": 1e-6,
    }


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names -> names of transformers before version 5, without its prefix; unknown ones stay as they are."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        match = BLOCK.match(name)
        if match is None:
            renamed[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = value
            continue
        place, inside = f"encoder.layer.{match[1]}.", match[2]
        stem, _, kind = inside.rpartition(".")
        if inside == "attn.qkv.weight":
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{place}attention.attention.{part}.weight"] = rows
        elif inside in ("attn.q_bias", "attn.v_bias"):
            renamed[f"{place}attention.attention.{kind}"] = value
        else:
            renamed[f"{place}{IN_BLOCK.get(stem, stem)}.{kind}"] = value
    return renamed


def to_installed(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Any of the three namings -> `videomae.<name>` and `fc_norm.<name>` as the installed transformers names them.

    Version 5 turned the parameters q_bias and v_bias into query.bias and value.bias; some of its releases, reading an
    older file, left them at zero without a word: https://github.com/embeddings-benchmark/mteb/pull/5094.
    """
    state = from_official(state) if is_official(state) else dict(state)
    new = any(name.endswith("query.bias") for name in wanted)
    renamed = {}
    for name, value in state.items():
        if name.startswith(UNUSED):
            continue
        name = name.removeprefix("videomae.")
        for old, later in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
            name = name.replace(f".{old}", f".{later}") if new else name.replace(f".{later}", f".{old}")
        renamed[name if name.startswith("fc_norm.") else f"videomae.{name}"] = value
    return renamed


# Of the last layer norm: transformers takes 1e-5 there, the authors' code 1e-6.
EPSILON = 1e-6


class VideoMAENet(nn.Module):
    """video float32 (b, 3, F, size, size), 0..1 -> (b, width): the mean over all tokens, then a layer norm."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.videomae = import_transformers("videomae").VideoMAEModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, video: Tensor) -> Tensor:
        tokens = self.videomae(pixel_values=video.transpose(1, 2)).last_hidden_state  # (b, N, width)
        return self.fc_norm(tokens.mean(dim=1))  # (b, width)


class VideoMAEExtractor(Extractor):
    """VideoMAE fine-tuned for classification, without its classifier; clips have as many frames as it was made for.

    Clips are resized straight to the size of the network and scaled to 0..1; no mean is taken off. Source: Ge et al.
    2024 (arXiv:2404.12391), and what is fed and returned in
    https://github.com/songweige/content-debiased-fvd/blob/a1e037ab7cb087debd2221d14ae4a001ec054201/cdfvd/fvd.py
    """

    name, num_classes, preprocess = "videomae", None, "unit"

    def __init__(self, network: VideoMAENet, weights_hash: str, device: str = "cpu") -> None:
        self.network, self.weights_hash, self.device = network.eval().to(device), weights_hash, device
        self.config = network.videomae.config
        self.num_features = self.config.hidden_size
        self.transform = transform(self.preprocess, (self.preprocess,))

    def forward_features(self, clips: Tensor) -> Tensor:
        frames = check(clips, "B F H W 3", "clips")["F"]
        if frames != self.config.num_frames:
            raise ValueError(f"extractor videomae: got clips of {frames} frames, wanted {self.config.num_frames}")
        return self.network(self.transform(clips.to(self.device), self.config.image_size))  # (b, width)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor videomae: gives features only, no class probabilities; take c3d or embedded")


def load_videomae(path: Path | str, device: str = "cpu") -> VideoMAEExtractor:
    """The extractor of a folder of transformers (config.json, model.safetensors) or of a file of the authors' code.

    Raises ValueError for anything else, for a network that is not fine-tuned (without fc_norm), and where transformers
    is not installed. weights_hash is `folder_hash`, or the file's git blob name.
    """
    path, transformers = Path(path), import_transformers("videomae")
    if path.is_dir():
        config = read_config(path, "VideoMAE", "videomae")
        state, weights_hash = read_state_dict(path / WEIGHTS, "VideoMAE"), folder_hash(path)
    else:
        state = read_state_dict(path, "VideoMAE")
        if not is_official(state):
            raise ValueError(f"VideoMAE: {path} is another network: {len(state)} names, first {next(iter(state))}")
        config, weights_hash = official_sizes(state), git_blob_hash(path)
    config = {key: value for key, value in config.items() if not key.startswith(("_", "architectures"))}
    network = VideoMAENet(transformers.VideoMAEConfig(**config | {"use_mean_pooling": True}))
    load_strictly(network, to_installed(state, network.state_dict()), "VideoMAE", path)
    return VideoMAEExtractor(network, weights_hash, device)
