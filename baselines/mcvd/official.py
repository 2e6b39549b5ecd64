"""MCVD's released files: a pickled list, of which the averaged weights are the last entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lavita.methods.checkpoints import CheckpointError, ema_or_bare, fitting, read_tensors

from .model import MCVDNet

WRAPPER = "module."  # of the first entry, whose network was trained on several devices
SCHEDULE = ("betas", "alphas", "alphas_prev")  # tables that must be ours; no output reads the fourth, unet.sigmas


def official_weights(path: Path | str, network: MCVDNet) -> dict[str, Tensor]:
    """The state dict of an official file, found to fit the network, which stays as it is.

    The file is the list that the released trainer saves (weights, optimiser, epoch, step, averaged weights), of which
    the last is taken; or a state dict alone, such as the first of the list, whose names begin with `module.`. Averages
    are kept of parameters only: tables of the schedule that are not in the file are the network's own. Files from
    before the last norm got a name of its own are read too. Errors are those of `lavita.methods.checkpoints`.
    Source: github.com/voletiv/mcvd-pytorch at 451da2e, runners/ncsn_runner.py and models/ema.py.
    """
    path = Path(path)
    content = read_tensors(path)
    if isinstance(content, list):
        if not content or not isinstance(content[-1], Mapping) or not content[-1]:
            raise CheckpointError(
                f"{path}: is a list without averaged weights at its end; save its first entry, the state dict, alone"
            )
        content = content[-1]
    wanted = network.state_dict()
    tables = {name: value for name, value in wanted.items() if name in dict(network.named_buffers())}
    state = {current_name(name, wanted): value for name, value in ema_or_bare(path, content).items()}
    changed = [name for name in SCHEDULE if name in state and not is_same(state[name], tables[name])]
    if changed:
        raise CheckpointError(
            f"{path}: was trained on another schedule ({', '.join(changed)} differ); nothing was loaded"
        )
    return fitting(path, tables | state, network, size_of)


def current_name(name: str, wanted: Mapping[str, Tensor]) -> str:
    """A name without the wrapper's prefix; of the last norm, with the part that older files do not have."""
    name = name.removeprefix(WRAPPER)
    layer, _, kind = name.rpartition(".")
    renamed = f"{layer}.Norm_0.{kind}"
    return renamed if name not in wanted and renamed in wanted else name


def is_same(table: Tensor, own: Tensor) -> bool:
    """Whether two tables of the schedule agree to the rounding of a thousand products in float32, 1000 x 2^-24."""
    return table.shape == own.shape and torch.allclose(table.float().cpu(), own.float().cpu(), rtol=1e-4, atol=0)


def size_of(state: Mapping[str, Tensor]) -> str:
    """A network in words, by its state dict."""
    first, last = state.get("unet.all_modules.2.weight"), state.get(last_convolution(state))
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return "no MCVD network"
    norms = [value for name, value in state.items() if name.endswith("mlp_shared.0.weight")]
    numbers = [int(match[1]) for match in map(LAYER.match, state) if match]
    given = norms[0].shape[1] if norms else first.shape[1] - last.shape[0]
    said = f"spatin of {norms[0].shape[0]} channels" if norms else "concat"
    return (
        f"{max(numbers) + 1} layers of width {first.shape[0]}, blocks of {last.shape[0] // 3} frames after "
        f"{given // 3} given ones, {said}"
    )


LAYER = re.compile(r"unet\.all_modules\.(\d+)\.")


def last_convolution(state: Mapping[str, Tensor]) -> str:
    """The name of the last layer's weight."""
    numbers = [int(match[1]) for match in map(LAYER.match, state) if match]
    return f"unet.all_modules.{max(numbers, default=0)}.weight"
