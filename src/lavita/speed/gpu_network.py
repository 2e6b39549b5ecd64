"""speed.py gpu, the parts of a network: products, steps, attention, optimiser, sampling, repeatability, checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lavita.diffusion.rng import SampleRNG
from lavita.diffusion.sampler import sample_loop
from lavita.diffusion.schedule import Schedule
from lavita.experiment.costs import counted
from lavita.methods.lavita.model import SIZES, Lavita, LavitaConfig
from lavita.nn.precision import MIXED, mixed_precision
from lavita.parity.cases import fill_by_formula
from lavita.results.resume_store import ResumeStore
from lavita.speed.bench import Case, Quantity, Setting, Stopwatch, duration, rate
from lavita.speed.networks import Batch, TrainingStep, official_network
from lavita.training.callbacks import Ema
from lavita.training.checkpoint import StageCheckpoints
from lavita.training.compilation import compiled_blocks
from lavita.training.distributed import blocks_of, recomputed_blocks

PRECISIONS = ("32", "tf32", "bf16")
EAGER, COMPILED, RECOMPUTED, OFFICIAL = "eager", "compiled blocks", "recomputed", "official"
FULL_STEPS = 250  # of a sample, in the published setting


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, products and convolutions of float32 tensors run in float32, TF32 or (autocast) bfloat16."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def placed(network: nn.Module, precision: str, mode: str) -> Iterator[None]:
    """Inside, a network computes as a run has it: blocks compiled or recomputed, bfloat16 where it may be."""
    if mode == COMPILED:
        torch.compiler.reset()  # what another case has compiled
    with (
        arithmetic("32" if precision == "bf16" else precision, next(network.parameters()).device),
        compiled_blocks(network, mode == COMPILED),
        recomputed_blocks(blocks_of(network), mode == RECOMPUTED),
        mixed_precision([network], MIXED if precision == "bf16" else ""),
    ):
        yield


def shape_of(setting: Setting, size: str) -> LavitaConfig:
    """LAVITA variant 1 with patches of 2 on the latents of 16 frames of 256 x 256, or a small one of the same build."""
    depth, width, heads = setting.choose(SIZES[size], (2, 64, 4))
    frames, side = setting.choose((16, 32), (4, 8))
    return LavitaConfig(1, depth, width, heads, 2, frames, 4, side)


def network_of(setting: Setting, size: str) -> Lavita:
    """A network on the device, at its starting weights."""
    return Lavita(shape_of(setting, size)).to(setting.device)


# --- matmul


def matmul_cases(setting: Setting) -> Iterable[Case]:
    """Products of square matrices in each precision, and a copy."""
    side = setting.choose(8192, 128)

    def multiply(precision: str, stopwatch: Stopwatch) -> list[Quantity]:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = torch.randn(2, side, side, device=setting.device).to(dtype)
        with arithmetic("32" if precision == "bf16" else precision, setting.device):
            seconds = stopwatch.repeat(lambda: a @ b)
        return [rate(2 * side**3 / 1e12, seconds, "rate", "TFLOP/s")]

    def copy(stopwatch: Stopwatch) -> list[Quantity]:
        a = torch.zeros(setting.choose(2**30, 2**20), dtype=torch.uint8, device=setting.device)
        b = torch.empty_like(a)
        return [rate(2 * len(a) / 1e9, stopwatch.repeat(lambda: b.copy_(a)), "read and written", "GB/s")]

    for precision in PRECISIONS:
        yield Case(f"{side} x {side}, {precision}", partial(multiply, precision))
    yield Case("copy in memory", copy)


# --- step


def step_cases(setting: Setting) -> Iterable[Case]:
    """Steps of both sizes; the official network beside ours where a checkout was given."""
    plan = [("XL", precision, EAGER, clips) for precision in PRECISIONS for clips in (5, 8)]
    plan += [("XL", "bf16", RECOMPUTED, 40), *(("S", precision, EAGER, 40) for precision in PRECISIONS)]
    if setting.official is not None:
        plan += [("XL", precision, OFFICIAL, 5) for precision in PRECISIONS]
    return [step_case(setting, *one) for one in plan]


def step_case(setting: Setting, size: str, precision: str, mode: str, clips: int) -> Case:
    """A training step under its name."""
    count = setting.choose(clips, 1)
    return Case(f"{size}/2 {precision} {mode}, {count} clips", partial(step, setting, size, precision, mode, count))


def step(
    setting: Setting, size: str, precision: str, mode: str, clips: int, stopwatch: Stopwatch
) -> Sequence[Quantity]:
    """One training step of `clips` clips from latents: forward, hybrid loss, backward, AdamW."""
    shape = shape_of(setting, size)
    network = official_network(setting.official, shape) if mode == OFFICIAL else Lavita(shape)
    call = TrainingStep(network.to(setting.device), Batch.drawn(shape, clips, setting.device))
    with placed(network, precision, mode):
        first = stopwatch.once(call)
        seconds = stopwatch.repeat(call)
    per_clip = step_flops(shape)
    found = [duration(seconds, "step"), rate(clips, seconds, "training", "clips/s")]
    found.append(rate(clips * per_clip / 1e12, seconds, "counted products", "TFLOP/s"))
    return [*found, Quantity("first step, compiling where it does", first, "s")]


def step_flops(shape: LavitaConfig) -> int:
    """FLOPs of the network for one clip of training, 2 a multiply-add: the forward pass three times."""
    with torch.device("meta"):
        network = Lavita(shape).to("meta")
        x = torch.zeros(1, shape.num_frames, shape.channels, shape.side, shape.side)
        with torch.no_grad():
            return 3 * counted(lambda: network(x, torch.zeros(1, dtype=torch.int64)))


# --- sdpa

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "written out": None,
}


def sdpa_cases(setting: Setting) -> Iterable[Case]:
    """Every back-end at the rows, heads and tokens of a spatial and a temporal block of XL/2."""
    clips = setting.choose(8, 1)
    shapes = {"spatial": (clips * 16, 16, 256, 72), "temporal": (clips * 256, 16, 16, 72)}
    if setting.tiny:
        shapes = {"spatial": (4, 4, 16, 16), "temporal": (16, 4, 4, 16)}
    for (kind, shape), dtype, backend in product(shapes.items(), (torch.bfloat16, torch.float32), BACKENDS):
        name = f"{kind} {' x '.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}, {backend}"
        yield Case(name, partial(attention, setting, shape, dtype, backend))


def attention(
    setting: Setting, shape: tuple[int, int, int, int], dtype: torch.dtype, backend: str, stopwatch: Stopwatch
) -> list[Quantity]:
    """Forward and backward of attention alone, from the joint tensor of queries, keys and values as the network has
    it; whether two calls give the same gradient bits."""
    rows, heads, tokens, width = shape
    qkv = torch.randn(rows, tokens, 3, heads, width, device=setting.device, dtype=dtype, requires_grad=True)

    def call() -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (rows, heads, tokens, width) each
        with nullcontext() if BACKENDS[backend] is None else sdpa_kernel(BACKENDS[backend]):
            out = (
                written_out(q, k, v) if BACKENDS[backend] is None else functional.scaled_dot_product_attention(q, k, v)
            )
        return torch.autograd.grad(out, qkv, torch.ones_like(out))[0]

    same = torch.equal(call(), call())
    return [duration(stopwatch.repeat(call)), Quantity("same bits twice", float(same), "")]


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two products and a softmax."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


# --- optimiser


def optimiser_cases(setting: Setting) -> Iterable[Case]:
    """Updates of all parameters of XL/2, each with a gradient."""

    def parameters() -> list[nn.Parameter]:
        found = [p for p in network_of(setting, "XL").parameters() if p.requires_grad]
        for parameter in found:
            parameter.grad = torch.full_like(parameter, 1e-3)
        return found

    def adamw(how: dict[str, bool], stopwatch: Stopwatch) -> list[Quantity]:
        return [duration(stopwatch.repeat(torch.optim.AdamW(parameters(), 1e-4, **how).step))]

    def average(stopwatch: Stopwatch) -> list[Quantity]:
        weights, trainer = parameters(), SimpleNamespace(global_step=0)
        module = SimpleNamespace(trained_parameters=lambda: weights)
        ema = Ema(lambda step: 0.9999)
        ema.on_fit_start(trainer, module)

        def call() -> None:
            trainer.global_step += 1
            ema.on_train_batch_end(trainer, module)

        return [duration(stopwatch.repeat(call))]

    def clipping(stopwatch: Stopwatch) -> list[Quantity]:
        weights = parameters()
        return [duration(stopwatch.repeat(lambda: nn.utils.clip_grad_norm_(weights, 0.1)))]

    for name, how in {"a loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}.items():
        yield Case(f"AdamW, {name}", partial(adamw, how))
    yield Case("moving average", average)
    yield Case("clipping of gradients", clipping)


# --- sampling


def sampling_cases(setting: Setting) -> Iterable[Case]:
    """DDPM with the network, noise from per-sample generators included, decoding not."""
    plan = [*((precision, 8) for precision in PRECISIONS), ("bf16", 16), ("bf16", 32)]
    return [sampling_case(setting, precision, EAGER, clips) for precision, clips in plan]


def sampling_case(setting: Setting, precision: str, mode: str, clips: int) -> Case:
    """Sampling under its name."""
    count = setting.choose(clips, 1)
    name = f"sampling XL/2 {precision} {mode}, {count} clips"
    return Case(name, partial(sample, setting, precision, mode, count))


@torch.no_grad()
def sample(setting: Setting, precision: str, mode: str, clips: int, stopwatch: Stopwatch) -> list[Quantity]:
    """A few steps of the sampler; a clip's seconds are theirs times 250 over their number."""
    network, schedule, steps = network_of(setting, "XL").eval(), Schedule.linear(), setting.choose(5, 2)
    shape, rng = network.shape, SampleRNG(range(clips), setting.device)
    latent = (shape.num_frames, shape.channels, shape.side, shape.side)

    def call() -> None:
        sample_loop(network, schedule.respace(str(steps)), rng.normal(latent), lambda step: rng.normal(latent))

    with placed(network, precision, mode):
        seconds = [one / steps for one in stopwatch.repeat(call)]
    return [duration(seconds, "step"), duration([FULL_STEPS * one / clips for one in seconds], "clip of 250 steps")]


