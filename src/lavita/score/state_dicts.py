"""Files of named tensors -> state dict, checked against the network that it should fill. Nothing else is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lavita.score.file_kind import CHECKPOINT, SAFETENSORS, file_kind, what_to_do

# What checkpoints of a training run keep their weights under.
WRAPPERS = ("state_dict", "model", "module")


def read_state_dict(path: Path, title: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or a torch.save file, by name, on the CPU.

    torch.save files are read with weights_only, which builds tensors and plain containers and runs no code. Weights
    under one of WRAPPERS are taken from there. Raises ValueError, one line, for any other file.
    """
    if not path.is_file():
        raise ValueError(f"{title}: looked for {path}: it is not there")
    kind = file_kind(path)
    if kind not in (SAFETENSORS, CHECKPOINT):
        raise ValueError(f"{title}: {path} is {kind}; {what_to_do(kind)}")
    try:
        content = load_file(path) if kind == SAFETENSORS else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{title}: {path} holds more than weights, or is damaged: {first_line(error)}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{title}: {path} holds no state dict, but {described(content)}")
    if not content:
        raise ValueError(f"{title}: {path} holds an empty state dict")
    return dict(content)


def first_line(error: Exception) -> str:
    """The first line of an error's text, short."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


def described(content: object) -> str:
    """A value that is no state dict, in a few words."""
    if isinstance(content, Mapping):
        return f"a dictionary with {', '.join(repr(key) for key in list(content)[:3]) or 'nothing'}"
    return f"a {type(content).__name__}"


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], title: str, source: Path | str) -> None:
    """Copy a state dict into a network of exactly its names and shapes.

    Counters (num_batches_tracked) may all be absent: converted networks have none. Raises ValueError, one line,
    naming the first names that are missing or unknown, or the first shapes that differ.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if not any(name.endswith("num_batches_tracked") for name in state):
        wanted = {name: shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked")}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = []
    for what, names in (("missing", wanted.keys() - found.keys()), ("unknown", found.keys() - wanted.keys())):
        if names:
            problems.append(f"{len(names)} {what} names, first {', '.join(sorted(names)[:3])}")
    shapes = [name for name in wanted if name in found and found[name] != wanted[name]]
    problems += [f"{name} has shape {found[name]}, wanted {wanted[name]}" for name in shapes[:2]]
    if problems:
        raise ValueError(f"{title}: {source} is another network: {'; '.join(problems)}")
    # Not strict for the counters alone: everything else was compared above.
    network.load_state_dict(state, strict=False)
