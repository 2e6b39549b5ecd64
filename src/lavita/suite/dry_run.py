"""What a suite would do and cost, before it starts and without data: one line per run and stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lavita.codecs.base import Codec
from lavita.config.compose import Experiment, load_yaml
from lavita.config.protocol import Protocol
from lavita.config.schema import CodecConfig, SamplingConfig
from lavita.console import invocation
from lavita.data.find import SYNTHETIC
from lavita.diffusion.rng import SampleRNG
from lavita.executors.base import accelerators
from lavita.experiment.budget import check_task, on_meta, planned_stages
from lavita.experiment.costs import Probe, StageCost, counted, stage_cost
from lavita.files import atomic_write_text
from lavita.methods.base import VideoMethod
from lavita.methods.build import codec_training_config, empty_codec
from lavita.results.attempts import attempts
from lavita.results.identity import config_hash
from lavita.results.provenance import peak_bytes
from lavita.results.records import read_record
from lavita.results.rows import csv_text, text_of
from lavita.suite.artifacts import group_key
from lavita.suite.estimate import (
    RUN_BYTES,
    checkpoint_bytes,
    codec_bytes,
    extractor_bytes,
    features_bytes,
    grid_bytes,
    log_bytes,
    samples_bytes,
)
from lavita.training.stage import TrainedStage


def results_folder(experiment: Experiment, out: Path | None) -> Path | None:
    """Where a suite puts its results: out, or <suite>-<tier>-<data name>; None where data has no name yet."""
    if out is not None:
        return out
    e, root = experiment, experiment.data.root
    if root is None and e.tier != "demo":
        return None
    name = SYNTHETIC if root is None else Path(root).expanduser().resolve().name
    return Path("results") / f"{e.suite}-{e.tier}-{name}"


def is_done(experiment: Experiment, folder: Path | None) -> bool:
    """Whether some attempt at a run was completed with the same configuration hash.

    A run also compares code, data and weights, which a dry run does not read. Raises ValueError for a broken record.
    """
    if folder is None:
        return False
    records = [read_record(path) for path in attempts(folder / "cells", experiment.cell)]
    mark = config_hash(experiment)
    return any(one and one.status == "ok" and one.row.config_hash == mark for one in records)


LARGEST = 3  # runs that the summary names
HOUR = 3600
SHARED = ("codec", "extractor")  # stages that happen once for all runs of a setting


def table(rows: Sequence[Mapping[str, Any]], probed: bool) -> str:
    """The plan: one line per run and stage; "?" for what is not known beforehand."""
    head = ["cell", "stage", "params (M)", "forward GFLOPs/clip", "train GFLOPs/clip", "clips", "steps", "batch"]
    head += ["peak GiB", "disk GiB", "done"] + (["est. hours"] if probed else [])
    lines = [head]
    for row in rows:
        name = row["stage"] if row["cell"].startswith(row["method"]) else f"{row['stage']} ({row['method']})"
        line = [row["cell"], name, scaled(row["params"], 1e-6), scaled(row["flops_forward_per_clip"], 1e-9)]
        line += [scaled(row["flops_train_per_clip"], 1e-9), *(plain(row[key]) for key in ("clips", "steps", "batch"))]
        line += [scaled(row["est_peak_bytes"], 2**-30), scaled(row["est_disk_bytes"], 2**-30)]
        line += ["yes" if row["done"] else "no"] + ([scaled(row["est_seconds"], 1 / HOUR)] if probed else [])
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def scaled(value: float | None, factor: float) -> str:
    return "?" if value is None else f"{value * factor:.4g}"


def plain(value: object) -> str:
    return "?" if value is None else str(value)


def once(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with each shared stage of a setting once; a row's "setting" says which it is of."""
    kept: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["setting"], row["stage"]) if row["stage"] in SHARED else (row["cell"], row["stage"], row["method"])
        kept.setdefault(key, row)
    return list(kept.values())


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """TFLOPs of training, disk in bytes, seconds and, of these, of sampling; what is not known counts 0.

    Shared parts count once for a setting.
    """
    one = once(rows)
    settings = {row["setting"]: row["shared_disk_bytes"] or 0 for row in one if row["stage"] == "score"}
    return {
        "tflops": 1e-12 * sum(training_flops(row) for row in one),
        "disk": sum(row["own_disk_bytes"] or 0 for row in one) + sum(settings.values())
        + sum(row["shared_disk_bytes"] or 0 for row in one if row["stage"] in SHARED),
        "seconds": sum(row["est_seconds"] or 0 for row in one),
        "sampling": sum(row["est_seconds"] or 0 for row in one if row["stage"] == "sample"),
    }  # fmt: skip


