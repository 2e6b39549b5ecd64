"""What a stage will cost, counted on shapes alone: parameters, FLOPs, memory, passes; no weight is allocated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lavita.codecs.base import Codec
from lavita.config.schema import ComputeConfig, DataConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.memory import Peak
from lavita.experiment.peaks import META, Memory, choose_passes, meta_copy, shape_batch, training_peak
from lavita.methods.base import VideoMethod
from lavita.nn.blocks import ModulatedBlock
from lavita.results.records import Passes
from lavita.training.stage import TrainedStage, others_frozen


def training_flops_per_clip(module: TrainedStage, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs (2 per multiply-add) of loss and backward for one clip with encoding, mean over updates as they fall.

    Gradients are cleared after. Attention is counted as its two matrix products: the fused CPU kernel is unknown to the
    counter, so the plain one runs here.
    """
    one = {key: value[:1].to(module.device) for key, value in batch.items()}
    shares = module.update_shares()
    counted = sum(update_flops(module, one, number) * times for number, times in shares.items())
    return round(counted / sum(shares.values()))


def update_flops(module: TrainedStage, one: dict[str, torch.Tensor], number: int) -> int:
    """FLOPs of loss and backward on one clip in update `number` of those that a stage alternates."""
    # On the CPU, so that a network that is but shapes (the meta device) still knows which update it is.
    first_clip = torch.full((1,), number * module.train_config.batch_clips)
    rng = SampleRNG.for_training(0, "flops", torch.zeros(1, dtype=torch.int64), module.device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, others_frozen(module):
        module.loss(one | {"clip_index": first_clip}, rng)["loss"].mean().backward()
    module.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@torch.no_grad()
def preparation_flops(module: TrainedStage, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs of one of the clips on which a stage, which lies on the meta device, measures before its first step."""
    if not module.prepared_clips:
        return 0
    one = {key: value[:1] if key == "clip_index" else value[:1].to(module.device) for key, value in batch.items()}
    return counted(lambda: module.prepare([(one, SampleRNG([0], module.device))]))


@torch.no_grad()
def encoding_flops_per_clip(codec: Codec, batch: dict[str, torch.Tensor]) -> int:
    """FLOPs of encoding one clip with the suite's autoencoder."""
    video = batch["video"][:1].to(next(codec.parameters(), batch["video"]).device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        codec.encode(video, SampleRNG([0], video.device))
    return counter.get_total_flops()


def counted(call: Callable[[], Any]) -> int:
    """FLOPs of a call, 2 per multiply-add, attention as its two products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def forward_flops(module: TrainedStage, batch: dict[str, Tensor]) -> int:
    """FLOPs of the loss's forward pass within `module.network`; of all of it where a stage has no part of that name."""
    rng = SampleRNG([0], META)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.loss(batch, rng)
    by_part = counter.get_flop_counts()
    # The counter names a module that is called from outside any other by its class.
    name = type(module.network).__name__ if hasattr(module, "network") else "Global"
    return sum(by_part[name].values())


@dataclass(frozen=True)
class StageCost:
    """params: trained by the stage. FLOPs a clip: forward of what is trained; forward and backward of the loss with
    encoding. passes: how a batch goes through a process; peak: of that, states included.
    """

    params: int
    flops_forward: int
    flops_train: int
    passes: Passes
    peak: Peak


def stage_cost(
    data: DataConfig, compute: ComputeConfig, module: TrainedStage, memory: Memory, stored: bool = False
) -> StageCost:
    """The cost of training a stage on a device with so much memory; the module lies on the meta device. stored: it
    reads stored latents.
    """
    one = shape_batch(data, module, 1, stored)
    with torch.no_grad():
        forward = forward_flops(module, one)
    passes, peak = choose_passes(
        compute, module, memory, lambda passes: training_peak(data, compute, module, passes, stored)
    )
    params = sum({id(p): p.numel() for p in module.trained_parameters()}.values())
    return StageCost(params, forward, training_flops_per_clip(module, one), passes, peak)


@dataclass(frozen=True)
class StageFacts:
    """What a run's process knows of a stage before it trains it: FLOPs of a clip, those of them that encode it (None
    where no frozen autoencoder does), its passes, and the FLOPs of a clip that it measures on before its first step.
    """

    flops_per_clip: int
    encoding_flops: int | None
    passes: Passes
    preparation_flops: int = 0


def stage_facts(
    data: DataConfig,
    compute: ComputeConfig,
    module: TrainedStage,
    memory: Memory,
    stored: bool = False,
    passes: Passes | None = None,
    advice: Callable[[], str] = lambda: "",
) -> StageFacts:
    """The facts of a stage, counted on a copy of its shapes. passes: as they were chosen before. Raises ValueError
    where the stage does not fit the memory; advice: what to do then.
    """
    shapes = meta_copy(module)
    stored = stored and module.reads_latents
    one = shape_batch(data, shapes, 1, stored)
    flops, encoding, before = training_flops_per_clip(shapes, one), None, preparation_flops(shapes, one)
    if isinstance(module, VideoMethod) and not module.owns_first_stage and not stored:
        video = torch.zeros(1, data.frames, 3, data.resolution, data.resolution, device=META)
        encoding = encoding_flops_per_clip(shapes.context.codec, {"video": video})
    if passes is None:
        passes, peak = choose_passes(
            compute, shapes, memory, lambda passes: training_peak(data, compute, shapes, passes, stored)
        )
        if not memory.fits(peak):
            memory.check(f"stage {module.stage_name}", peak, advice())
    return StageFacts(flops, encoding, passes, before)


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
