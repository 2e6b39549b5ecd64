"""The figures of all transformer cases: a forward pass, the IDDPM loss of each clip, its gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.sampler import sample_loop
from lavita.diffusion.schedule import Schedule
from lavita.parity.cases import Adapter, Case, CaseError, no_network


def tensor(case: Case, key: str) -> Tensor:
    """An input that is a plain z call, or a list of integers, as a tensor."""
    value = case.get("inputs", key)
    return torch.tensor(value) if isinstance(value, list) else torch.from_numpy(case.array(key))


def hybrid_figures(network: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Outputs "y" (of x itself), "loss", "mse" and "vb" (of x noised). The mean loss is backpropagated.

    network maps x (B, F, C, H, W) to noise and variance (B, F, 2C, H, W); t is (B,).
    """
    schedule = Schedule.linear()
    with torch.no_grad():
        y = network(x)
    eps, v = network(schedule.add_noise(x, t, noise)).chunk(2, dim=2)
    parts = hybrid_loss(schedule, x, t, noise, eps, v)
    parts["loss"].mean().backward()
    return {"y": y, "loss": parts["loss"], "mse": parts["mse"], "vb": parts["vlb"]}


NETWORK = (
    r"eps = tanh\(([\d.]+) x \+ sin\(t/([\d.]+)\)\), v = tanh\(([\d.]+) x ([+-]) ([\d.]+)\), "
    r"model output = cat\(\[eps, v\], dim=1\); t is the original, unspaced timestep"
)


def closed_form_network(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser that the case writes down, (x, t) -> noise and variance on axis 1."""
    match = re.fullmatch(NETWORK, case.get("network"))
    if match is None:
        raise CaseError(f"{case.path}: the network's formula has an unknown form: {case.get('network')[:80]!r}")
    eps_scale, period, v_scale = float(match[1]), float(match[2]), float(match[3])
    v_shift = float(match[4] + match[5])

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        wave = torch.sin(t / period).view(-1, *[1] * (x.ndim - 1))
        return torch.cat([torch.tanh(eps_scale * x + wave), torch.tanh(v_scale * x + v_shift)], dim=1)

    return denoiser


def run(case: Case, network: None) -> dict[str, Any]:
    """The state after every step, as "sample_after_step_<i>", and the steps visited, ascending."""
    schedule = Schedule.linear().respace(case.get("config", "timestep_respacing"))
    noise = tensor(case, "noise")  # (steps, B, C, H, W)
    figures: dict[str, Any] = {"timestep_map": schedule.timesteps}
    sample_loop(
        closed_form_network(case),
        schedule,
        tensor(case, "x_T"),
        lambda step: noise[step],
        case.get("config", "method"),
        eta=case.get("config", "eta"),
        clip=case.get("config", "clip_denoised"),
        watch=lambda step, x: figures.__setitem__(f"sample_after_step_{step}", x),
    )
    return figures


SYSTEMS = {"iddpm_sampler": Adapter(no_network, run)}
