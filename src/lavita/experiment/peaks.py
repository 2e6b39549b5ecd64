"""Peak memory of each stage of a run, on shapes alone, and how many clips go through a pass so that it fits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lavita.codecs.base import Codec
from lavita.config.protocol import Protocol
from lavita.config.schema import AUTO, GENERATION, ComputeConfig, DataConfig, SamplingConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.memory import MOST_ELEMENTS, Peak, bytes_of, peak_of
from lavita.methods.base import VideoMethod
from lavita.nn.precision import mixed_precision
from lavita.results.records import Passes
from lavita.shapes import slices
from lavita.training.ahead import requests_of
from lavita.training.distributed import blocks_of, recomputed_blocks
from lavita.training.stage import DRAWN, HELDOUT_PIXELS, TrainedStage, others_frozen

META = torch.device("meta")
HELDOUT_CLIPS = 32  # of a held-out loss
FEW_STEPS = 2  # of a sampler: all of them need the same memory
RECONSTRUCTED_CLIPS = 8  # of the clips that an autoencoder is scored on, at a time
C3D_BYTES = 4 * 78_409_573  # weights of the published network, whose activations are below I3D's


def meta_copy(module: nn.Module) -> nn.Module:
    """The same module as shapes on the meta device; nothing of it is allocated."""
    context = getattr(module, "context", None)
    modules = [module] if context is None else [module, context.codec]
    tensors = (one for module in modules for one in (*module.parameters(), *module.buffers()))
    return copy.deepcopy(module, {id(one): of_its_shape(one) for one in tensors}).to(META)


def of_its_shape(value: Tensor) -> Tensor:
    """A tensor or parameter as its shape."""
    empty = torch.empty_like(value, device=META)
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty


def shape_batch(
    data: DataConfig,
    module: TrainedStage,
    clips: int,
    stored: bool = False,
    first: int = 0,
    pixels: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """A batch as a stage's loss reads it, as shapes on the meta device; clip indices, from `first` on, are numbers.

    stored: of posterior moments in place of pixels, where the stage reads latents. pixels: their type.
    """

    def frames(count: int) -> Tensor:
        if not (stored and module.reads_latents):
            return torch.zeros(clips, count, 3, data.resolution, data.resolution, dtype=pixels, device=META)
        side = module.codec.latent_side(data.resolution)
        return torch.zeros(clips, count, 2 * module.codec.latent_channels, side, side, device=META)

    video, images = ("moments", "image_moments") if stored and module.reads_latents else ("video", "images")
    batch = {video: frames(data.frames), "label": torch.zeros(clips, dtype=torch.int64, device=META)}
    batch["clip_index"] = first + torch.arange(clips)
    if module.context_frames:
        batch["context_frames"] = frames(module.context_frames)
    if module.joint_images:
        batch[images] = frames(module.joint_images)
        batch["image_labels"] = torch.zeros(clips, module.joint_images, dtype=torch.int64, device=META)
    return batch


def loaded_batch(
    data: DataConfig, module: TrainedStage, clips: int, stored: bool = False, first: int = 0
) -> dict[str, Any]:
    """A batch as the loader gives it, as shapes: pixels as bytes, and where processes load also the random numbers of
    the step, as many as the stage's `draw_requests` are.
    """
    batch = shape_batch(data, module, clips, stored, first, torch.uint8)
    if not module.draw_requests:
        return batch
    drawn = [request.draw(torch.Generator()) for request in module.draw_requests]  # of one clip
    return batch | {DRAWN: [torch.empty(clips, *one.shape, dtype=one.dtype, device=META) for one in drawn]}


COPIES = 4  # of what is trained: weights, gradients, AdamW's two moments


def states_bytes(compute: ComputeConfig, module: TrainedStage) -> int:
    """Bytes that lie on the device all through a stage: weights, gradients, optimiser, average; DDP's buckets, or with
    FSDP this process's shards and the two blocks that are whole at a time.
    """
    trained = bytes_of(module.trained_parameters())
    others = bytes_of([*module.parameters(), *module.buffers()]) - trained
    copies = COPIES + (1 if module.uses_ema else 0)
    if compute.processes == 1:
        return copies * trained + others
    if compute.strategy != "fsdp":
        return (copies + 1) * trained + others
    largest = max((bytes_of(block.parameters()) for block in blocks_of(module)), default=0)
    return copies * trained // compute.processes + 2 * largest + others


def training_peak(
    data: DataConfig, compute: ComputeConfig, module: TrainedStage, passes: Passes, stored: bool = False
) -> Peak:
    """The peak of training a stage that lies on the meta device, states and held-out losses included. stored: it reads
    stored latents.
    """
    trained, batch_clips = module.trained_parameters(), module.train_config.batch_clips
    # A process that takes a batch at once has no gradients but in the backward pass; else they count among the states.
    once = compute.processes == 1 and passes.clips >= batch_clips
    for parameter in () if once else trained:
        parameter.grad = torch.empty_like(parameter)
    blocks = module.recomputed() if passes.recomputed else []
    ask_ahead(data, module)

    def step(update: int) -> None:
        batch = loaded_batch(data, module, passes.clips, stored, update * batch_clips)
        with (
            others_frozen(module),
            recomputed_blocks(module.recomputed(), passes.recomputed),
            mixed_precision(module.networks(), compute.precision),
        ):
            module.training_step(batch, 0)["loss"].backward()

    heldout_clips = heldout_pass(data, module)

    @torch.no_grad()
    def heldout() -> None:
        with mixed_precision(module.networks(), compute.precision):
            module.loss(shape_batch(data, module, heldout_clips), SampleRNG(range(heldout_clips), META))

    try:
        peak = Peak()
        for update in module.update_shares():
            peak |= peak_of(lambda update=update: step(update), blocks)
            if once:
                module.zero_grad(set_to_none=True)
        if passes.clips < heldout_clips or stored:
            peak |= peak_of(heldout)
    finally:
        for parameter in module.parameters():
            parameter.grad = None
    # AdamW, fused, and the average change what there is, and need nothing beside it.
    return peak.beside(states_bytes(compute, module) - (bytes_of(trained) if once else 0))


def ask_ahead(data: DataConfig, module: TrainedStage) -> None:
    """Tell a stage on the meta device, once, what its loader's processes draw for it, as `with_draws` does."""
    if data.num_workers != 0 and not module.draw_requests:
        module.draw_requests = requests_of(module, shape_batch(data, module, 1))


