"""Adapters of what is no method: samplers, distances, the inception score, I3D; and the figures that methods share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.sampler import sample_loop
from lavita.diffusion.schedule import Schedule
from lavita.metrics.distances import frechet_distance, inception_score, kernel_distance
from lavita.metrics.features.i3d import I3D, SIZE, FoldedI3D
from lavita.parity.cases import Adapter, Case, CaseError, no_network, weight, z


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


def run_sampler(case: Case, network: None) -> dict[str, Any]:
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


GENERATED = r"y = ([\d.]+) \* Z \+ ([\d.]+) in float64, then every third column \(0, 3, 6, \.\.\.\) of y halved"


def run_frechet(case: Case, network: None) -> dict[str, float]:
    """Both distances of the case's two sets, float64 (n, d) and (m, d)."""
    real = case.expression("real", "Z in float64")[0].astype(np.float64)
    values, match = case.expression("gen", GENERATED)
    generated = float(match[1]) * values.astype(np.float64) + float(match[2])
    generated[:, ::3] /= 2
    return {
        "frechet_ddof0": frechet_distance(real, generated, ddof=0),
        "frechet_ddof1": frechet_distance(real, generated, ddof=1),
        "kernel_poly3_unbiased_mmd": kernel_distance(real, generated),
    }


def run_inception(case: Case, network: None) -> dict[str, float]:
    """Mean and standard deviation over the case's splits."""
    values, match = case.expression("probabilities", r"softmax\(([\d.]+) \* Z\) in float64")
    logits = float(match[1]) * values.astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mean, deviation = inception_score(weights / weights.sum(axis=1, keepdims=True), case.get("splits"), shuffle_seed=42)
    return {"mean": mean, "std": deviation}


WEIGHTS = "5-d weights: z * sqrt(2/prod(shape[1:])) instead"
PREPROCESS = "trilinear to (frames, 224, 224), align_corners=False; /255*2-1"
VIDEO = r"clamp\(round\(127\.5 \+ 255 \* avg_pool3d\(Z, \(3,5,5\), stride 1, padding \(1,2,2\)\)\), 0, 255\)"


@torch.no_grad()
def fill_i3d(network: I3D) -> I3D:
    """Give the network the weights of its cases, from which no layer's output vanishes; in evaluation mode."""
    for name, value in network.state_dict().items():
        shape = tuple(value.shape)
        if value.ndim == 5:
            value.copy_(torch.from_numpy(z(name, shape)) * math.sqrt(2 / math.prod(shape[1:])))
        elif value.is_floating_point():
            value.copy_(weight(name, shape))
    return network.eval()


def build_i3d(case: Case) -> I3D:
    """The network; it has one size."""
    return I3D()


def run_i3d(case: Case, network: I3D) -> dict[str, Tensor]:
    """The logits of the network as it is written, and those of the folded one that scores are made with."""
    if case.data.get("weights_exception") != WEIGHTS or case.get("inputs", "preprocess") != PREPROCESS:
        raise CaseError(f"{case.path}: weights_exception or inputs.preprocess has an unknown form")
    fill_i3d(network)
    with torch.no_grad():
        noise = torch.from_numpy(case.expression("video", VIDEO)[0])
        smooth = functional.avg_pool3d(noise, (3, 5, 5), stride=1, padding=(1, 2, 2))
        video = (127.5 + 255 * smooth).round().clamp(0, 255)
        size = (video.shape[2], SIZE, SIZE)
        video = functional.interpolate(video, size=size, mode="trilinear", align_corners=False) / 255 * 2 - 1
        return {"logits_raw": network(video), "logits_mean_over_time": FoldedI3D(network)(video)}


SYSTEMS = {
    "iddpm_sampler": Adapter(no_network, run_sampler),
    "frechet": Adapter(no_network, run_frechet),
    "inception_score": Adapter(no_network, run_inception),
    "i3d": Adapter(build_i3d, run_i3d),
}
