"""Checkpoints: official formats in, safetensors with the configuration beside them out."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lavita.files import atomic_write, atomic_write_text

SHOWN_KEYS = 3


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: says what was got, what was wanted and what to do."""


def load_official(path: Path | str, network: nn.Module) -> None:
    """Load an official checkpoint into a network, all keys and shapes equal, or raise and change nothing.

    The file is {"ema": state dict, ...}, {"state_dict": state dict, ...} as Lightning writes it, or a bare state dict,
    as .pt, .pth, .ckpt or .safetensors. Pickled files are read with weights_only=True, so that no code of theirs runs;
    of Python classes only argparse.Namespace, which the official DiT trainer stores, is let through. Raises
    CheckpointError.
    """
    network.load_state_dict(official_state(path, network), strict=True)


def official_state(path: Path | str, network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of an official checkpoint, found to fit the network; the network stays as it is.

    Where every key starts with prefix, it is taken off. Raises CheckpointError, see `load_official`.
    """
    state = read_state(path)
    if all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return fitting(path, state, network)


def fitting(
    path: Path | str,
    state: dict[str, Tensor],
    network: nn.Module,
    size: Callable[[Mapping[str, Tensor]], str] | None = None,
) -> dict[str, Tensor]:
    """A state dict that was read from path, found to fit the network. Raises CheckpointError.

    size: the size of a network in words by its state dict, for the message; by default that of a transformer.
    """
    problems = differences(state, network.state_dict())
    if problems:
        lines = [f"{path}: does not fit {type(network).__name__}; nothing was loaded.", *problems]
        raise CheckpointError("\n  ".join([*lines, described(state, network, size)]))
    return state


@dataclass(frozen=True)
class Start:
    """What a network took of another's weights: names taken; names left at their own start, with the reason; names
    of the source that have no place in it."""

    taken: tuple[str, ...]
    left: dict[str, str]
    unused: tuple[str, ...]


@torch.no_grad()
def start_from(network: nn.Module, state: Mapping[str, Tensor], blocks: str = "blocks.") -> Start:
    """Fill the trained parameters of a network from a state dict by name and shape; everything else stays.

    A label table of another number of classes is set to zero, so that no class starts with another's meaning. blocks:
    what names of blocks begin with.
    Raises CheckpointError, having changed nothing, where not one block fits.
    Source: Latte, arXiv 2401.03048, section 3.4 (image pre-training), which matches by name only.
    """
    wanted = {name: value for name, value in network.named_parameters() if value.requires_grad}
    taken = [name for name, value in wanted.items() if name in state and state[name].shape == value.shape]
    if not any(name.startswith(blocks) for name in taken):
        raise CheckpointError(
            f"nothing to start from: no block of the source fits. {described(state, network)} Give a checkpoint of "
            "the same width and patch size"
        )
    left = {}
    for name, value in wanted.items():
        if name in taken:
            value.copy_(state[name])
        elif name not in state:
            left[name] = "not in the source"
        else:
            left[name] = f"shape {tuple(state[name].shape)} there, {tuple(value.shape)} here"
            if name == "y_embedder.embedding_table.weight":
                value.zero_()
                left[name] += "; set to zero"
    fixed = {name for name, _ in network.named_parameters()} - set(wanted)
    unused = [name for name in state if name not in wanted and name not in fixed]
    return Start(tuple(taken), left, tuple(unused))


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The averaged weights of an official checkpoint, or its bare state dict. Raises CheckpointError."""
    path = Path(path)
    return ema_or_bare(path, read_tensors(path))


def read_tensors(path: Path) -> Any:
    """Content of a checkpoint file, on the CPU. Raises CheckpointError if it is missing, damaged, unsafe."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pt, .pth or .safetensors file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: is no safetensors file ({error})") from error
    if path.suffix not in (".pt", ".pth", ".ckpt"):
        raise CheckpointError(f"{path}: got suffix {path.suffix!r}, allowed .pt, .pth, .ckpt, .safetensors")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        held = f"holds {name[1]}" if name else "is damaged, or holds Python objects"
        raise CheckpointError(f"{path}: {held}; only tensors are read. Save its state dict alone") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: is no PyTorch checkpoint ({type(error).__name__})") from error


def ema_or_bare(path: Path, content: Any) -> dict[str, Tensor]:
    """The averaged weights where there are any, or those of a Lightning checkpoint, else the content itself; names and
    tensors in any case."""
    entries = [key for key in ("ema", "state_dict") if isinstance(content, Mapping) and key in content]
    state = content[entries[0]] if entries else content
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, wanted a state dict of names and tensors")
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd or not state:
        raise CheckpointError(
            f'{path}: is neither {{"ema": state dict}}, nor {{"state_dict": state dict}}, nor a bare state dict; '
            f"entries that are no tensors: {some(odd) or 'none, it is empty'}"
        )
    return dict(state)


def some(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(names[:SHOWN_KEYS]) + more


def differences(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What differs between two state dicts by name and shape: at most one line each of three kinds."""
    kinds = {
        "missing": [name for name in wanted if name not in got],
        "unexpected": [name for name in got if name not in wanted],
        "other shape": [
            f"{name} (got {tuple(got[name].shape)}, wanted {tuple(wanted[name].shape)})"
            for name in wanted
            if name in got and got[name].shape != wanted[name].shape
        ],
    }
    return [f"{len(names)} {kind}: {some(names)}" for kind, names in kinds.items() if names]


def described(
    state: Mapping[str, Tensor], network: nn.Module, size: Callable[[Mapping[str, Tensor]], str] | None = None
) -> str:
    """A line that names the sizes of both networks: which configuration would fit the file. size as in `fitting`."""
    size = size or partial(size_of, sizes=getattr(network, "sizes", {}))
    return f"The file holds {size(state)}; this network is {size(network.state_dict())}."


def size_of(state: Mapping[str, Tensor], sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Depth, width, patch and label rows of a transformer's state dict in words.

    sizes: (depth, width, ...) by the names that a method gives them; a state dict of these numbers is called so.
    """
    blocks = {int(match[1]) for match in (re.match(r"blocks\.(\d+)\.", name) for name in state) if match}
    embedding = state.get("x_embedder.proj.weight")
    if not blocks or embedding is None or embedding.ndim != 4:
        return "no transformer of this family"
    depth, width, patch = max(blocks) + 1, embedding.shape[0], embedding.shape[-1]
    parts = [f"depth {depth}, width {width}, patch {patch}"]
    parts += [f"size {name}/{patch}" for name, numbers in sizes.items() if numbers[:2] == (depth, width)]
    if "y_embedder.embedding_table.weight" in state:
        parts.append(f"{len(state['y_embedder.embedding_table.weight'])} label rows")
    return ", ".join(parts)


def save(path: Path | str, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write tensors to `path` (.safetensors) and config, plain JSON values, to the .json file beside it.

    Each file appears whole or not at all; the tensors come last: where they are, the configuration is too.
    Raises CheckpointError for another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: got suffix {path.suffix!r}, wanted .safetensors")
    # Cloned: safetensors refuses two names of one memory (tied weights) and views with gaps.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    atomic_write_text(path.with_suffix(".json"), text)
    atomic_write(path, lambda part: save_file(tensors, part, metadata={"format": "pt"}))


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict (on the CPU) and the configuration that `save` wrote. Raises CheckpointError."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: got suffix {path.suffix!r}, wanted .safetensors (our own checkpoints)")
    state = read_tensors(path)
    beside = path.with_suffix(".json")
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration {beside.name} is missing or no JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: its configuration {beside.name} is a {type(config).__name__}, wanted an object")
    return state, config
