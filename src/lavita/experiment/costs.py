"""What a stage will cost, counted on shapes alone: parameters, FLOPs and memory without one weight allocated."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from lavita.codecs.base import Codec
from lavita.config.schema import ComputeConfig, DataConfig
from lavita.diffusion.rng import SampleRNG
from lavita.nn.blocks import ModulatedBlock
from lavita.training.distributed import recomputed_blocks
from lavita.training.stage import TrainedStage


def training_flops_per_clip(module: TrainedStage, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs (2 per multiply-add) of loss and backward for one clip with encoding, mean over alternating updates.

    Gradients are cleared after. Attention is counted as its two matrix products: the fused CPU kernel is unknown to the
    counter, so the plain one runs here.
    """
    one = {key: value[:1].to(module.device) for key, value in batch.items()}
    counted = [update_flops(module, one, number) for number in range(module.alternating_updates)]
    return round(sum(counted) / len(counted))


def update_flops(module: TrainedStage, one: dict[str, torch.Tensor], number: int) -> int:
    """FLOPs of loss and backward on one clip in update `number` of those that a stage alternates."""
    # On the CPU, so that a network that is but shapes (the meta device) still knows which update it is.
    first_clip = torch.full((1,), number * module.train_config.batch_clips)
    rng = SampleRNG.for_training(0, "flops", torch.zeros(1, dtype=torch.int64), module.device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.loss(one | {"clip_index": first_clip}, rng)["loss"].mean().backward()
    module.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@torch.no_grad()
def encoding_flops_per_clip(codec: Codec, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs of encoding one clip with the suite's autoencoder."""
    video = batch["video"][:1].to(next(codec.parameters(), batch["video"]).device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        codec.encode(video, SampleRNG([0], video.device))
    return counter.get_total_flops()


BYTES = 4  # of a float32
# Weight, gradient and AdamW's two moments.
TRAINED_COPIES = 4


@dataclass(frozen=True)
class StageCost:
    """params: trained by the stage. FLOPs per clip: forward of what is trained; forward and backward of the loss with
    encoding. peak_bytes: weights, optimiser, average and activations of one pass of a batch."""

    params: int
    flops_forward: int
    flops_train: int
    peak_bytes: int


def shape_batch(data: DataConfig, module: TrainedStage, clips: int) -> dict[str, Tensor]:
    """A batch of a stage as shapes on the meta device; clip indices are real numbers."""

    def frames(count: int) -> Tensor:
        return torch.zeros(clips, count, 3, data.resolution, data.resolution, device="meta")

    batch = {"video": frames(data.frames), "label": torch.zeros(clips, dtype=torch.int64, device="meta")}
    batch["clip_index"] = torch.arange(clips)
    if module.context_frames:
        batch["context_frames"] = frames(module.context_frames)
    if module.joint_images:
        batch["images"] = frames(module.joint_images)
        batch["image_labels"] = torch.zeros(clips, module.joint_images, dtype=torch.int64, device="meta")
    return batch


def counted(call: Callable[[], Any]) -> int:
    """FLOPs of a call, 2 per multiply-add, attention as its two products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def forward_flops(module: TrainedStage, batch: dict[str, Tensor]) -> int:
    """FLOPs of the loss's forward pass within `module.network`; of all of it where a stage has no part of that name."""
    rng = SampleRNG([0], torch.device("meta"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.loss(batch, rng)
    by_part = counter.get_flop_counts()
    # The counter names a module that is called from outside any other by its class.
    name = type(module.network).__name__ if hasattr(module, "network") else "Global"
    return sum(by_part[name].values())


def stage_cost(data: DataConfig, compute: ComputeConfig, module: TrainedStage) -> StageCost:
    """The cost of training a stage; the module lies on the meta device."""
    one = shape_batch(data, module, 1)
    with torch.no_grad():
        forward = forward_flops(module, one)
    trained = {id(p): p.numel() for p in module.trained_parameters()}
    every = {id(p): p.numel() for p in module.parameters()}
    copies = TRAINED_COPIES + (1 if module.uses_ema else 0)
    others = sum(size for key, size in every.items() if key not in trained)
    clips = module.train_config.batch_clips // (compute.accumulate_batches * compute.processes)
    shards = compute.processes if compute.strategy == "fsdp" else 1
    return StageCost(
        params=sum(trained.values()),
        flops_forward=forward,
        flops_train=training_flops_per_clip(module, one),
        peak_bytes=BYTES * (copies * sum(trained.values()) // shards + others)
        + clips * activation_bytes(data, module, compute.checkpoint_activations),
    )


def activation_bytes(data: DataConfig, module: TrainedStage, recomputed: bool) -> int:
    """Bytes of all tensors that the backward pass of one clip keeps, weights not counted.

    recomputed: whether blocks recompute theirs. Under mixed precision it is an upper bound.
    """
    weights = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in weights:
            kept[key] = tensor
        return tensor

    with ExitStack() as stack:
        stack.enter_context(recomputed_blocks(module, recomputed))
        stack.enter_context(saved_tensors_hooks(keep, lambda tensor: tensor))
        stack.enter_context(FusedAttention())
        module.loss(shape_batch(data, module, 1), SampleRNG([0], torch.device("meta")))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class FusedAttention(TorchFunctionMode):
    """Inside, attention keeps what the fused kernels keep: its inputs and its output, never the N x N weights."""

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            return KeptOfAttention.apply(*arguments[:3])
        return function(*arguments, **(options or {}))


class KeptOfAttention(torch.autograd.Function):
    """Stands for attention in a count of memory: the right shapes, no values, no backward pass."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        context.save_for_backward(q, k, v, out)
        return out


SECONDS = 3.0
WIDTHS = {"cpu": (384, 6), "cuda": (1152, 16)}


class Probe:
    """Forward and backward of one block, then its forward alone, each repeated for some seconds: achieved FLOPs a
    second.

    An estimate made with it leaves out loading, the optimiser and what small tensors waste, so it is a lower bound.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        width, heads = WIDTHS[device]
        block = ModulatedBlock(width, heads).to(device)
        x, c = torch.randn(2, 8, 256, width, device=device), torch.randn(2, 1, width, device=device)

        def step() -> None:
            block(x, c).mean().backward()
            block.zero_grad(set_to_none=True)

        flops = counted(step)
        step()
        self.flops_per_second = flops * rate(step, seconds)
        with torch.no_grad():
            flops = counted(lambda: block(x, c))
            block(x, c)
            self.forward_flops_per_second = flops * rate(lambda: block(x, c), seconds)

    def seconds(self, flops: int) -> float:
        """How long so many FLOPs of training take at the measured rate."""
        return flops / self.flops_per_second

    def forward_seconds(self, flops: int) -> float:
        """How long so many FLOPs of evaluation take, as in sampling and scoring."""
        return flops / self.forward_flops_per_second


def rate(step, seconds: float) -> float:
    """Calls a second of step, over at least `seconds`."""
    done, started = 0, time.perf_counter()
    while True:
        step()
        done += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        if elapsed > seconds:
            return done / elapsed
