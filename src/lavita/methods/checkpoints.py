"""Checkpoints: official formats in, safetensors with the configuration beside them out."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lavita.files import atomic_write, atomic_write_text, require_inside

SHOWN_KEYS = 3


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: says what was got, what was wanted and what to do."""


def load_official(path: Path | str, network: nn.Module) -> None:
    """Load an official checkpoint into a network, all keys and shapes equal, or raise and change nothing.

    The file is {"ema": state dict, ...}, {"state_dict": state dict, ...} as Lightning writes it, {"model": state dict},
    or a bare state dict, of PyTorch or safetensors, whole or in shards. Names may be wrapped (module., _orig_mod., one
    prefix before all), which is taken off with a CheckpointRemark. Pickled files are read with weights_only=True, so
    that no code of theirs runs; of Python classes only argparse.Namespace, which the official DiT trainer stores, is
    let through. Raises CheckpointError.
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
    wanted = network.state_dict()
    state = found_within(path, state, wanted)
    problems = differences(state, wanted)
    if problems:
        if not set(state) & set(wanted):
            problems.append(f"its names begin with {some(list(state))}; wanted {some(list(wanted))}")
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


SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
INDEX = ".safetensors.index.json"
ENTRIES = ("ema", "state_dict", "model")  # what trainers call the weights, the averaged ones first
ALLOWED = "wanted a PyTorch or safetensors file, by its content"


def read_tensors(path: Path) -> Any:
    """Content of a checkpoint file, on the CPU: of PyTorch or safetensors, which its content says and not its suffix.

    Of a file that was cut into shards, its index, its folder or any shard stands for all. Raises CheckpointError if it
    is missing, damaged, unsafe.
    """
    files = shards_of(path)
    if files:
        parts = [read_safetensors(file) for file in files]
        return {name: value for part in parts for name, value in part.items()}
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a .pt, .pth, .ckpt or .safetensors file")
    if path.suffix == ".safetensors" or is_safetensors(path):
        return read_safetensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        held = f"holds {name[1]}" if name else "is damaged, or holds Python objects"
        raise CheckpointError(f"{path}: {held}; only tensors are read. Save its state dict alone") from error
    except Exception as error:  # torch's readers raise many kinds for a damaged file
        raise CheckpointError(f"{path}: is no PyTorch checkpoint ({type(error).__name__}); {ALLOWED}") from error


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header in 8 bytes, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises CheckpointError."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is no safetensors file ({' '.join(str(error).split())})") from error


def shards_of(path: Path) -> list[Path]:
    """The files that a checkpoint was cut into, where path is one of them, their index or the folder of that; else [].

    Raises CheckpointError where one is missing.
    """
    index = next(iter(sorted(path.glob(f"*{INDEX}"))), None) if path.is_dir() else path
    if index is None:
        return []
    shard = SHARD.fullmatch(index.name)
    if shard:
        count = int(shard["count"])
        names = [f"{shard['name']}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    elif index.name.endswith(INDEX) and index.is_file():
        try:
            listed = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()
            names = sorted(
                {require_inside(index.parent, name, f"{index}: a file of weight_map").name for name in listed}
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: is no index of shards ({' '.join(str(error).split())})") from error
    else:
        return []
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} of {len(names)} shards are missing: {some(missing)}")
    return [index.parent / name for name in names]


class CheckpointRemark(UserWarning):
    """What a user should know of a file that was read all the same."""


def remark(path: Path | str, text: str) -> None:
    warnings.warn(CheckpointRemark(f"{path}: {text}"), stacklevel=3)


def ema_or_bare(path: Path, content: Any) -> dict[str, Tensor]:
    """The averaged weights where there are any, or the entry that a trainer has them in, else the content itself; names
    and tensors in any case, names without what compiling and distributing put before them.
    """
    mapping = content if isinstance(content, Mapping) else {}
    entry = next((key for key in ENTRIES if isinstance(mapping.get(key), Mapping)), None)
    state = content if entry is None else mapping[entry]
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, wanted a state dict of names and tensors")
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd or not state:
        raise CheckpointError(
            f'{path}: is neither {{"ema": state dict}}, nor {{"state_dict": state dict}}, {{"model": state dict}} or a '
            f"bare state dict; entries that are no tensors: {some(odd) or 'none, it is empty'}"
        )
    if entry not in (None, "ema") and not any("ema" in name for name in state):
        remark(path, f"has its weights under {entry!r}, which nothing says are averaged ones")
    return unwrapped(path, dict(state))


def unwrapped(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without `module.` before all names and `_orig_mod.` anywhere; what is taken off is said."""
    found = {name: name.split(".") for name in state}
    taken = []
    if any("_orig_mod" in parts for parts in found.values()):
        found = {name: [part for part in parts if part != "_orig_mod"] for name, parts in found.items()}
        taken.append("_orig_mod.")
    while all(parts[0] == "module" and len(parts) > 1 for parts in found.values()):
        found = {name: parts[1:] for name, parts in found.items()}
        taken.append("module.")
    names = {name: ".".join(parts) for name, parts in found.items()}
    if not taken or len(set(names.values())) < len(names):
        return state
    remark(path, f"{' and '.join(dict.fromkeys(taken))} taken off its names")
    return {names[name]: value for name, value in state.items()}


def found_within(path: Path | str, state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict that holds every wanted name under one prefix, with that taken off, which is said; the
    state dict itself where there is no such part. Raises CheckpointError where several parts would do.
    """
    first = next(iter(wanted), "")
    if not first or first in state:
        return state
    prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    whole = [prefix for prefix in prefixes if all(prefix + name in state for name in wanted)]
    averaged = [prefix for prefix in whole if "ema" in prefix]
    chosen = averaged if len(averaged) == 1 else whole
    if not chosen:
        return state
    if len(chosen) > 1:
        raise CheckpointError(f"{path}: holds this network more than once, under {', '.join(chosen)}; save one alone")
    others = len(state) - len(wanted)
    remark(path, f"{chosen[0]} taken off its names{f'; {others} other entries passed over' if others else ''}")
    return {name: state[chosen[0] + name] for name in wanted}


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
