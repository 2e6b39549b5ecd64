"""What a run would do and cost, before it starts and without data: one line a cell and stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from lavita.runner.probe import Probe
from lavita.runner.provenance import peak_bytes
from lavita.runner.purse import check_task, cut_purse, meta_flops, planned_charge
from lavita.train.module import TrainedStage, VideoMethod
from lavita.whole import write_whole

COLUMNS = (
    "suite,tier,cell,method,dataset,seed,stage,params,flops_forward_per_clip,flops_train_per_clip,clips,steps,batch,"
    "est_seconds,est_peak_bytes"
).split(",")
STAGES = ("codec", "extractor", "autoencoder", "autoencoder-gan", "train", "sample", "score")


@dataclass(frozen=True)
class Line:
    """One stage of one cell; None where a number is not known without data or weights."""

    stage: str
    method: str
    params: int | None
    flops_forward: int | None
    flops_train: int | None
    clips: int
    steps: int
    batch: int
    peak_bytes: int | None
    seconds: float | None = None


def dry_run(cells: Sequence[CellConfig], csv: str | None, probe: bool) -> None:
    """Print the plan as a table, or as CSV where csv is "-"; any other csv is a file to write besides the table.

    Raises ValueError where a budget does not go into whole batches.
    """
    rate = Probe() if probe else None
    known: dict[str, list[Line]] = {}
    # On a CPU the libraries themselves lie in the same memory as a cell's tensors.
    base = 0 if accelerators() else peak_bytes()
    rows = []
    for cell in cells:
        if cell.label not in known:
            known[cell.label] = list(lines_of(cell, rate))
        rows += [row_of(cell, line, base) for line in known[cell.label]]
    text = csv_text([COLUMNS, *([text_of(row[name]) for name in COLUMNS] for row in rows)])
    if csv == "-":
        sys.stdout.write(text)
        return
    if csv:
        write_whole(Path(csv), text)
    print(table(rows, probe))


def row_of(cell: CellConfig, line: Line, base: int) -> dict[str, Any]:
    """A line under the names of the columns."""
    facts = {"suite": cell.suite, "tier": cell.tier, "cell": cell.cell, "method": line.method}
    facts |= {"dataset": cell.data.dataset, "seed": cell.seed, "stage": line.stage, "params": line.params}
    facts |= {"flops_forward_per_clip": line.flops_forward, "flops_train_per_clip": line.flops_train}
    facts |= {"clips": line.clips, "steps": line.steps, "batch": line.batch, "est_seconds": line.seconds}
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
        yield codec_line(cell, codec, rate)
    yield extractor_line(cell, facts["num_classes"], rate)
    cost = None
    for stage, limit in cut_purse(cell, method, pretraining, planned_charge(cell, method), meta_flops(cell)):
        module, clips = stage.module, limit.clips
        batch = module.train_config.batch_clips
        cost = stage_cost(cell, module)
        drawn = int(clips / module.clip_cost)
        seconds = None if rate is None else rate.seconds(cost.flops_train * drawn)
        name = stage.name if stage.name in STAGES else "train"
        of = cell.pretraining.method if module is pretraining else cell.method
        yield Line(
            name, of, cost.params, cost.flops_forward, cost.flops_train, clips, drawn // batch, batch,
            cost.peak_bytes, seconds,
        )  # fmt: skip
    yield sample_line(cell, method, cost, rate)  # the last stage is the method's own network
    yield score_line(cell, facts["num_classes"], rate)


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
    seconds = None if rate is None else rate.seconds(2 * forward * clips)
    weights = 4 * sum(p.numel() for p in method.parameters())
    return Line("sample", cell.method, train.params, forward, 0, clips, s.num_steps, s.batch_clips, weights, seconds)


def score_line(cell: CellConfig, num_classes: int | None, rate: Probe | None) -> Line:
    """Features of real and generated clips, the latter twice (untrained and trained)."""
    cost = extractor_cost(cell, num_classes)
    clips = cell.protocol.n_real + 2 * cell.protocol.n_generated
    if cost is None:
        return Line("score", cell.method, None, None, None, clips, 0, 0, None, None)
    seconds = None if rate is None else rate.seconds(cost[1] * clips)
    return Line("score", cell.method, cost[0], cost[1], 0, clips, 0, 0, None, seconds)


def table(rows: Sequence[dict[str, Any]], probed: bool) -> str:
    """The plan for reading: one line a cell and stage, and what all of it costs."""
    head = ["cell", "stage", "params (M)", "forward GFLOPs/clip", "train GFLOPs/clip", "clips", "steps", "batch"]
    head += ["peak GiB"] + (["est. minutes"] if probed else [])
    lines = [head]
    for row in rows:
        name = row["stage"] if row["cell"].startswith(row["method"]) else f"{row['stage']} ({row['method']})"
        line = [row["cell"], name, scaled(row["params"], 1e-6), scaled(row["flops_forward_per_clip"], 1e-9)]
        line += [scaled(row["flops_train_per_clip"], 1e-9), str(row["clips"]), str(row["steps"]), str(row["batch"])]
        line.append(scaled(row["est_peak_bytes"], 2**-30))
        lines.append(line + ([scaled(row["est_seconds"], 1 / 60)] if probed else []))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    cells = len({row["cell"] for row in rows})
    trained = [row for row in rows if row["stage"] != "extractor"]
    total = sum((row["flops_train_per_clip"] or 0) * row["steps"] * row["batch"] for row in trained)
    return f"{text}\n{cells} cells, about {total * 1e-12:.4g} TFLOPs of training in all"


def scaled(value: float | None, factor: float) -> str:
    return "?" if value is None else f"{value * factor:.4g}"
