"""LAVITA as one writes it down first: attention written out, modulation computed again for every frame and position.

The same function as `lavita.methods.lavita.model` with the same parameters, kept separate from it on purpose: what the
network is measured against shares its weights, its MLP and its embeddings, not the way it handles tokens.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.rng import Request, SampleRNG
from lavita.diffusion.schedule import Schedule
from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.nn.blocks import FactorisedBlock, ModulatedBlock, ParallelBlock, Rotary, SelfAttention
from lavita.nn.embeddings import rotate
from lavita.nn.precision import mixed_precision
from lavita.speed.timing import take_turns


@dataclass(frozen=True)
class Batch:
    """Latents and noise, float32 (B, F, C, H, W), and diffusion times, int64 (B,); the same for every contestant."""

    x0: Tensor
    t: Tensor
    noise: Tensor

    @classmethod
    def drawn(cls, shape: LavitaConfig, size: int, device: torch.device) -> Batch:
        """Normal latents and noise and uniform times, from the seeds 0 to size - 1."""
        rng, clip = SampleRNG(range(size), device), (shape.num_frames, shape.channels, shape.side, shape.side)
        return cls(rng.normal(clip), rng.integers(1000), rng.normal(clip))


class TrainingStep:
    """Calling it makes one update: forward, hybrid loss, backward, AdamW.

    precision: of the network, as compute.precision. Its blocks may be compiled from outside.
    """

    def __init__(self, network: nn.Module, batch: Batch, precision: str = "32-true") -> None:
        self.network, self.batch, self.precision = network, batch, precision
        self.schedule = Schedule.linear()
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)

    def loss(self) -> Tensor:
        """The mean loss of the batch, a scalar."""
        batch = self.batch
        x_t = self.schedule.add_noise(batch.x0, batch.t, batch.noise)
        with mixed_precision([self.network], self.precision):
            eps, v = self.network(x_t, batch.t).chunk(2, dim=2)
        return hybrid_loss(self.schedule, batch.x0, batch.t, batch.noise, eps, v)["loss"].mean()

    def __call__(self) -> None:
        self.loss().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def output(self) -> Tensor:
        """The network's float32 output for the batch, (B, F, 2C, H, W)."""
        return self.network(self.batch.x0, self.batch.t)


def difference(ours: Tensor, other: Tensor) -> float:
    """Largest difference of two outputs, relative to the largest value of ours."""
    return float((ours - other).abs().max() / ours.abs().max())


class PlainAttention(SelfAttention):
    """(R, N, D) -> (R, N, D); scores, softmax and weighted sum are tensors of their own."""

    def forward(self, x: Tensor, rotary: Rotary = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "r n (three h c) -> three r h n c", three=3, h=self.num_heads)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)  # (R, heads, N, c)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5  # (R, heads, N, N)
        x = scores.softmax(dim=-1) @ v  # (R, heads, N, c)
        return self.proj(rearrange(x, "r h n c -> r n (h c)"))  # (R, N, D)


