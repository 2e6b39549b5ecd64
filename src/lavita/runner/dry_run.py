"""What a run would do and cost, before it starts and without data: one line a cell and stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lavita.bench.ledger import csv_text, text_of
from lavita.bench.suite import CellConfig, load_yaml
from lavita.codec.base import Codec
from lavita.config import CodecConfig
from lavita.diffusion.draws import ClipDraws
from lavita.runner.build import build_method, build_pretraining, codec_training_config, empty_codec
from lavita.runner.costs import StageCost, counted, stage_cost
from lavita.runner.devices import accelerators
from lavita.runner.disk import (
    CELL_BYTES,
    checkpoint_bytes,
    codec_bytes,
    extractor_bytes,
    features_bytes,
    grid_bytes,
    log_bytes,
    samples_bytes,
)
from lavita.runner.done import is_done, results_folder
from lavita.runner.dry_run_text import last_line, summary, table
from lavita.runner.groups import group_key
from lavita.runner.probe import Probe
from lavita.runner.provenance import peak_bytes
from lavita.runner.purse import check_task, cut_purse, meta_flops, planned_charge
from lavita.train.module import TrainedStage, VideoMethod
from lavita.whole import write_whole

COLUMNS = (
    "suite,tier,cell,method,dataset,seed,stage,params,flops_forward_per_clip,flops_train_per_clip,clips,steps,batch,"
    "est_seconds,est_peak_bytes,est_disk_bytes,est_sampling_seconds,done"
).split(",")
STAGES = ("codec", "extractor", "autoencoder", "autoencoder-gan", "train", "sample", "score")


@dataclass(frozen=True)
class Line:
    """One stage of one cell; None where a number is not known without data or weights.

    disk: bytes that the cell keeps of it; shared_disk: those that all cells of its setting share. sampling_seconds: of
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


def dry_run(cells: Sequence[CellConfig], csv: str | None, probe: bool, out: Path | None = None) -> None:
    """Print the plan as a table, or as CSV where csv is "-"; any other csv is a file to write besides the table.

    On a terminal a summary follows the table. out: the results folder that may hold finished cells, None for the usual
    one. Raises ValueError where a budget does not go into whole batches.
    """
    rate = Probe() if probe else None
    known: dict[str, list[Line]] = {}
    # On a CPU the libraries themselves lie in the same memory as a cell's tensors.
    base = 0 if accelerators() else peak_bytes()
    rows = []
    for cell in cells:
        if cell.label not in known:
            known[cell.label] = list(lines_of(cell, rate))
        done = is_done(cell, results_folder(cell, out))
        rows += [row_of(cell, line, base, done) for line in known[cell.label]]
    text = csv_text([COLUMNS, *([text_of(row[name]) for name in COLUMNS] for row in rows)])
    if csv == "-":
        sys.stdout.write(text)
        return
    if csv:
        write_whole(Path(csv), text)
    print(table(rows, probe))
    print(summary(rows, probe) if sys.stdout.isatty() else last_line(rows))


def row_of(cell: CellConfig, line: Line, base: int, done: bool) -> dict[str, Any]:
    """A line under the names of the columns, and what the totals are made from: setting, own and shared bytes."""
    facts = {"suite": cell.suite, "tier": cell.tier, "cell": cell.cell, "method": line.method}
    facts |= {"dataset": cell.data.dataset, "seed": cell.seed, "stage": line.stage, "params": line.params}
    facts |= {"flops_forward_per_clip": line.flops_forward, "flops_train_per_clip": line.flops_train}
    facts |= {"clips": line.clips, "steps": line.steps, "batch": line.batch, "est_seconds": line.seconds}
    facts |= {"setting": group_key(cell), "own_disk_bytes": line.disk, "shared_disk_bytes": line.shared_disk}
    parts = (line.disk, line.shared_disk)
    facts |= {"est_disk_bytes": None if None in parts else sum(parts), "done": done}
    facts |= {"est_sampling_seconds": line.sampling_seconds}
    return facts | {"est_peak_bytes": None if line.peak_bytes is None else line.peak_bytes + base}


