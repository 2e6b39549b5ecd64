"""Rows of clips gathered from batches and processes, put back into clip order: what every metric starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows of one clip that two processes computed may differ by float32 rounding on a GPU; another clip's differ by more.
SAME_CLIP = 1e-3


def ordered(rows: Sequence[Tensor] | Tensor, indices: Sequence[Tensor] | Tensor, n: int, name: str) -> np.ndarray:
    """Return rows (n, d), float64, by clip index; a clip that several processes saw counts once.

    Raises ValueError if there are fewer than n clips (says how many are missing) or more, or if one index came with
    two clips.
    """
    if not len(rows):
        raise ValueError(f"{name} clips: got none, the protocol wants {n}; {n} are missing")
    values = (torch.cat(list(rows)) if not isinstance(rows, Tensor) else rows).cpu().double().numpy()
    order = (torch.cat(list(indices)) if not isinstance(indices, Tensor) else indices).cpu().numpy()
    kept, first, place = np.unique(order, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[place] != np.arange(len(order)))
    if len(again):
        one, other = values[again], values[first[place[again]]]
        apart = np.abs(one - other).max(axis=1) > SAME_CLIP * np.abs(other).max(axis=1)  # never true of NaN
        if apart.any():
            raise ValueError(
                f"{name} clips: index {order[again[apart][0]]} came with two clips; give each process its clips' own "
                "indices"
            )
    if len(kept) < n:
        raise ValueError(f"{name} clips: got {len(kept)}, the protocol wants {n}; {n - len(kept)} are missing")
    if len(kept) > n:
        raise ValueError(f"{name} clips: got {len(kept)}, the protocol wants exactly {n}; leave {len(kept) - n} out")
    return values[first]


def gather_rows(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors (n_k, ...) of all processes k that have any rows, in the order of the processes.

    torchmetrics' own gathering fails where a process has no clip: it sends an empty list as one axis of float32.
    """
    parts: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, tensor, group=group)
    return [part for part in parts if len(part)] or parts[:1]
