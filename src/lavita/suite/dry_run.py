"""What a suite would do and cost, before it starts and without data: one line per run and stage."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavita.config.compose import Experiment
from lavita.console import invocation
from lavita.data.find import SYNTHETIC
from lavita.experiment.costs import Probe
from lavita.experiment.machine import device_memory, free_disk, shared_memory
from lavita.experiment.peaks import (
    RESERVE,
    Memory,
    gib,
)
from lavita.files import atomic_write_text
from lavita.results.attempts import attempts
from lavita.results.identity import config_hash
from lavita.results.records import read_record
from lavita.results.rows import csv_text, text_of
from lavita.suite.artifacts import group_key
from lavita.suite.estimates import Line, Rate, StatedRate, lines_of


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


def of_one(label: str, rows: Sequence[Mapping[str, Any]], probed: bool) -> str:
    """A line of a row of the suite: how its batches go through the memory, and what it comes to."""
    peaks = {row["stage"]: row["est_peak_bytes"] for row in rows if row["est_peak_bytes"] is not None}
    stages = {row["stage"]: row["passes"] for row in rows if row["passes"] is not None and row["stage"] != "codec"}
    said = [
        f"{stage} {one.clips} clips a pass{', recomputed' if one.recomputed else ''} ({gib(peaks[stage])} GiB)"
        for stage, one in stages.items()
    ]
    others = max((size for stage, size in peaks.items() if stage not in stages), default=0)
    return f"{label}: {', '.join(said)}, all else {gib(others)} GiB; {amounts(rows, probed)}"


def fits_line(rows: Sequence[Mapping[str, Any]], memory: Memory, folder: Path | None) -> str:
    """Whether the device has memory for all of it, and what would make it fit where it has not; also disk and shared
    memory of this machine, where folder is that of the results; None: it is planned for another one.
    """
    known = [row for row in rows if row["est_peak_bytes"] is not None]
    most = max(known, key=lambda row: row["est_peak_bytes"])
    device = f"a device of {gib(memory.bytes)} GiB, of which {RESERVE} are planned with"
    wrong = dict.fromkeys(
        f"{row['label']}, {row['stage']} needs {gib(row['est_peak_bytes'])} GiB{row['said']}"
        for row in known
        if row["said"] or row["est_peak_bytes"] > memory.usable + memory.taken
    )
    said = [f"largest peak {gib(most['est_peak_bytes'])} GiB ({most['label']}, {most['stage']})"]
    if folder is not None:
        needed = totals([row for row in rows if not row["done"]])["disk"]
        said.append(f"disk {gib(needed)} of {gib(free_disk(folder))} GiB free")
        if needed > free_disk(folder):
            wrong[f"disk: {gib(needed)} GiB needed in {folder}, {gib(free_disk(folder))} free; set --out"] = None
    shared, there = max(row["shared_memory"] for row in rows), shared_memory()
    if shared and there is not None and folder is not None:
        said.append(f"/dev/shm {gib(shared)} of {gib(there)} GiB free")
        if shared > there:
            wrong[f"/dev/shm: {gib(shared)} GiB needed, {gib(there)} free; set data.num_workers=0"] = None
    if wrong:
        return f"does not fit {device}: {'; '.join(wrong)}"
    return f"fits {device}: {', '.join(said)}"


def last_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Number of runs and FLOPs, for what is not read on a terminal."""
    count = len({row["cell"] for row in rows})
    return f"{count} runs, about {totals(rows)['tflops']:.4g} TFLOPs of training in all{without(rows)}"


def without(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the FLOPs leave out."""
    return ", without stages that end after so many seconds" if any(row["clips"] is None for row in rows) else ""


def summary(rows: Sequence[Mapping[str, Any]], rate: Rate | None) -> str:
    """Some lines: the total of all runs, what is left of it, the largest runs, what is not counted."""
    probed = rate is not None
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
    if isinstance(rate, StatedRate):
        lines.append(f"hours: {rate}")
    elif probed:
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


def dry_run(
    experiments: Sequence[Experiment],
    csv: str | None,
    probe: bool,
    out: Path | None = None,
    device_gib: float | None = None,
) -> None:
    """Print the plan as a table, or as CSV where csv is "-"; any other csv is a file to write besides the table.

    Totals of each row of the suite follow, of all runs (on a terminal a summary), and whether the device has memory
    for it. out: the results folder that may hold finished runs, None for the usual one. device_gib: plan for a GPU
    with so much memory, at the rate of GPU_FLOPS, and not for this machine. Raises ValueError where a budget does not
    go into whole batches.
    """
    here = device_gib is None
    # On a CPU the libraries themselves lie in the same memory as a run's tensors.
    memory = device_memory() if here else Memory(int(device_gib * 2**30))
    rate = Probe() if probe else None if here else StatedRate()
    known: dict[str, list[Line]] = {}
    rows = []
    for experiment in experiments:
        if experiment.label not in known:
            known[experiment.label] = list(lines_of(experiment, rate, memory))
        done = is_done(experiment, results_folder(experiment, out))
        rows += [row_of(experiment, line, memory.taken, done) for line in known[experiment.label]]
    text = csv_text([COLUMNS, *([text_of(row[name]) for name in COLUMNS] for row in rows)])
    if csv == "-":
        sys.stdout.write(text)
        return
    if csv:
        atomic_write_text(Path(csv), text)
    print(table(rows, rate is not None))
    for label in known:
        print(of_one(label, [row for row in rows if row["label"] == label], rate is not None))
    print(summary(rows, rate) if sys.stdout.isatty() else last_line(rows))
    folder = results_folder(experiments[0], out) or Path("results")
    print(fits_line(rows, memory, folder if here else None))


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
    facts |= {"label": e.label, "passes": line.passes, "shared_memory": line.shared_memory, "said": line.said}
    return facts | {"est_peak_bytes": None if line.peak_bytes is None else line.peak_bytes + base}
