"""What each stage of a run costs, estimated on shapes before it starts and without data."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import torch

from lavita.codecs.base import Codec
from lavita.config.compose import Experiment, load_yaml
from lavita.config.protocol import Protocol
from lavita.config.schema import CodecConfig, ComputeConfig, DataConfig, TrainConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.budget import check_task, on_meta, planned_stages
from lavita.experiment.costs import StageCost, counted, stage_cost
from lavita.experiment.disk import (
    RUN_BYTES,
    checkpoint_bytes,
    codec_bytes,
    extractor_bytes,
    features_bytes,
    grid_bytes,
    log_bytes,
    samples_bytes,
    sets_of_clips,
)
from lavita.experiment.machine import device_memory
from lavita.experiment.memory import Peak
from lavita.experiment.peaks import (
    META,
    Memory,
    extractor_training_peak,
    features_peak,
    reconstruction_peak,
    sampling_peak,
)
from lavita.experiment.preflight import SMALLER_SAMPLING, advice, loader_bytes
from lavita.experiment.shared import fit_setting
from lavita.methods.base import VideoMethod
from lavita.methods.build import codec_training_config, empty_codec
from lavita.metrics.features.published import published
from lavita.results.records import Passes

GPU_FLOPS = 0.4 * 989.4e12


class Rate(typing.Protocol):
    """How long FLOPs take: of training, and of evaluation as in sampling and scoring."""

    def seconds(self, flops: float) -> float: ...

    def forward_seconds(self, flops: float) -> float: ...


class StatedRate:
    """GPU_FLOPS for everything."""

    def __str__(self) -> str:
        return "of one GPU, at 0.4 of the 989 TFLOP/s that an H100 gives in bfloat16"

    def seconds(self, flops: float) -> float:
        return flops / GPU_FLOPS

    def forward_seconds(self, flops: float) -> float:
        return flops / GPU_FLOPS


@dataclass(frozen=True)
class Line:
    """One stage of one run; None where a number is not known without data or weights.

    disk: bytes that the run keeps of it; shared_disk: those that all runs of its setting share. sampling_seconds: of
    the protocol's generated clips, once. shared_memory: bytes that its loaders share with it. said: what would make it
    fit the device, where it does not.
    """

    stage: str
    method: str
    params: int | None
    flops_forward: int | None
    flops_train: int | None
    clips: int | float | None
    steps: int | None
    batch: int
    peak_bytes: int | None
    seconds: float | None = None
    disk: int | None = 0
    shared_disk: int | None = 0
    sampling_seconds: float | None = None
    passes: Passes | None = None
    shared_memory: int = 0
    said: str = ""


def lines_of(experiment: Experiment, rate: Rate | None, memory: Memory | None = None) -> Iterator[Line]:
    """The stages of a run in the order in which they run; memory: of the device, None for this machine's."""
    e, protocol, memory = experiment, experiment.protocol, memory or device_memory()
    dataset_classes = load_yaml("datasets", e.data.dataset)["num_classes"]
    num_classes = dataset_classes if e.conditioning == "class" else None
    method, pretraining = on_meta(e, num_classes)
    check_task(e.label, method, e.sampling)
    if e.codec.kind != "pixels" and not method.owns_first_stage:
        line = codec_line(e, method.context.codec, rate, memory)
        yield replace(line, shared_disk=codec_bytes(e, method.context.codec, line.steps))
    steps = 0 if is_published(e) else e.extractor.steps
    line = extractor_line(e.method, protocol, steps, dataset_classes, rate)
    yield replace(line, shared_disk=extractor_bytes(protocol, dataset_classes))
    cost = None
    for stage, limit in planned_stages(e, method, pretraining):
        module, batch = stage.module, stage.module.train_config.batch_clips
        stored = e.data.latent_cache and module.reads_latents
        cost = stage_cost(e.data, e.compute, module, memory, stored)
        # A budget in seconds says how long a stage takes and not how many clips it sees.
        drawn = steps = None
        seconds = limit.seconds
        if limit.clips is not None:
            drawn = int(limit.clips / module.clip_cost)
            steps, seconds = drawn // batch, None if rate is None else rate.seconds(cost.flops_train * drawn)
        kept = log_bytes(steps)
        if module is method:
            kept += checkpoint_bytes(method, external_codec=e.codec.kind == "kl") + RUN_BYTES
        elif stage.name == "autoencoder":
            kept += grid_bytes(protocol)
        yield Line(
            "train" if module is pretraining else stage.name, e.pretraining.method if module is pretraining else
            e.method, cost.params, cost.flops_forward, cost.flops_train, number(limit.clips), steps, batch,
            cost.peak.bytes, seconds, kept, passes=cost.passes,
            shared_memory=loader_bytes(e.data, e.compute, module, cost.passes),
            said="" if memory.fits(cost.peak) else advice(e, stage.name, num_classes, memory),
        )  # fmt: skip
    line = sample_line(e, method, cost, rate, memory)  # the last stage is the network
    sets = sets_of_clips(e, method)
    yield replace(line, disk=samples_bytes(protocol, sets))
    own, shared = features_bytes(protocol, sets)
    yield replace(score_line(e.method, protocol, dataset_classes, rate, sets), disk=own, shared_disk=shared)


def number(clips: int | Fraction | None) -> int | float | None:
    """Clips as a plain number; None where the budget is in seconds."""
    if clips is None or clips == int(clips):
        return None if clips is None else int(clips)
    return float(clips)