def heldout_pass(data: DataConfig, module: TrainedStage) -> int:
    """Clips of a held-out loss that go through a stage at a time."""
    pixels = (data.frames + module.context_frames + module.joint_images) * data.resolution**2
    return max(part.stop - part.start for part in slices(HELDOUT_CLIPS, pixels, HELDOUT_PIXELS))


@torch.no_grad()
def sampling_peak(method: VideoMethod, data: DataConfig, sampling: SamplingConfig) -> Peak | None:
    """The peak of sampling a batch of clips with a method on the meta device. None for a method that looks at values,
    of which there are none.
    """
    steps = f"ddim{FEW_STEPS}" if sampling.steps.startswith("ddim") else str(FEW_STEPS)
    few, clips = replace(sampling, steps=steps), sampling.batch_clips
    shape = (clips, data.frames, 3, data.resolution, data.resolution)

    def sample() -> None:
        classes = torch.zeros(clips, dtype=torch.int64) if method.context.num_classes is not None else None
        condition = None if sampling.task == GENERATION else torch.zeros(shape, device=META)
        with mixed_precision(method.networks(), sampling.precision):
            method.sample(range(clips), classes, few, condition)

    there = [*method.parameters(), *method.buffers()]
    try:
        peak = peak_of(lambda: with_bound(method, sample))
    except (NotImplementedError, RuntimeError):
        return None
    return peak.beside(bytes_of(there))


def with_bound(method: VideoMethod, call: Callable[[], None]) -> None:
    """A call in which the range of latents, a number that samplers read, is one."""
    codec = getattr(method, "codec", None)
    bound = getattr(codec, "bound", None)
    if bound is not None:
        codec.bound = torch.ones((), device="cpu")
    try:
        call()
    finally:
        if bound is not None:
            codec.bound = bound


@torch.no_grad()
def reconstruction_peak(codec: Codec, data: DataConfig) -> Peak:
    """The peak of encoding and decoding some clips with an autoencoder on the meta device."""
    shape = (RECONSTRUCTED_CLIPS, data.frames, 3, data.resolution, data.resolution)

    def call() -> None:
        codec.decode(codec.encode(torch.zeros(shape, device=META), SampleRNG(range(RECONSTRUCTED_CLIPS), META)))

    return peak_of(call).beside(bytes_of([*codec.parameters(), *codec.buffers()]))


