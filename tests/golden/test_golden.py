"""Ten training losses of every system from formula weights, and twins with one thing broken, which must not pass.

Written anew by `PYTHONPATH=src:. python tests/golden/test_golden.py`; see README.md beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lavita.baselines.pvdm import losses, stages, unet
from lavita.baselines.vdt import model
from lavita.codecs.base import PixelCodec
from lavita.config.compose import load_yaml
from lavita.config.registry import load_implementation
from lavita.config.schema import TrainConfig, read
from lavita.methods.base import MethodContext
from lavita.nn import blocks
from lavita.parity.cases import fill_by_formula, z
from lavita.training.stage import TrainedStage

HERE = Path(__file__).parent
BATCH, STEPS, TWIN_STEPS = 2, 10, 2
# Relative. One thread or two, and float64 in place of float32, move ten losses by at most 1.5e-7; another machine may
# sum in yet other orders, so 1e-5 is allowed. PVDM's U-Net divides by group deviations: there float64
# moves them by 1.3e-5, and ten times that is allowed. The broken twins below are off by 5e-4 or more.
TOLERANCE = 1e-5
TOLERANCES = {"pvdm-diffusion": 1.3e-4}

TRAIN = TrainConfig(
    batch_clips=BATCH,
    learning_rate=1e-3,
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.999,
    warmup_clips=0,
    ema_decay=0.999,
    ema_halflife_share=None,
    grad_clip_norm=1.0,
    grad_clip_start_clips=0,
    class_dropout=0.3,
)
LAVITA = {"size": "XS", "depth": 4, "width": 32, "num_heads": 4}
PVDM = {
    "autoencoder_batch_clips": None,
    "channels": 16,
    "patch_size": 8,
    "depth": 1,
    "num_heads": 2,
    "head_width": 8,
    "projection_depth": 1,
    "projection_hidden": 16,
    "discriminator_width": 4,
    "discriminator_depth": 2,
    "unet_channels": 32,
    "unet_multiples": [1, 2],
    "unet_attention": [2, 1],
    "unet_blocks": 1,
    "unet_heads": 2,
}
# name: (configuration, changes of its model section, frames, resolution, stage counted from the first)
SYSTEMS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    **{f"lavita-v{variant}": (f"lavita-v{variant}", LAVITA, 4, 8, 0) for variant in (1, 2, 3, 4)},
    "dit-frame": ("dit", {"size": "XS", "patch_size": 4, "mode": "frame"}, 2, 8, 0),
    "dit-joint": ("dit", {"size": "XS", "patch_size": 4, "mode": "joint"}, 2, 8, 0),
    "vdt": ("vdt", {"size": "XS", "patch_size": 4}, 2, 8, 0),
    "pvdm-autoencoder": ("pvdm", PVDM, 4, 32, 0),
    "pvdm-adversarial": ("pvdm", PVDM, 4, 32, 1),
    "pvdm-diffusion": ("pvdm", PVDM, 4, 32, 2),
}


class FormulaDraws:
    """Stands in for ClipDraws: the k-th draw is a formula over a name and k, so no generator has a part."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def normal(self, shape: Any) -> Tensor:
        self.count += 1
        return torch.from_numpy(z(f"{self.name}/{self.count}", (BATCH, *shape)))

    def uniform(self) -> Tensor:
        return torch.special.ndtr(self.normal(()))

    def integers(self, high: int) -> Tensor:
        return (self.uniform() * high).long().clamp(max=high - 1)


def build(system: str) -> TrainedStage:
    """The stage that is trained, all of its networks with formula weights; three classes."""
    name, changes, frames, resolution, stage = SYSTEMS[system]
    configuration = load_yaml("methods", name)
    implementation = load_implementation(configuration["implementation"])
    config = read(implementation.Config, configuration["model"] | changes, "model")
    method = implementation.Method(MethodContext(frames, resolution, 3, PixelCodec(), TRAIN, 0), config)
    module = method.stages()[stage].module
    for part in (method, module):
        fill_by_formula(part)
    return module.train()


def batch(step: int, module: TrainedStage, system: str) -> dict[str, Tensor]:
    """The clips of a step, smooth over neighbouring pixels as video is."""
    _, _, frames, resolution, _ = SYSTEMS[system]
    coarse = torch.from_numpy(z(f"golden/video/{step}", (BATCH * frames, 3, 4, 4)))
    video = torch.tanh(torch.nn.functional.interpolate(coarse, resolution, mode="bilinear"))
    return {
        "video": video.view(BATCH, frames, 3, resolution, resolution),
        "label": torch.tensor([step % 3, (step + 1) % 3]),
        "clip_index": torch.tensor([BATCH * step, BATCH * step + 1]),
    }


def train(system: str, break_it: Callable[[Any, Any], None] | None = None, steps: int = STEPS, patch: Any = None):
    """Losses of the first `steps` AdamW steps of a system, or of its broken twin."""
    module, found = build(system), []
    if break_it is not None:
        break_it(module, patch)
    optimiser = module.configure_optimizers()["optimizer"]
    for step in range(steps):
        loss = module.loss(batch(step, module, system), FormulaDraws(f"golden/draws/{step}"))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        module.configure_gradient_clipping(optimiser)
        optimiser.step()
        found.append(float(loss.detach()))
    return found


def passes(system: str, losses: list[float]) -> bool:
    """Whether losses are those recorded for the system, as many as are given."""
    recorded = json.loads((HERE / f"{system}.json").read_text(encoding="utf-8"))["losses"][: len(losses)]
    limit = TOLERANCES.get(system, TOLERANCE)
    return all(abs(a - b) <= limit * abs(b) for a, b in zip(losses, recorded, strict=True))