@lru_cache
def codec_use(config: CodecConfig, data: DataConfig) -> tuple[int, Peak]:
    """FLOPs of encoding and decoding one clip; the peak of doing so with some clips."""
    with META:
        codec = empty_codec(config).to(META)
        video = torch.zeros(1, data.frames, 3, data.resolution, data.resolution)
    with torch.no_grad():
        flops = counted(lambda: codec.decode(codec.encode(video, SampleRNG([0], META))))
    return flops, reconstruction_peak(codec, data)


@lru_cache
def codec_training_cost(
    config: CodecConfig, train: TrainConfig, data: DataConfig, compute: ComputeConfig, memory: Memory
) -> StageCost:
    """What training the suite's autoencoder costs, which one device does."""
    from lavita.codecs.training import CodecTraining

    with META:
        module = CodecTraining(config, codec_training_config(config, train), seed=0).to(META)
    return stage_cost(data, replace(compute, devices=1, nodes=1, strategy="auto"), module, memory)


def codec_line(experiment: Experiment, codec: Codec, rate: Rate | None, memory: Memory) -> Line:
    """The autoencoder: trained here, or (clips 0) external and only used."""
    e, config = experiment, experiment.codec
    forward, used = codec_use(config, e.data)
    if config.kind == "kl":
        params = sum(p.numel() for p in codec.parameters())
        return Line("codec", e.method, params, forward, 0, 0, 0, 0, used.bytes, 0.0 if rate else None)
    cost = codec_training_cost(config, e.train, e.data, e.compute, memory)
    clips, batch = config.clips, config.batch_clips
    seconds = None if rate is None else rate.seconds(cost.flops_train * clips)
    return Line(
        "codec", e.method, cost.params, forward, cost.flops_train, clips, clips // batch, batch,
        (cost.peak | used).bytes, seconds, passes=cost.passes,
    )  # fmt: skip


@lru_cache
def extractor_cost(protocol: Protocol, num_classes: int | None) -> tuple[int, int] | None:
    """(parameters, forward FLOPs per clip) of the in-domain feature network; None for another one."""
    if protocol.extractor != "embedded":
        return None
    from lavita.metrics.features.in_domain import InDomainNet

    p = protocol
    with torch.device("meta"):
        net = InDomainNet(num_classes).eval()
        video = torch.zeros(1, p.frames, 3, p.resolution, p.resolution)
        with torch.no_grad():
            forward = counted(lambda: net(video))
    return sum(parameter.numel() for parameter in net.parameters()), forward


def is_published(experiment: Experiment) -> bool:
    """Whether an in-domain extractor is published for the synthetic videos in this setting. Of other videos only a run
    knows, which reads them.
    """
    if experiment.data.root is not None:
        return False
    name = f"synthetic-{experiment.data.dataset}"
    # How many classes the synthetic videos have is not the data set's number.
    return any(
        one.name == name and one.setting == fit_setting(experiment, one.setting.num_classes) for one in published()
    )


def extractor_line(method: str, protocol: Protocol, steps: int, num_classes: int | None, rate: Rate | None) -> Line:
    """Training of the in-domain feature network, charged to nobody; 0 clips where none is trained."""
    cost = extractor_cost(protocol, num_classes)
    if cost is None:
        return Line("extractor", method, None, None, None, 0, 0, 0, None, None)
    from lavita.metrics.features.in_domain_training import BATCH

    params, forward = cost
    clips = steps * BATCH
    # A backward pass costs twice a forward pass: the gradients of inputs and of weights.
    seconds = None if rate is None else rate.seconds(3 * forward * clips)
    peak = extractor_training_peak(protocol, num_classes).bytes
    return Line("extractor", method, params, forward, 3 * forward, clips, steps, BATCH, peak, seconds)


def sample_line(
    experiment: Experiment, method: VideoMethod, train: StageCost, rate: Rate | None, memory: Memory
) -> Line:
    """Sampling of the protocol's clips by the trained network, once for each set of them."""
    e, s, clips = experiment, experiment.sampling, experiment.protocol.n_generated
    evaluations = method.evaluations(s) * (1 if s.guidance == 1.0 else 2)
    forward = train.flops_forward // method.examples_per_clip * evaluations
    seconds = None if rate is None else rate.forward_seconds(forward) * clips * s.num_clips_chained
    peak = sampling_peak(method, e.data, s)
    return Line(
        "sample", e.method, train.params, forward, 0, clips, s.num_steps, s.batch_clips, peak and peak.bytes,
        None if seconds is None else sets_of_clips(e, method) * seconds, sampling_seconds=seconds,
        said="" if peak is None or memory.fits(peak) else SMALLER_SAMPLING,
    )  # fmt: skip


def score_line(method: str, protocol: Protocol, num_classes: int | None, rate: Rate | None, sets: int) -> Line:
    """Features of real clips and of so many sets of generated ones."""
    cost = extractor_cost(protocol, num_classes)
    clips = protocol.n_real + sets * protocol.n_generated
    peak = features_peak(protocol, num_classes).bytes
    if cost is None:
        return Line("score", method, None, None, None, clips, 0, 0, peak, None)
    seconds = None if rate is None else rate.forward_seconds(cost[1] * clips)
    return Line("score", method, cost[0], cost[1], 0, clips, 0, 0, peak, seconds)
