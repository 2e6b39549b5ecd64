"""Cases of Latte (LAVITA's variant 1) and of its joint training with images."""

from __future__ import annotations

from torch import Tensor

from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.parity.adapters import hybrid_figures, tensor
from lavita.parity.cases import Adapter, Case


def build(case: Case) -> Lavita:
    """Variant 1 at the case's sizes. config.extras 2: class labels; without label dropout, no null row."""
    config = case.get("config")
    return Lavita(
        LavitaConfig(
            variant=1,
            depth=case.get("config", "depth"),
            width=case.get("config", "hidden_size"),
            num_heads=case.get("config", "num_heads"),
            patch_size=case.get("config", "patch_size"),
            num_frames=case.get("config", "num_frames"),
            channels=case.array("x").shape[2],
            side=case.get("config", "input_size"),
            num_classes=config["num_classes"] if config.get("extras") == 2 else None,
            null_class=config.get("class_dropout_prob", 0.1) != 0,
        )
    )


def run(case: Case, network: Lavita) -> dict[str, Tensor]:
    """Forward pass, loss and gradients; the last use_image_num frames are images."""
    inputs = case.get("inputs")
    t = tensor(case, "t")
    y = tensor(case, "y") if "y" in inputs else None
    y_images = tensor(case, "y_image") if "y_image" in inputs else None
    num_images = inputs.get("use_image_num", 0)
    return hybrid_figures(lambda x: network(x, t, y, y_images, num_images), tensor(case, "x"), tensor(case, "noise"), t)


SYSTEMS = {"latte": Adapter(build, run), "latte_img": Adapter(build, run)}
