"""Cases of DiT: an image is a clip of one frame."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from lavita.diffusion.sampler import guided
from lavita.parity.adapters import hybrid_figures, tensor
from lavita.parity.cases import Adapter, Case, CaseError

from .model import DiT, DiTConfig

GUIDED_INPUT = r"Z -> forward_with_cfg\(t=(\d+), y=\[([\d, ]+)\], scale=([\d.]+)\).*"
# The official code guides the first three of the four latent channels.
GUIDED_CHANNELS = 3


def build(case: Case) -> DiT:
    """A DiT in frame mode at the case's sizes."""
    return DiT(
        DiTConfig(
            depth=case.get("config", "depth"),
            width=case.get("config", "hidden_size"),
            num_heads=case.get("config", "num_heads"),
            patch_size=case.get("config", "patch_size"),
            channels=case.array("x").shape[1],
            side=case.get("config", "input_size"),
            num_classes=case.get("config", "num_classes"),
            null_class=case.get("config").get("class_dropout_prob", 0.1) != 0,
        )
    )


def run(case: Case, network: DiT) -> dict[str, Tensor]:
    """Forward pass, loss and gradients, and the guided forward pass where the case records one."""
    t, y = tensor(case, "t"), tensor(case, "y")
    x, noise = tensor(case, "x")[:, None], tensor(case, "noise")[:, None]  # (B, 1, C, H, W)
    figures = hybrid_figures(lambda x: network(x, t, y), x, noise, t)
    figures["y"] = figures["y"][:, 0]  # (B, 2C, H, W)
    if "cfg_x" in case.get("inputs"):
        guided_y = guided_forward(case, network)
        figures |= {name: guided_y for name in case.get("outputs") if re.match("cfg", name)}
    return figures


@torch.no_grad()
def guided_forward(case: Case, network: DiT) -> Tensor:
    """What the official forward_with_cfg returns: both halves with guided noise and own other channels."""
    values, match = case.expression("cfg_x", GUIDED_INPUT)
    labels = torch.tensor([int(label) for label in match[2].split(",")])
    classes, nulls = labels.chunk(2)
    if (nulls != network.shape.num_classes).any():
        raise CaseError(f"{case.path}: the second half of cfg_x's labels must be the null class, got {nulls.tolist()}")
    x = torch.from_numpy(values).chunk(2)[0][:, None]  # (B, 1, C, H, W)
    t = torch.full((len(x),), int(match[1]))
    denoiser = guided(network, classes, network.shape.num_classes, float(match[3]), GUIDED_CHANNELS)
    first = denoiser(x, t)  # (B, 1, 2C, H, W)
    second = torch.cat([first[:, :, :GUIDED_CHANNELS], network(x, t, nulls)[:, :, GUIDED_CHANNELS:]], dim=2)
    return torch.cat([first, second])[:, 0]  # (2B, 2C, H, W)


SYSTEMS = {"dit": Adapter(build, run)}
