"""Cases of MCVD: its U-Net with either conditioning, its loss with masks, its sampler and its chain of blocks."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from lavita.parity.cases import Adapter, Case, CaseError, no_network

from .diffusion import (
    following_past,
    masked,
    mcvd_schedule,
    sample_block,
    stacked,
    steps_of,
    summed_loss,
)
from .model import MCVDNet, UNetConfig

FORM = r"(?:([\d.]+) \+ )?(?:([\d.]+) \* )?(?:(tanh)\(Z\)|Z)"


def tensor(case: Case, key: str) -> Tensor:
    """An input: a list of numbers, z, tanh(z), or one of these times a number and plus another."""
    value = case.get("inputs", key)
    if isinstance(value, list):
        return torch.tensor(value)
    values, match = case.expression(key, FORM)
    inner = torch.from_numpy(values)
    inner = torch.tanh(inner) if match[3] else inner
    return float(match[1] or 0) + float(match[2] or 1) * inner


def build(case: Case) -> MCVDNet:
    """The network at the case's sizes."""
    config = case.get("config")
    given = config["num_frames_cond"] + config.get("num_frames_future", 0)
    shapes = case.get("state_dict")
    last = max((name for name in shapes if name.endswith(".bias")), key=module_number)
    channels = shapes[last][0] // config["num_frames"]
    if given < 1:
        raise CaseError(f"{case.path}: a network without given frames is not covered")
    return MCVDNet(
        UNetConfig(
            image_size=config["image_size"],
            channels=channels,
            frames=config["num_frames"],
            past=config["num_frames_cond"],
            future=config.get("num_frames_future", 0),
            width=config["ngf"],
            multiples=tuple(config["ch_mult"]),
            attention=tuple(config["attn_resolutions"]),
            num_res_blocks=config["num_res_blocks"],
            head_width=config["n_head_channels"],
            spatin=config["spade_dim"] if config["spade"] else None,
            dropout=config["dropout"],
        )
    )


def module_number(name: str) -> int:
    """N of unet.all_modules.N."""
    match = re.match(r"unet\.all_modules\.(\d+)\.", name)
    return int(match[1]) if match else -1


def losses_of(network: MCVDNet, block: Tensor, given: Tensor, noise: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Noised block, the network's answer, and both losses; the mean of the usual one is backpropagated."""
    perturbed = mcvd_schedule().add_noise(block, steps_of(labels), noise)
    y = network(perturbed, given, labels)
    per_clip = summed_loss(y, noise)
    per_clip.mean().backward()
    l1 = (noise - y).abs().flatten(1).sum(dim=1).mean()
    return {"perturbed": perturbed, "y": y, "loss_per_clip": per_clip, "loss": per_clip.mean(), "loss_l1": l1}


def run_unet(case: Case, network: MCVDNet) -> dict[str, Tensor]:
    """The loss with its gradients; y is the network on x as it is where the case has no noised x."""
    x, given, noise, labels = (tensor(case, key) for key in ("x", "cond", "noise", "labels"))
    figures = losses_of(network, x, given, noise, labels)
    if "perturbed" not in case.get("outputs"):
        with torch.no_grad():
            figures["y"] = network(x, given, labels)
    return figures


def run_loss(case: Case, network: MCVDNet) -> dict[str, Tensor]:
    """Masks, given frames, and the loss with its gradients."""
    c, sizes = case.get("config"), network.config
    video = 2 * tensor(case, "video") - 1  # (B, F, 3, H, W)
    past, block, future = video[:, : sizes.past + sizes.frames + sizes.future].split(
        [sizes.past, sizes.frames, sizes.future], dim=1
    )
    past_draw = tensor(case, "past_draw")
    past, past_kept = masked(past, past_draw, c["prob_mask_cond"])
    figures: dict[str, Tensor] = {"past_mask": past_kept.float()}
    if sizes.future:
        draw = past_draw if c["prob_mask_sync"] else tensor(case, "future_draw")
        future, future_kept = masked(future, draw, c["prob_mask_future"])
        figures["future_mask"] = future_kept.float()
    given, target = stacked(torch.cat([past, future], dim=1)), stacked(block)
    figures |= losses_of(network, target, given, tensor(case, "noise"), tensor(case, "labels"))
    return {"target": target, "cond": given, **figures}


NETWORK = r"eps = tanh\(([\d.]+) x \+ ([\d.]+) mean of cond over its channels \+ sin\(label / ([\d.]+)\)\)"
ALPHAS = (0, 1, 500, 998, 999)


def run_sampler(case: Case, network: None) -> dict[str, Any]:
    """States of both samplers, the video of chained blocks, and some of the schedule, noisiest first."""
    c = case.get("config")
    match = re.fullmatch(NETWORK, case.get("network"))
    if match is None:
        raise CaseError(f"{case.path}: the network's formula has an unknown form: {case.get('network')[:80]!r}")
    of_x, of_given, period = (float(number) for number in match.groups())

    def predictor(given: Tensor):
        mean = of_given * given.mean(dim=1, keepdim=True)
        return lambda x, label: torch.tanh(of_x * x + mean + torch.sin(label / period).view(-1, 1, 1, 1))

    figures: dict[str, Any] = {"alphas": mcvd_schedule().alphas_cumprod.flip(0)[list(ALPHAS)]}
    given, x_T, noise = tensor(case, "cond"), tensor(case, "x_T"), tensor(case, "noise")

    def sampled(name: str, denoise: bool) -> Tensor:
        draws = iter([x_T, *noise])

        def watch(i: int, x: Tensor) -> None:
            figures[f"{name}_after_step_{i}"] = x

        network = predictor(given)
        return sample_block(
            network, lambda: next(draws), c["subsample"], name, 0.0, c["clip_before"], denoise, watch
        )  # fmt: skip

    for name in ("ddpm", "ddim"):
        figures[f"{name}_not_denoised"] = sampled(name, False)
        figures[f"{name}_denoised"] = sampled(name, True)
    return figures | generated(case, predictor)


def generated(case: Case, predictor: Any) -> dict[str, Tensor]:
    """The video of chained blocks, (B, 3 F, H, W) in [0, 1], and what was given to a block after the last."""
    c = case.get("config")
    frames, past_frames = c["num_frames"], c["num_frames_cond"]
    starts, noises = tensor(case, "block_x_T"), tensor(case, "block_noise")
    total = past_frames + c["num_frames_pred"]
    batch, _, height, width = starts.shape[1:]
    past = torch.zeros(batch, past_frames, c["channels"], height, width)
    future = torch.zeros(batch, c["num_frames_future"], c["channels"], height, width)
    blocks = []
    for number in range(math.ceil(total / frames)):
        draws = iter([starts[number], *noises[number]])
        block = sample_block(
            predictor(stacked(torch.cat([past, future], dim=1))), lambda draws=draws: next(draws), c["subsample"],
            "ddpm", 0.0, c["clip_before"], c["denoise"],
        ).unflatten(1, (frames, c["channels"]))  # fmt: skip
        blocks.append(block)
        past = following_past(past, block)
    video = torch.cat(blocks, dim=1)[:, :total]
    given = stacked(torch.cat([past, future], dim=1))
    return {"generated": stacked(((video + 1) / 2).clamp(0, 1)), "cond_after_last_block": given}


SYSTEMS = {
    "mcvd_unet": Adapter(build, run_unet),
    "mcvd_loss": Adapter(build, run_loss),
    "mcvd_sampler": Adapter(no_network, run_sampler),
}