# --- compiled


def compiled_cases(setting: Setting) -> Iterable[Case]:
    """What compiled blocks change. Late among the parts: a compiler can't be asked to be done in time."""
    steps = [("XL", "bf16", COMPILED, 8), ("S", "bf16", COMPILED, 40), ("XL", "bf16", COMPILED, 5)]
    return [*(step_case(setting, *one) for one in steps), sampling_case(setting, "bf16", COMPILED, 32)]


# --- repeatability


def repeatability_cases(setting: Setting) -> Iterable[Case]:
    """Two gradients of S/2 from the same weights and clips."""
    for precision, exact in product(PRECISIONS, (False, True)):
        how = "deterministic algorithms" if exact else "torch's choice"
        yield Case(f"S/2 {precision}, {how}", partial(repeated, setting, precision, exact))


def repeated(setting: Setting, precision: str, exact: bool, stopwatch: Stopwatch) -> list[Quantity]:
    """Whether all gradients have the same bits, and what a loss with its gradients takes."""
    network, clips = network_of(setting, "S"), setting.choose(8, 1)
    fill_by_formula(network)  # a zero-initialised output would hide all that lies before it
    call = TrainingStep(network, Batch.drawn(network.shape, clips, setting.device))

    def gradients() -> list[Tensor]:
        network.zero_grad(set_to_none=True)
        call.loss().backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(exact)
    try:
        with placed(network, precision, EAGER):
            same = all(map(torch.equal, gradients(), gradients()))
            seconds = stopwatch.repeat(gradients)
    finally:
        torch.use_deterministic_algorithms(before)
    return [Quantity("same bits twice", float(same), ""), duration(seconds, "loss and gradients")]


