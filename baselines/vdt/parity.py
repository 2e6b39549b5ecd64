"""Cases of VDT."""

from __future__ import annotations

from torch import Tensor

from lavita.parity.adapters import hybrid_figures, tensor
from lavita.parity.cases import Adapter, Case

from .model import VDT, VDTConfig


def build(case: Case) -> VDT:
    """A VDT at the case's sizes."""
    return VDT(
        VDTConfig(
            depth=case.get("config", "depth"),
            width=case.get("config", "hidden_size"),
            num_heads=case.get("config", "num_heads"),
            patch_size=case.get("config", "patch_size"),
            num_frames=case.get("config", "num_frames"),
            channels=case.array("x").shape[2],
            side=case.get("config", "input_size"),
            num_classes=case.get("config", "num_classes"),
        )
    )


def run(case: Case, network: VDT) -> dict[str, Tensor]:
    """Forward pass, loss and gradients; without labels row 0 of the label table is added."""
    t = tensor(case, "t")
    y = tensor(case, "y") if "y" in case.get("inputs") else None
    return hybrid_figures(lambda x: network(x, t, y), tensor(case, "x"), tensor(case, "noise"), t)


SYSTEMS = {"vdt": Adapter(build, run)}