def swapped(function: Callable) -> Callable:
    """The function with groups and tokens (axes 1 and 2) of its tokens in each other's place."""
    return lambda x, *rest: function(x.transpose(1, 2), *rest).transpose(1, 2)


def temporal_blocks(module: Any) -> list[Any]:
    """The blocks of variants 1 and 2 that attend over time."""
    stack = module.network.blocks
    return list(stack[1::2] if module.config.variant == 1 else stack[len(stack) // 2 :])


def no_time(module: Any, patch: Any) -> None:
    """LAVITA whose attention over time gives nothing."""
    if module.config.variant > 2:
        patch.setattr(blocks, "attend_time", lambda attention, x, *rest: torch.zeros_like(x))
        return
    for block in temporal_blocks(module):
        patch.setattr(block.attn, "forward", lambda x, rotary=None: torch.zeros_like(x))


def wrong_axis(module: Any, patch: Any) -> None:
    """LAVITA whose attention over time runs over space."""
    if module.config.variant > 2:
        patch.setattr(blocks, "attend_time", lambda attention, x, *rest: blocks.attend(attention, x))
        return
    for block in temporal_blocks(module):
        patch.setattr(block, "forward", swapped(block.forward))


def no_gate(module: Any, patch: Any) -> None:
    """Blocks whose sub-layers are added as they are."""

    def ones(layer: Any, inputs: Any, out: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = out.chunk(6, dim=-1)
        return torch.cat([shift1, scale1, torch.ones_like(gate1), shift2, scale2, torch.ones_like(gate2)], dim=-1)

    for block in module.network.blocks:
        block.adaLN_modulation.register_forward_hook(ones)


def regrouped(split: Callable[[Tensor], Tensor], join: Callable[[Tensor], Tensor]) -> Callable:
    """Attention over other groups of tokens."""
    plain = blocks.attend
    return lambda attention, x, *rest: join(plain(attention, split(x), *rest))


def dit_wrong_axis(module: Any, patch: Any) -> None:
    """Frame mode attends over time; joint mode over the frames of each position alone."""
    frames, joint = module.latent_shape[0], module.config.mode == "joint"
    split = (
        (lambda x: x.unflatten(2, (frames, -1)).squeeze(1).transpose(1, 2)) if joint else lambda x: x.transpose(1, 2)
    )
    join = (lambda x: x.transpose(1, 2).flatten(1, 2)[:, None]) if joint else lambda x: x.transpose(1, 2)
    patch.setattr(blocks, "attend", regrouped(split, join))


def dit_no_time(module: Any, patch: Any) -> None:
    """Joint mode that attends inside each frame alone."""
    frames = module.latent_shape[0]
    split, join = (lambda x: x.unflatten(2, (frames, -1)).squeeze(1)), (lambda x: x.flatten(1, 2)[:, None])
    patch.setattr(blocks, "attend", regrouped(split, join))


def vdt_no_time(module: Any, patch: Any) -> None:
    """VDT whose attention over time gives nothing."""
    patch.setattr(model, "attend", lambda attention, x: torch.zeros_like(x))


def vdt_wrong_axis(module: Any, patch: Any) -> None:
    """VDT whose attention over time runs over space."""
    patch.setattr(model, "attend", lambda a, x: swapped(lambda y: blocks.attend(a, y))(x))


def constant(where: Any, name: str, value: Any) -> Callable[[Any, Any], None]:
    """Break a system by another value of a name in one of its files."""
    return lambda module, patch: patch.setattr(where, name, value)


def pvdm_no_time(module: Any, patch: Any) -> None:
    """PVDM's autoencoder whose attention over time gives nothing."""
    for layer in (*module.autoencoder.encoder.layers, *module.autoencoder.decoder.layers):
        patch.setattr(layer[0], "forward", lambda x, *rest: torch.zeros_like(x))


NO_CROSS = constant(unet.CrossPlaneAttention, "forward", lambda self, planes: planes)
TWINS = {
    **{
        (f"lavita-v{variant}", twin.__name__): twin
        for variant in (1, 2, 3, 4)
        for twin in (no_time, wrong_axis, no_gate)
    },
    **{(system, "no_gate"): no_gate for system in ("dit-frame", "dit-joint", "vdt")},
    ("dit-frame", "wrong_axis"): dit_wrong_axis,
    ("dit-joint", "wrong_axis"): dit_wrong_axis,
    ("dit-joint", "no_time"): dit_no_time,
    ("vdt", "no_time"): vdt_no_time,
    ("vdt", "wrong_axis"): vdt_wrong_axis,
    ("pvdm-autoencoder", "no_perceptual_loss"): constant(losses, "PERCEPTUAL_WEIGHT", 0.0),
    ("pvdm-autoencoder", "no_time"): pvdm_no_time,
    ("pvdm-adversarial", "no_feature_matching"): constant(losses, "FEATURE_WEIGHT", 0.0),
    ("pvdm-adversarial", "discriminators_have_no_turn"): constant(stages, "is_discriminator_update", lambda n: False),
    ("pvdm-diffusion", "no_cross_plane_attention"): NO_CROSS,
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_ten_losses_are_those_recorded(system):
    assert passes(system, train(system))


@pytest.mark.parametrize(("system", "twin"), TWINS)
def test_a_broken_twin_is_noticed(system, twin, monkeypatch):
    assert not passes(system, train(system, TWINS[system, twin], TWIN_STEPS, monkeypatch))


if __name__ == "__main__":
    for name in SYSTEMS:
        losses = train(name)
        text = json.dumps({"system": name, "losses": losses}, indent=1) + "\n"
        (HERE / f"{name}.json").write_text(text, encoding="utf-8")
        print(name, *(f"{loss:.6f}" for loss in losses))