# --- checkpoint


def checkpoint_cases(setting: Setting) -> Iterable[Case]:
    """Weights, average and both moments of XL/2, as a stage of training keeps them."""

    def state(device: torch.device) -> dict[str, Any]:
        shape = shape_of(setting, "XL")
        with torch.device("meta"):
            sizes = [p.shape for p in Lavita(shape).parameters() if p.requires_grad]
        copies = {
            name: [torch.rand(size, device=device) for size in sizes] for name in ("weights", "average", "m", "v")
        }
        return {"callbacks": {}, "state": copies}

    def size_of(values: dict[str, Any]) -> int:
        return sum(tensor.nbytes for tensors in values["state"].values() for tensor in tensors)

    def kept(stopwatch: Stopwatch) -> list[Quantity]:
        values = state(setting.device)
        with tempfile.TemporaryDirectory() as folder:
            size, free = size_of(values), shutil.disk_usage(folder).free
            if free < 1.1 * size:
                raise OSError(f"{folder}: {free / 1e9:.1f} GB are free, {1.1 * size / 1e9:.1f} are wanted; set TMPDIR")
            checkpoints = StageCheckpoints(ResumeStore(Path(folder)), "train")
            copied = stopwatch.once(lambda: checkpoints.save_checkpoint(values, "40"))
            written = stopwatch.once(checkpoints.writer.wait)
            path = checkpoints.newest()
            assert path is not None
            read = stopwatch.once(lambda: checkpoints.load_checkpoint(path))
        found = {"size": (size / 1e9, "GB"), "copied to the host, training waits": (copied, "s")}
        found |= {"hashed, written and stored, beside training": (written, "s"), "read": (read, "s")}
        return [Quantity(name, value, unit) for name, (value, unit) in found.items()]

    yield Case("weights, average and moments of XL/2", kept)


PARTS: dict[str, Callable[[Setting], Iterable[Case]]] = {
    "matmul": matmul_cases,
    "step": step_cases,
    "sdpa": sdpa_cases,
    "optimiser": optimiser_cases,
    "sampling": sampling_cases,
    "compiled": compiled_cases,
    "repeatability": repeatability_cases,
    "checkpoint": checkpoint_cases,
}
