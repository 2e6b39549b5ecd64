"""Noise schedules: the forward process q and the quantities every loss and sampler reads from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


def linear_betas(num_steps: int = 1000) -> Tensor:
    """float64 (num_steps,) from 1e-4 to 2e-2 at 1000 steps, stretched for others. Source: Ho et al. 2020, section 4."""
    scale = 1000 / num_steps
    return torch.linspace(scale * 1e-4, scale * 2e-2, num_steps, dtype=torch.float64, device="cpu")


# What `Schedule.at` gives entries of.
TABLES = (
    "betas", "log_betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_noise_variance",
    "rsqrt_alphas_cumprod", "sqrt_noise_ratio", "posterior_variance", "explained_variance", "posterior_log_variance",
    "posterior_of_x0", "posterior_of_xt",
)  # fmt: skip
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Schedule:
    """A discrete diffusion of T steps; all tables are float64 (T,).

    betas: variance added at each step. timesteps: the time that the network is told at each step, int64 (T,); it
    differs from 0..T-1 only after `respace`. Tables are computed once, on the CPU (also while a network is built
    without memory, on the meta device); float32 copies stay on each device that asks for entries, so that a step
    copies nothing. Source: Ho et al. 2020, equations 4 to 7.
    """

    betas: Tensor
    timesteps: Tensor
    _placed: dict[tuple[str, torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.betas.dtype != torch.float64 or self.betas.ndim != 1:
            raise ValueError(f"betas: got {self.betas.dtype} {tuple(self.betas.shape)}, wanted float64 (T,)")
        if not ((self.betas > 0) & (self.betas < 1)).all():
            raise ValueError(
                f"betas: got {float(self.betas.min()):.6g} to {float(self.betas.max()):.6g}, every value must lie in "
                "(0, 1): a step with 0 adds no noise, after one with 1 nothing is left of x_0; take more steps"
            )
        for name in TABLES:
            self._placed[name, CPU, torch.float32] = getattr(self, name).float()
        self._placed["timesteps", CPU, torch.int64] = self.timesteps

    @classmethod
    def from_betas(cls, betas: Tensor) -> Schedule:
        return cls(betas, torch.arange(len(betas), device="cpu"))

    @classmethod
    def linear(cls, num_steps: int = 1000) -> Schedule:
        return cls.from_betas(linear_betas(num_steps))

    @classmethod
    def scaled_linear(cls, start: float, end: float, num_steps: int = 1000) -> Schedule:
        """Betas whose square roots are evenly spaced from sqrt(start) to sqrt(end). Source: Rombach et al. 2022."""
        # On the CPU in any case: a schedule is a table, also where a network is only being counted.
        roots = torch.linspace(start**0.5, end**0.5, num_steps, dtype=torch.float64, device="cpu")
        return cls.from_betas(roots**2)

    @property
    def num_steps(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        return torch.cat([self.betas.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def log_betas(self) -> Tensor:
        return self.betas.log()

    @cached_property
    def sqrt_alphas_cumprod(self) -> Tensor:
        """What x_0 is multiplied by in x_t."""
        return self.alphas_cumprod.sqrt()

    @cached_property
    def sqrt_noise_variance(self) -> Tensor:
        """What the noise is multiplied by in x_t: sqrt(1 - alphas_cumprod)."""
        return (1 - self.alphas_cumprod).sqrt()

    @cached_property
    def rsqrt_alphas_cumprod(self) -> Tensor:
        return self.alphas_cumprod.rsqrt()

    @cached_property
    def sqrt_noise_ratio(self) -> Tensor:
        """Deviation of the noise over that of x_0's part: sqrt(1 / alphas_cumprod - 1)."""
        return (1 / self.alphas_cumprod - 1).sqrt()

    @cached_property
    def posterior_of_x0(self) -> Tensor:
        """What x_0 is multiplied by in the mean of q(x_{t-1} | x_t, x_0)."""
        return self.betas * self.alphas_cumprod_prev.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_of_xt(self) -> Tensor:
        """What x_t is multiplied by there."""
        return (1 - self.alphas_cumprod_prev) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_variance(self) -> Tensor:
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def explained_variance(self) -> Tensor:
        """What x_t tells of x_{t-1} where x_0 is known: posterior_variance + explained_variance is its whole variance,
        1 - alphas_cumprod_prev. A product, not that difference, which rounding can make negative where it is small.
        """
        return (1 - self.alphas_cumprod_prev) ** 2 * (1 - self.betas) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Log of the posterior variance; its first entry, log 0, is replaced by the second (Ho et al. 2020)."""
        variance = self.posterior_variance
        return torch.log(torch.cat([variance[1:2], variance[1:]]) if len(variance) > 1 else variance.clamp(1e-20))

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Entries of a table at steps t (B,) in like's dtype (at least float32), to broadcast against like (B, ...).

        name: one of TABLES.
        """
        return self._entries(name, lambda: getattr(self, name), t, like)

    def times(self, t: Tensor) -> Tensor:
        """The times that the network is told at steps t, int64 (B,)."""
        return self._table("timesteps", lambda: self.timesteps, t.device, torch.int64)[t]

    def _entries(self, name: str, table: Callable[[], Tensor], t: Tensor, like: Tensor) -> Tensor:
        values = self._table(name, table, t.device, torch.promote_types(like.dtype, torch.float32))[t]
        return values.view(-1, *[1] * (like.ndim - 1))

    def _table(self, name: str, table: Callable[[], Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
        """A table where it is needed, copied there at most once; table is called where it is not there yet."""
        key = (name, device, dtype)
        if key in self._placed:
            return self._placed[key]
        placed = table().to(dtype).to(device)
        if type(placed) is Tensor:  # not one of a simulation (FakeTensor), which would outlive it
            self._placed[key] = placed
        return placed

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of q(x_t | x_0), same shape as x0 (B, ...). Source: Ho et al. 2020, equation 4."""
        return self.at("sqrt_alphas_cumprod", t, x0) * x0 + self.at("sqrt_noise_variance", t, x0) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_0 that explains x_t under noise eps. Source: Ho et al. 2020, equation 4 solved for x_0."""
        return self.at("rsqrt_alphas_cumprod", t, x_t) * x_t - self.at("sqrt_noise_ratio", t, x_t) * eps

    def predict_eps(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """Noise that explains x_t from x_0, the inverse of `predict_x0`."""
        return (self.at("rsqrt_alphas_cumprod", t, x_t) * x_t - x0) / self.at("sqrt_noise_ratio", t, x_t)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0). Source: Ho et al. 2020, equation 7."""
        return self.at("posterior_of_x0", t, x0) * x0 + self.at("posterior_of_xt", t, x0) * x_t

    def ddim_at(self, eta: float, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of `ddim_factors` at steps t (B,), as `at` gives them."""
        of_x0, of_eps, of_noise = (
            self._entries(f"ddim_factors {eta} {k}", lambda k=k: self.ddim_factors(eta)[k], t, like)  # type: ignore
            for k in range(3)
        )
        return of_x0, of_eps, of_noise

    def ddim_factors(self, eta: float) -> tuple[Tensor, Tensor, Tensor]:
        """What x_0, the predicted noise and fresh noise are multiplied by in a DDIM step, tables that hold no NaN.

        eta in 0..1: 0 adds no noise, 1 as much as q(x_{t-1} | x_t, x_0) has. Raises ValueError outside.
        Source: Song et al. 2021, equations 12 and 16; sigma^2 is eta^2 posterior_variance there, and 1 -
        alpha_bar_prev - sigma^2 is written as a sum of what can't be negative.
        """
        if not 0 <= eta <= 1:
            raise ValueError(
                f"sampling.eta: got {eta}, allowed 0 to 1: with more the variance left to the noise is below 0"
            )
        predicted = (1 - eta**2) * self.posterior_variance + self.explained_variance
        return self.alphas_cumprod_prev.sqrt(), predicted.sqrt(), eta * self.posterior_variance.sqrt()

    def model_log_variance(self, v: Tensor, t: Tensor) -> Tensor:
        """Learned-range log variance: v in [-1, 1] moves between the two bounds.

        Source: Nichol & Dhariwal 2021, equation 15.
        """
        low = self.at("posterior_log_variance", t, v)
        high = self.at("log_betas", t, v)
        fraction = (v + 1) / 2
        return fraction * high + (1 - fraction) * low

    def respace(self, spacing: str) -> Schedule:
        """The shorter diffusion that visits only some steps. Source: Nichol & Dhariwal 2021, section 4."""
        return self.visiting(spaced_steps(self.num_steps, spacing))

    def visiting(self, steps: Tensor) -> Schedule:
        """The shorter diffusion with the noise levels of these steps, int64, ascending."""
        alphas_bar = self.alphas_cumprod[steps]
        previous = torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
        return Schedule(1 - alphas_bar / previous, self.timesteps[steps])


def spaced_steps(num_steps: int, spacing: str) -> Tensor:
    """Steps kept by an IDDPM respacing string, int64, ascending.

    "N": N steps evenly over the range, both ends included; "ddimN": a constant integer stride from 0; "a,b,c": the
    range cut in equal sections with a, b, c steps in each. Source: Nichol & Dhariwal 2021, section 4; Song et al. 2021.
    """
    if spacing.startswith("ddim"):
        wanted = int(spacing[4:])
        for stride in range(1, num_steps):
            if len(range(0, num_steps, stride)) == wanted:
                return torch.arange(0, num_steps, stride)
        raise ValueError(f"sampling.steps: got {spacing}, no integer stride visits {wanted} of {num_steps} steps")
    counts = [int(part) for part in str(spacing).split(",")]
    size, extra = divmod(num_steps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        section = size + (index < extra)
        if not 1 <= count <= section:
            raise ValueError(f"sampling.steps: got {spacing}, allowed 1 to {section} in a section of {section} steps")
        spacing_of_steps = (section - 1) / (count - 1) if count > 1 else 1.0
        # Repeated addition, not a product: the published step lists were made with its rounding.
        position: float = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += spacing_of_steps
        start += section
    return torch.tensor(kept)