@lru_cache
def features_peak(protocol: Protocol, num_classes: int | None) -> Peak:
    """The peak of the protocol's feature networks, which describe one clip at a time."""
    from lavita.metrics.features.i3d import I3D, SIZE
    from lavita.metrics.features.in_domain import InDomainNet

    p, peak, weights = protocol, Peak(), 0
    for name in {protocol.extractor, protocol.is_extractor}:
        if name == "c3d":
            weights += C3D_BYTES
            continue
        own = name == "embedded"
        side = p.resolution if own else SIZE
        with META, torch.no_grad():
            network = (InDomainNet(num_classes) if own else I3D()).eval()
            shape = (1, p.frames, 3, side, side) if own else (1, 3, p.frames, side, side)
            peak |= peak_of(lambda: network(torch.zeros(shape)))  # noqa: B023
        weights += bytes_of([*network.parameters(), *network.buffers()])
    return peak.beside(weights)


@lru_cache
def extractor_training_peak(protocol: Protocol, num_classes: int | None) -> Peak:
    """The peak of training the in-domain feature network."""
    from lavita.metrics.features.in_domain import InDomainNet
    from lavita.metrics.features.in_domain_training import BATCH

    p = protocol
    with META:
        network = InDomainNet(num_classes)

        def step() -> None:
            kinds, classes = network.heads(network(torch.zeros(BATCH, p.frames, 3, p.resolution, p.resolution)))
            (kinds.mean() + (0.0 if classes is None else classes.mean())).backward()

        peak = peak_of(step)  # its gradients are among what it makes
    return peak.beside((COPIES - 1) * bytes_of(network.parameters()))


def gib(amount: float) -> str:
    """Bytes as GiB, three digits."""
    return f"{amount / 2**30:.3g}"


RESERVE = 0.85  # of a device's memory that may be planned with: kernels and allocator take some of their own


@dataclass(frozen=True)
class Memory:
    """bytes: of the device; taken: of them by libraries, before anything is computed."""

    bytes: int
    taken: int = 0

    @property
    def usable(self) -> int:
        """Bytes that a stage may plan with."""
        return int(RESERVE * self.bytes) - self.taken

    def check(self, what: str, peak: Peak, advice: str = "") -> None:
        """Raise ValueError where a peak does not fit."""
        if peak.elements > MOST_ELEMENTS:
            raise ValueError(
                f"{what}: its largest tensor has {peak.elements} elements, allowed are {MOST_ELEMENTS}"
                + (advice or "; use fewer data.frames or a smaller data.resolution")
            )
        if not self.fits(peak):
            raise ValueError(
                f"{what}: needs {gib(peak.bytes + self.taken)} GiB of memory, allowed are {RESERVE} of "
                f"{gib(self.bytes)} GiB{advice}"
            )

    def fits(self, peak: Peak) -> bool:
        """Whether a peak may be planned."""
        return peak.bytes <= self.usable and peak.elements <= MOST_ELEMENTS


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [one for one in range(1, number + 1) if number % one == 0]


def choose_passes(
    compute: ComputeConfig, module: TrainedStage, memory: Memory, peak: Callable[[Passes], Peak]
) -> tuple[Passes, Peak]:
    """How a stage's batch goes through a process, and the peak of that; where nothing fits, the least there is.

    The largest number of clips that fits, or what compute.pass_clips says. A stage that takes statistics over a pass
    rather computes its blocks again than have its batch cut.
    """
    part, again = max(1, module.train_config.batch_clips // compute.processes), compute.checkpoint_activations
    if compute.pass_clips != AUTO:
        given = Passes(min(int(compute.pass_clips), part), again)
        return given, peak(given)
    found = Passes(part, again), peak(Passes(part, again))
    if memory.fits(found[1]):
        return found
    if module.batch_statistics and not again and module.recomputed():
        again = True
        found = Passes(part, again), peak(Passes(part, again))
        if memory.fits(found[1]):
            return found
    asked, candidates = [found], divisors(part)[:-1]
    while candidates:
        clips = likely(candidates, asked, memory)
        found = Passes(clips, again), peak(Passes(clips, again))
        if memory.fits(found[1]):
            return found
        asked.append(found)
        candidates = [one for one in candidates if one < clips]
    return found


def likely(candidates: Sequence[int], asked: Sequence[tuple[Passes, Peak]], memory: Memory) -> int:
    """The largest of some numbers of clips that fits where a peak lies on a line through the last two that were asked,
    or through nothing for no clips; the smallest where none does.
    """
    (more, high), (less, low) = [(Passes(0, False), Peak()), *asked][-2:]
    more, less = more.clips, less.clips
    fitting = [candidates[0]]
    for clips in candidates:
        share = (clips - less) / (more - less)
        size, elements = low.bytes + share * (high.bytes - low.bytes), low.elements * clips / less
        if memory.fits(Peak(round(size), round(elements))):
            fitting.append(clips)
    return fitting[-1]
