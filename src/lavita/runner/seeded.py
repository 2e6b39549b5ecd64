"""The generators that no clip has of its own: set at the start of every step of a cell, so that a step that begins in
another process begins from the same state. The suite's own methods draw nothing from them."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed torch's, numpy's and Python's global generators; seed 0 .. 2**63 - 1."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
