"""LVDM's diffusion on latents: its beta schedule, its loss on the noise, and its two samplers as they were released."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lavita.diffusion.loss import mean_of_clip
from lavita.diffusion.rng import drawn_ahead
from lavita.diffusion.schedule import Schedule

NoisePredictor = Callable[[Tensor, Tensor], Tensor]


def lvdm_schedule(start: float = 0.0015, end: float = 0.0155, num_steps: int = 1000) -> Schedule:
    """Source: github.com/YingqingHe/LVDM at d251dcc, configs/lvdm_short."""
    return Schedule.scaled_linear(start, end, num_steps)


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean absolute error on the noise of each latent, (B, ...) each -> (B,). Source: LVDM's configurations (l1)."""
    return mean_of_clip((predicted - noise).abs())


def sampling_times(num_samples: int, num_steps: int = 1000) -> list[int]:
    """Times that DDIM visits, noisiest first: every (num_steps // num_samples)-th one from 1 on.

    There can be more of them than num_samples: 31 for 30. Where the last would lie behind the table (time 1000 for 3 or
    9 samples), at which the released code stops with an error, it is left out. Raises ValueError above num_steps / 2,
    where every time would be visited and the first one still left out: the ancestral sampler is for that.
    Source: github.com/YingqingHe/LVDM at d251dcc, lvdm/models/modules/util.py.
    """
    if not 1 <= num_samples <= num_steps // 2:
        raise ValueError(
            f"sampling.steps: got {num_samples}, allowed 1 to {num_steps // 2} with sampling.sampler=ddim (more: "
            f"sampling.sampler=ddpm with {num_steps})"
        )
    times = (step + 1 for step in range(0, num_steps, num_steps // num_samples))
    return [time for time in times if time < num_steps][::-1]


def ddim_step(
    schedule: Schedule,
    x: Tensor,
    time: int,
    time_before: int,
    eps: Tensor,
    noise: Tensor,
    eta: float,
    bound: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(state at time_before, predicted latent) of a state x (B, ...) at a time. Noise is added in every step.

    bound, where given, holds the predicted latent in [-bound, bound], and eps is then what leads there.
    Source: Song et al. 2021, equations 12 and 16.
    """
    a, a_before = (float(schedule.alphas_cumprod[step]) for step in (time, time_before))
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    if bound is not None:
        x0 = x0.clamp(-bound, bound)
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
    variance = eta**2 * (1 - a_before) / (1 - a) * (1 - a / a_before)
    direction = max(1 - a_before - variance, 0.0) ** 0.5
    return a_before**0.5 * x0 + direction * eps + variance**0.5 * noise, x0


def ancestral_step(
    schedule: Schedule, x: Tensor, step: int, eps: Tensor, noise: Tensor, bound: Tensor | None = None
) -> Tensor:
    """The state before step, from x (B, ...) at it, with the posterior's variance; no noise at step 0.

    bound as in `ddim_step`. Source: Ho et al. 2020, equations 6, 7 and 15.
    """
    t = torch.full((len(x),), step, device=x.device)
    x0 = schedule.predict_x0(x, t, eps)
    if bound is not None:
        x0 = x0.clamp(-bound, bound)
    mean = schedule.posterior_mean(x0, x, t)
    return mean if step == 0 else mean + schedule.at("posterior_variance", t, x).sqrt() * noise


def sample_latents(
    network: NoisePredictor,
    schedule: Schedule,
    draw: Callable[[], Tensor],
    sampler: str,
    steps: str,
    eta: float = 1.0,
    bound: Tensor | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
    put: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Latents (B, C, f, h, w) from noise. network(x, t) predicts the noise of x at times t (B,).

    sampler ddpm: every step of the schedule respaced by `steps`, as released all of them; ddim: the times of
    `sampling_times`, where the state after the last step is that of time 0, not the latent. draw() gives the next
    noise, one generator a clip; a thread calls it one step ahead. watch(i, x) sees the state after every step. put(x)
    is the state with what is given in its place, as every step begins with it. Raises ValueError for other samplers
    and numbers of steps.
    Source: github.com/YingqingHe/LVDM at d251dcc, lvdm/models/ddpm3d.py and lvdm/samplers/ddim.py.
    """
    if sampler == "ddim":
        if not steps.isdigit():
            raise ValueError(f"sampling.steps: got {steps!r}, wanted one whole number with sampling.sampler=ddim")
        times = sampling_times(int(steps), schedule.num_steps)
        before = [*times[1:], 0]
        short = schedule
    elif sampler == "ddpm":
        short = schedule.respace(steps)
        times = before = list(range(short.num_steps))[::-1]
    else:
        raise ValueError(f"sampling.sampler: got {sampler!r}, allowed ddpm, ddim")
    noises = drawn_ahead(lambda _: draw(), len(times) + 1)
    x = next(noises)
    for i, (time, time_before, noise) in enumerate(zip(times, before, noises, strict=True)):
        t = torch.full((len(x),), time, device=x.device)
        x = put(x)
        eps = network(x, short.times(t))  # (B, C, f, h, w)
        if sampler == "ddim":
            x, _ = ddim_step(short, x, time, time_before, eps, noise, eta, bound)
        else:
            x = ancestral_step(short, x, time, eps, noise, bound)
        if watch is not None:
            watch(i, x)
    return x