def lines_of(cell: CellConfig, rate: Probe | None) -> Iterator[Line]:
    """The stages of a cell in the order in which they run."""
    facts = load_yaml("datasets", cell.data.dataset)
    num_classes = facts["num_classes"] if cell.conditioning == "class" else None
    with torch.device("meta"):
        codec = empty_codec(cell.codec)
        method = build_method(cell, num_classes, codec)
        pretraining = build_pretraining(cell, num_classes, codec) if cell.pretraining.method else None
    check_task(cell, method)
    modules = [codec, method] + ([pretraining] if pretraining else [])
    for module in modules:
        module.to("meta")
    if cell.codec.kind != "pixels" and not method.owns_first_stage:
        line = codec_line(cell, codec, rate)
        yield replace(line, shared_disk=codec_bytes(cell, codec, line.steps))
    line = extractor_line(cell, facts["num_classes"], rate)
    yield replace(line, shared_disk=extractor_bytes(cell, facts["num_classes"]))
    cost = None
    for stage, limit in cut_purse(cell, method, pretraining, planned_charge(cell, method), meta_flops(cell)):
        module, batch = stage.module, stage.module.train_config.batch_clips
        cost = stage_cost(cell, module)
        # A budget in seconds says how long a stage takes and not how many clips it sees.
        drawn = steps = None
        seconds = limit.seconds
        if limit.clips is not None:
            drawn = int(limit.clips / module.clip_cost)
            steps, seconds = drawn // batch, None if rate is None else rate.seconds(cost.flops_train * drawn)
        kept = log_bytes(steps)
        if module is method:
            kept += checkpoint_bytes(cell, method) + CELL_BYTES
        elif stage.name == "autoencoder":
            kept += grid_bytes(cell)
        yield Line(
            stage.name if stage.name in STAGES else "train", cell.pretraining.method if module is pretraining else
            cell.method, cost.params, cost.flops_forward, cost.flops_train, number(limit.clips), steps, batch,
            cost.peak_bytes, seconds, kept,
        )  # fmt: skip
    yield replace(sample_line(cell, method, cost, rate), disk=samples_bytes(cell))  # the last stage is the own network
    own, shared = features_bytes(cell)
    yield replace(score_line(cell, facts["num_classes"], rate), disk=own, shared_disk=shared)


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
        return counted(lambda: codec.decode(codec.encode(video, ClipDraws([0], torch.device("meta")))))


def codec_line(cell: CellConfig, codec: Codec, rate: Probe | None) -> Line:
    """The codec: trained here, or (clips 0) given from outside and only used."""
    forward = codec_flops(cell.codec, cell.data.frames, cell.data.resolution)
    params = sum(p.numel() for p in codec.parameters())
    if cell.codec.kind == "kl":
        return Line("codec", cell.method, params, forward, 0, 0, 0, 0, 4 * params, 0.0 if rate else None)
    from lavita.codec.training import CodecTraining

    with torch.device("meta"):
        module: TrainedStage = CodecTraining(cell.codec, codec_training_config(cell), seed=0)
    cost = stage_cost(cell, module.to("meta"))
    clips, batch = cell.codec.clips, cell.codec.batch_clips
    seconds = None if rate is None else rate.seconds(cost.flops_train * clips)
    return Line(
        "codec", cell.method, cost.params, forward, cost.flops_train, clips, clips // batch, batch, cost.peak_bytes,
        seconds,
    )  # fmt: skip


def extractor_cost(cell: CellConfig, num_classes: int | None) -> tuple[int, int] | None:
    """(parameters, forward FLOPs a clip) of the embedded feature network; None for one given as a file."""
    if cell.protocol.extractor != "embedded":
        return None
    from lavita.score.embedded import EmbeddedNet

    p = cell.protocol
    with torch.device("meta"):
        net = EmbeddedNet(num_classes).eval()
        video = torch.zeros(1, p.frames, 3, p.resolution, p.resolution)
        with torch.no_grad():
            forward = counted(lambda: net(video))
    return sum(parameter.numel() for parameter in net.parameters()), forward


def extractor_line(cell: CellConfig, num_classes: int | None, rate: Probe | None) -> Line:
    """Training of the embedded feature network, charged to nobody; 0 clips where a file is given."""
    cost = extractor_cost(cell, num_classes)
    if cost is None:
        return Line("extractor", cell.method, None, None, None, 0, 0, 0, None, None)
    from lavita.score.embedded_fit import BATCH

    params, forward = cost
    clips = cell.extractor.steps * BATCH
    # A backward pass costs twice a forward pass: the gradients of inputs and of weights.
    seconds = None if rate is None else rate.seconds(3 * forward * clips)
    return Line(
        "extractor", cell.method, params, forward, 3 * forward, clips, cell.extractor.steps, BATCH, None, seconds
    )


def sample_line(cell: CellConfig, method: VideoMethod, train: StageCost, rate: Probe | None) -> Line:
    """Sampling of the protocol's clips by the trained network, twice (untrained and trained)."""
    s = cell.sampling
    evaluations = s.num_steps * (1 if s.guidance == 1.0 else 2)
    forward = train.flops_forward * evaluations
    clips = cell.protocol.n_generated
    seconds = None if rate is None else rate.forward_seconds(forward) * clips * s.num_clips_chained
    weights = 4 * sum(p.numel() for p in method.parameters())
    return Line(
        "sample", cell.method, train.params, forward, 0, clips, s.num_steps, s.batch_clips, weights,
        None if seconds is None else 2 * seconds, sampling_seconds=seconds,
    )  # fmt: skip


def score_line(cell: CellConfig, num_classes: int | None, rate: Probe | None) -> Line:
    """Features of real and generated clips, the latter twice (untrained and trained)."""
    cost = extractor_cost(cell, num_classes)
    clips = cell.protocol.n_real + 2 * cell.protocol.n_generated
    if cost is None:
        return Line("score", cell.method, None, None, None, clips, 0, 0, None, None)
    seconds = None if rate is None else rate.forward_seconds(cost[1] * clips)
    return Line("score", cell.method, cost[0], cost[1], 0, clips, 0, 0, None, seconds)