def training_flops(row: Mapping[str, Any]) -> float:
    """FLOPs of a row's training; the feature network's belong to the protocol."""
    if row["stage"] == "extractor":
        return 0
    return (row["flops_train_per_clip"] or 0) * (row["steps"] or 0) * (row["batch"] or 0)


def last_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Number of runs and FLOPs, for what is not read on a terminal."""
    count = len({row["cell"] for row in rows})
    return f"{count} runs, about {totals(rows)['tflops']:.4g} TFLOPs of training in all{without(rows)}"


def without(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the FLOPs leave out."""
    return ", without stages that end after so many seconds" if any(row["clips"] is None for row in rows) else ""


def summary(rows: Sequence[Mapping[str, Any]], probed: bool) -> str:
    """Some lines: the total of all runs, what is left of it, the largest runs, what is not counted."""
    names = list(dict.fromkeys(row["cell"] for row in rows))
    left = [row for row in rows if not row["done"]]
    lines = [f"{len(names)} runs: {amounts(rows, probed)}{without(rows)}"]
    finished = len(names) - len({row["cell"] for row in left})
    if finished:
        lines.append(f"{finished} finished already; left: {amounts(left, probed)}")
    sizes = {name: totals([row for row in rows if row["cell"] == name]) for name in names}
    measure = "seconds" if probed else "tflops"
    largest = sorted(names, key=lambda name: -sizes[name][measure])[:LARGEST]
    parts = [f"{name} ({amounts([row for row in rows if row['cell'] == name], probed)})" for name in largest]
    lines.append(f"largest: {'; '.join(parts)}")
    unknown = dict.fromkeys(row["stage"] for row in rows if row["est_disk_bytes"] is None)
    if unknown:
        lines.append(
            f"not counted on disk: {', '.join(unknown)} (latent cache: nobody has counted the frames; "
            f"{invocation('prepare')} writes how many there are)"
        )
    if probed:
        lines.append("hours: one run at a time, at this machine's rate on a transformer block: a lower bound")
    else:
        lines.append("--probe measures this machine's rate and says hours")
    return "\n".join(lines)


def amounts(rows: Sequence[Mapping[str, Any]], probed: bool) -> str:
    """FLOPs, disk and, where they were measured, hours."""
    found = totals(rows)
    said = f"{round_number(found['tflops'])} TFLOPs of training, {round_number(found['disk'] / 2**30)} GiB on disk"
    if not probed:
        return said
    hours, sampling = (round_number(found[key] / HOUR) for key in ("seconds", "sampling"))
    return f"{said}, {hours} hours, {sampling} of them sampling"


def round_number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


COLUMNS = (
    "suite,tier,cell,method,dataset,seed,stage,params,flops_forward_per_clip,flops_train_per_clip,clips,steps,batch,"
    "est_seconds,est_peak_bytes,est_disk_bytes,est_sampling_seconds,done"
).split(",")
STAGES = ("codec", "extractor", "autoencoder", "autoencoder-gan", "train", "sample", "score")


