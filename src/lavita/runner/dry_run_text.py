"""A dry run for reading: a table with one line a cell and stage, and on a terminal what all of it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 3  # cells that the summary names
HOUR = 3600
SHARED = ("codec", "extractor")  # stages that are run once for all cells of a setting


def table(rows: Sequence[Mapping[str, Any]], probed: bool) -> str:
    """The plan: one line a cell and stage; "?" for what is not known beforehand."""
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
    """Number of cells and FLOPs, for what is not read on a terminal."""
    cells = len({row["cell"] for row in rows})
    return f"{cells} cells, about {totals(rows)['tflops']:.4g} TFLOPs of training in all{without(rows)}"


def without(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the FLOPs leave out."""
    return ", without stages that end after so many seconds" if any(row["clips"] is None for row in rows) else ""


def summary(rows: Sequence[Mapping[str, Any]], probed: bool) -> str:
    """Some lines: what all cells come to, what is left of it, the largest cells, what is not counted."""
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    left = [row for row in rows if not row["done"]]
    lines = [f"{len(cells)} cells: {amounts(rows, probed)}{without(rows)}"]
    finished = len(cells) - len({row["cell"] for row in left})
    if finished:
        lines.append(f"{finished} finished already; left: {amounts(left, probed)}")
    sizes = {cell: totals([row for row in rows if row["cell"] == cell]) for cell in cells}
    measure = "seconds" if probed else "tflops"
    largest = sorted(cells, key=lambda cell: -sizes[cell][measure])[:LARGEST]
    parts = [f"{cell} ({amounts([row for row in rows if row['cell'] == cell], probed)})" for cell in largest]
    lines.append(f"largest: {'; '.join(parts)}")
    unknown = dict.fromkeys(row["stage"] for row in rows if row["est_disk_bytes"] is None)
    if unknown:
        lines.append(
            f"not counted on disk: {', '.join(unknown)} (latent cache: nobody has counted the frames; "
            "python benchmarks/prepare.py writes how many there are)"
        )
    if probed:
        lines.append("hours: one cell at a time, at this machine's rate on a transformer block: a lower bound")
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