def scaled(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (R, N, D) scaled by 1 + scale (R, D) and shifted by shift (R, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]  # (R, N, D)


class PlainBlock(ModulatedBlock):
    """A block of variants 1 and 2 on rows x (R, N, D), each with its own conditioning c (R, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        self.attn = PlainAttention(width, num_heads)

    def forward(self, x: Tensor, c: Tensor, rotary: Rotary = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)  # (R, D) each
        x = x + gate1[:, None] * self.attn(scaled(self.norm1(x), shift1, scale1), rotary)  # (R, N, D)
        return x + gate2[:, None] * self.mlp(scaled(self.norm2(x), shift2, scale2))  # (R, N, D)


class PlainFactorisedBlock(FactorisedBlock):
    """A block of variant 3 on frames x (B F, N, D), each with its own conditioning c (B F, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        self.attn, self.attn_time = PlainAttention(width, num_heads), PlainAttention(width, num_heads)

    def forward(self, x: Tensor, c: Tensor, frames: int, rotary: Rotary = None, table: Tensor | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)  # (B F, D) each
        x = x + gate1[:, None] * self.attn(scaled(self.norm1(x), shift1, scale1))  # (B F, N, D)
        x = x if table is None else with_time(x, table)  # (B F, N, D)
        y = to_time(scaled(self.norm_time(x), shift1, scale1), frames)  # (B N, F, D)
        x = x + gate1[:, None] * to_space(self.attn_time(y, rotary), x.shape[1])  # (B F, N, D)
        return x + gate2[:, None] * self.mlp(scaled(self.norm2(x), shift2, scale2))  # (B F, N, D)


class PlainParallelBlock(ParallelBlock):
    """A block of variant 4 on frames x (B F, N, D), each with its own conditioning c (B F, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        self.attn, self.attn_time = PlainAttention(width, num_heads // 2), PlainAttention(width, num_heads // 2)

    def forward(self, x: Tensor, c: Tensor, frames: int, rotary: Rotary = None, table: Tensor | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)  # (B F, D) each
        x = x if table is None else with_time(x, table)  # (B F, N, D)
        y = scaled(self.norm1(x), shift1, scale1)  # (B F, N, D)
        over_time = to_space(self.attn_time(to_time(y, frames), rotary), x.shape[1])  # (B F, N, D)
        x = x + gate1[:, None] * (self.attn(y) + over_time)  # (B F, N, D)
        return x + gate2[:, None] * self.mlp(scaled(self.norm2(x), shift2, scale2))  # (B F, N, D)


def to_time(x: Tensor, frames: int) -> Tensor:
    """(B F, N, D) -> (B N, F, D)."""
    return rearrange(x, "(b f) n d -> (b n) f d", f=frames)


def to_space(x: Tensor, positions: int) -> Tensor:
    """(B N, F, D) -> (B F, N, D)."""
    return rearrange(x, "(b n) f d -> (b f) n d", n=positions)


def with_time(x: Tensor, table: Tensor) -> Tensor:
    """x (B F, N, D) with a time table (1, F, D) added."""
    return to_space(to_time(x, table.shape[1]) + table, x.shape[1])


class PlainLavita(Lavita):
    """The network of a shape, written plainly; takes the state dict of `Lavita` and has its forward, without images.

    Raises ValueError for conditioning by tokens, which has no modulation.
    """

    def __init__(self, shape: LavitaConfig) -> None:
        super().__init__(shape)
        if shape.conditioning != "s-adaln":
            raise ValueError(f"the plain version: got conditioning {shape.conditioning!r}, allowed s-adaln")
        block = {1: PlainBlock, 2: PlainBlock, 3: PlainFactorisedBlock, 4: PlainParallelBlock}[shape.variant]
        self.blocks = nn.ModuleList(block(shape.width, shape.num_heads) for _ in range(shape.depth))

    def condition(self, *inputs) -> tuple[Tensor, Tensor]:
        """Conditioning of every frame (B, F, D) and of every position (B, N, D)."""
        c_frames, c_clip = super().condition(*inputs)
        frames, positions = self.shape.num_frames // self.compress, self.pos_embed.shape[1]
        return c_frames.expand(-1, frames, -1), repeat(c_clip, "b 1 d -> b n d", n=positions)

    def run_blocks(self, x: Tensor, c_frames: Tensor, c_clip: Tensor, num_video: int) -> Tensor:
        frames, positions = x.shape[1:3]
        if num_video != frames:
            raise ValueError("the plain version takes no images of joint training")
        c = {"s": c_frames.flatten(0, 1), "t": c_clip.flatten(0, 1)}  # (B F, D) and (B N, D)
        table = self.temp_embed if self.shape.time_positions == "sincos" else None
        x = rearrange(x, "b f n d -> (b f) n d")
        if self.shape.variant in (3, 4):
            for index, block in enumerate(self.blocks):
                x = block(x, c["s"], frames, self.rotary(), table if index == 0 else None)  # (B F, N, D)
            return rearrange(x, "(b f) n d -> b f n d", f=frames)
        half, kind = len(self.blocks) // 2, "s"
        order = "st" * half if self.shape.variant == 1 else "s" * half + "t" * half
        for wanted, block in zip(order, self.blocks, strict=True):
            if wanted != kind:
                x = to_time(x, frames) if wanted == "t" else to_space(x, positions)
                kind = wanted
            if wanted == "t" and table is not None:
                x, table = x + table, None  # (B N, F, D), once
            x = block(x, c[kind], self.rotary() if kind == "t" else None)  # (B F, N, D) or (B N, F, D)
        return rearrange(x, "(b n) f d -> b f n d", n=positions)  # the last block is a temporal one


def official_network(checkout: Path, shape: LavitaConfig) -> nn.Module:
    """Latte of the given shape, with its written-out attention (the released setting), unconditional.

    Takes (x, t) and our variant 1's state dict. Raises ValueError where the checkout has no models/latte.py, a package
    that it imports is missing, or the shape is not one of Latte's.
    Source: https://github.com/Vchitect/Latte at b27c24a, models/latte.py.
    """
    file = checkout / "models" / "latte.py"
    if not file.is_file():
        raise ValueError(f"--official: no file {file}; give a checkout of https://github.com/Vchitect/Latte")
    if shape.variant != 1:
        raise ValueError(f"--official: got --variant {shape.variant}, the official network is variant 1")
    try:
        spec = importlib.util.spec_from_file_location("official_latte", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # other people's code, and the packages it needs: whatever stops it, the user must know
        missing = (
            "needs a package that is not installed here" if isinstance(error, ImportError) else "can't be imported"
        )
        raise ValueError(f"--official: {file} {missing} ({type(error).__name__}: {error})") from error
    return module.Latte(
        input_size=shape.side,
        patch_size=shape.patch_size,
        in_channels=shape.channels,
        hidden_size=shape.width,
        depth=shape.depth,
        num_heads=shape.num_heads,
        num_frames=shape.num_frames,
    )


def counted_flops(loss: Callable[[], Tensor]) -> int:
    """FLOPs (2 per multiply-add, matrix products only) of a loss and its backward pass, by torch's counter.

    The fused CPU attention is unknown to the counter, so the plain one runs here: it has the same two products.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def draw_seconds(shape: LavitaConfig, clips: int, rounds: int = 3) -> tuple[float, float]:
    """Seconds that a step waits for the random numbers of so many clips (posterior, time, noise): drawn in the step,
    and drawn before by the loader's processes. The fastest of some rounds.
    """
    latent = (shape.num_frames, shape.channels, shape.side, shape.side)
    draw_requests = (Request("normal", latent), Request("integers", (1000,)), Request("normal", latent))

    def step(drawn: list[tuple[Request, Tensor]]) -> list[Tensor]:
        rng = SampleRNG.for_training(0, "train", torch.arange(clips), "cpu", drawn)
        return [rng.normal(latent), rng.integers(1000), rng.normal(latent)]

    ahead = list(zip(draw_requests, step([]), strict=True))
    found = take_turns({"step": lambda: step([]), "ahead": lambda: step(ahead)}, rounds)
    return min(found["step"]), min(found["ahead"])


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of the fastest square matrix product of a series that lasts about `seconds`."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    wait, best, end = waiter(device), float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def waiter(device: torch.device) -> Callable[[], None]:
    """A function that returns once the device has done all it was given."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