@dataclass(frozen=True)
class Line:
    """One stage of one run; None where a number is not known without data or weights.

    disk: bytes that the run keeps of it; shared_disk: those that all runs of its setting share. sampling_seconds: of
    the protocol's generated clips, once.
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


def dry_run(experiments: Sequence[Experiment], csv: str | None, probe: bool, out: Path | None = None) -> None:
    """Print the plan as a table, or as CSV where csv is "-"; any other csv is a file to write besides the table.

    On a terminal a summary follows the table. out: the results folder that may hold finished runs, None for the usual
    one. Raises ValueError where a budget does not go into whole batches.
    """
    rate = Probe() if probe else None
    known: dict[str, list[Line]] = {}
    # On a CPU the libraries themselves lie in the same memory as a run's tensors.
    base = 0 if accelerators() else peak_bytes()
    rows = []
    for experiment in experiments:
        if experiment.label not in known:
            known[experiment.label] = list(lines_of(experiment, rate))
        done = is_done(experiment, results_folder(experiment, out))
        rows += [row_of(experiment, line, base, done) for line in known[experiment.label]]
    text = csv_text([COLUMNS, *([text_of(row[name]) for name in COLUMNS] for row in rows)])
    if csv == "-":
        sys.stdout.write(text)
        return
    if csv:
        atomic_write_text(Path(csv), text)
    print(table(rows, probe))
    print(summary(rows, probe) if sys.stdout.isatty() else last_line(rows))


def row_of(experiment: Experiment, line: Line, base: int, done: bool) -> dict[str, Any]:
    """A line under the names of the columns, and what the totals are made from: setting, own and shared bytes."""
    e = experiment
    facts = {"suite": e.suite, "tier": e.tier, "cell": e.cell, "method": line.method}
    facts |= {"dataset": e.data.dataset, "seed": e.seed, "stage": line.stage, "params": line.params}
    facts |= {"flops_forward_per_clip": line.flops_forward, "flops_train_per_clip": line.flops_train}
    facts |= {"clips": line.clips, "steps": line.steps, "batch": line.batch, "est_seconds": line.seconds}
    facts |= {"setting": group_key(e), "own_disk_bytes": line.disk, "shared_disk_bytes": line.shared_disk}
    parts = (line.disk, line.shared_disk)
    facts |= {"est_disk_bytes": None if None in parts else sum(parts), "done": done}
    facts |= {"est_sampling_seconds": line.sampling_seconds}
    return facts | {"est_peak_bytes": None if line.peak_bytes is None else line.peak_bytes + base}


def lines_of(experiment: Experiment, rate: Probe | None) -> Iterator[Line]:
    """The stages of a run in the order in which they run."""
    e, protocol = experiment, experiment.protocol
    dataset_classes = load_yaml("datasets", e.data.dataset)["num_classes"]
    method, pretraining = on_meta(e, dataset_classes if e.conditioning == "class" else None)
    check_task(e.label, method, e.sampling)
    if e.codec.kind != "pixels" and not method.owns_first_stage:
        line = codec_line(e, method.context.codec, rate)
        yield replace(line, shared_disk=codec_bytes(e, method.context.codec, line.steps))
    line = extractor_line(e.method, protocol, e.extractor.steps, dataset_classes, rate)
    yield replace(line, shared_disk=extractor_bytes(protocol, dataset_classes))
    cost = None
    for stage, limit in planned_stages(e, method, pretraining):
        module, batch = stage.module, stage.module.train_config.batch_clips
        cost = stage_cost(e.data, e.compute, module)
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
            stage.name if stage.name in STAGES else "train", e.pretraining.method if module is pretraining else
            e.method, cost.params, cost.flops_forward, cost.flops_train, number(limit.clips), steps, batch,
            cost.peak_bytes, seconds, kept,
        )  # fmt: skip
    line = sample_line(e.method, method, e.sampling, protocol.n_generated, cost, rate)  # the last stage is the network
    yield replace(line, disk=samples_bytes(protocol))
    own, shared = features_bytes(protocol)
    yield replace(score_line(e.method, protocol, dataset_classes, rate), disk=own, shared_disk=shared)


def number(clips: int | Fraction | None) -> int | float | None:
    """Clips as a plain number; None where the budget is in seconds."""
    if clips is None or clips == int(clips):
        return None if clips is None else int(clips)
    return float(clips)


@lru_cache
def codec_flops(config: CodecConfig, frames: int, resolution: int) -> int:
    """FLOPs of encoding and decoding one clip."""
    with torch.device("meta"):
        codec = empty_codec(config).to("meta")
        video = torch.zeros(1, frames, 3, resolution, resolution)
    with torch.no_grad():
        return counted(lambda: codec.decode(codec.encode(video, SampleRNG([0], torch.device("meta")))))


def codec_line(experiment: Experiment, codec: Codec, rate: Probe | None) -> Line:
    """The autoencoder: trained here, or (clips 0) external and only used."""
    e, config = experiment, experiment.codec
    forward = codec_flops(config, e.data.frames, e.data.resolution)
    params = sum(p.numel() for p in codec.parameters())
    if config.kind == "kl":
        return Line("codec", e.method, params, forward, 0, 0, 0, 0, 4 * params, 0.0 if rate else None)
    from lavita.codecs.training import CodecTraining

    with torch.device("meta"):
        module: TrainedStage = CodecTraining(config, codec_training_config(config, e.train), seed=0)
    cost = stage_cost(e.data, e.compute, module.to("meta"))
    clips, batch = config.clips, config.batch_clips
    seconds = None if rate is None else rate.seconds(cost.flops_train * clips)
    return Line(
        "codec", e.method, cost.params, forward, cost.flops_train, clips, clips // batch, batch, cost.peak_bytes,
        seconds,
    )  # fmt: skip


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


def extractor_line(method: str, protocol: Protocol, steps: int, num_classes: int | None, rate: Probe | None) -> Line:
    """Training of the in-domain feature network, charged to nobody; 0 clips where another one is used."""
    cost = extractor_cost(protocol, num_classes)
    if cost is None:
        return Line("extractor", method, None, None, None, 0, 0, 0, None, None)
    from lavita.metrics.features.in_domain_training import BATCH

    params, forward = cost
    clips = steps * BATCH
    # A backward pass costs twice a forward pass: the gradients of inputs and of weights.
    seconds = None if rate is None else rate.seconds(3 * forward * clips)
    return Line("extractor", method, params, forward, 3 * forward, clips, steps, BATCH, None, seconds)


def sample_line(
    name: str, method: VideoMethod, sampling: SamplingConfig, clips: int, train: StageCost, rate: Probe | None
) -> Line:
    """Sampling of the protocol's clips by the trained network, twice (untrained and trained)."""
    s = sampling
    evaluations = s.num_steps * (1 if s.guidance == 1.0 else 2)
    forward = train.flops_forward * evaluations
    seconds = None if rate is None else rate.forward_seconds(forward) * clips * s.num_clips_chained
    weights = 4 * sum(p.numel() for p in method.parameters())
    return Line(
        "sample", name, train.params, forward, 0, clips, s.num_steps, s.batch_clips, weights,
        None if seconds is None else 2 * seconds, sampling_seconds=seconds,
    )  # fmt: skip


def score_line(method: str, protocol: Protocol, num_classes: int | None, rate: Probe | None) -> Line:
    """Features of real and generated clips, the latter twice (untrained and trained)."""
    cost = extractor_cost(protocol, num_classes)
    clips = protocol.n_real + 2 * protocol.n_generated
    if cost is None:
        return Line("score", method, None, None, None, clips, 0, 0, None, None)
    seconds = None if rate is None else rate.forward_seconds(cost[1] * clips)
    return Line("score", method, cost[0], cost[1], 0, clips, 0, 0, None, seconds)
