"""Names of VideoMAE's parameters: in the authors' files, and in the two ways that transformers has named them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

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
