"""The tables of a results folder, from the records of its cells and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from lavita.bench.apart import TEXT as APART_TEXT
from lavita.bench.apart import apart_lines
from lavita.bench.chart import Point, scatter
from lavita.bench.ledger import RECORD, csv_text, read_record, rows_of, text_of, write_rows
from lavita.bench.pairs import COLUMNS as PAIR_COLUMNS
from lavita.bench.pairs import Pair, label_of, pairs_of_rows
from lavita.bench.suite import load_suite, rows_of_suite
from lavita.bench.table import markdown, shown, write_tables
from lavita.data.catalogue import SPLITS
from lavita.registry import ROOT
from lavita.runner.display import Display
from lavita.runner.groups import Group
from lavita.score.intervals import seed_spread
from lavita.whole import write_whole

PAIRS_TEXT = """\
Each row against the first: ratio of the scores (geometric mean over the seeds) with its 95 % interval from the spread
from seed to seed, pooled over all rows. The interval is of one pair: of twenty equal choices about one is told apart by
chance.
"""


def make_tables(
    folder: Path,
    groups: Sequence[Group],
    shared: dict[str, dict[str, Any]],
    display: Display,
    more: Sequence[str] = (),
) -> None:
    """rows.csv, table.csv, table.md and the chart from every record that may stand beside this run's cells.

    more: names of cells that are no part of the plan (clips made elsewhere).
    """
    first = groups[0].cells[0]
    suite = load_suite(first.suite)
    order = [row.label for row in rows_of_suite(suite, first.tier)]
    records, left_out = kept_records(folder, groups, shared, more)
    records.sort(key=lambda record: (place(record["label"], order), record["row"]["seed"]))
    rows = [row for record in records for row in rows_of(record)]
    write_rows(folder / "rows.csv", rows)
    pairs = pairs_of_rows(rows, order) if suite.rows is not None else []
    notes = notes_of(records, groups, shared, left_out) | pairs_note(folder, pairs)
    tables = write_tables(folder, rows, order, notes)
    write_chart(folder / "quality_cost.svg", rows, suite.title)
    for facts, frame in tables:
        display.line("")
        if len(tables) > 1:
            display.line(facts)
        display.line(markdown(short(frame)))
    for pair in pairs:
        display.line(f"{pair.choice} against {pair.against}: {sentence(pair)}")
    path = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    files = "rows.csv, table.csv, table.md, quality_cost.svg" + (", pairs.csv" if pairs else "")
    display.line(f"tables: {path}/{files}; samples: cells/<cell>/samples.gif")
    if left_out:
        display.line(f"left out of the tables, made under another setting: {', '.join(left_out)}")


def place(label: str, order: Sequence[str]) -> int:
    """Where a row stands in the table; what the suite no longer knows comes last."""
    return order.index(label) if label in order else len(order)


def kept_records(
    folder: Path, groups: Sequence[Group], shared: dict[str, dict[str, Any]], more: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of this run's cells and finished ones made under the same setting; names of the others."""
    planned = {cell.cell for group in groups for cell in group.cells} | set(more)
    settings = {shared[group.key]["comparison"] for group in groups}
    records, left_out = [], []
    for path in sorted((folder / "cells").glob(f"*/{RECORD}")):
        record = read_record(path.parent)
        if record["cell"] in planned or (record["comparison"] in settings and record["status"] == "ok"):
            records.append(record)
        else:
            left_out.append(record["cell"])
    return records, left_out


def short(frame):
    """The columns that fit a terminal."""
    keep = [name for name in frame.columns if name.split("_")[0] in ("fvd", "is")]
    return frame[["method", "seed", "status", *keep, "clips", "wall (s)", "remark"]]


def notes_of(
    records: list[dict[str, Any]], groups: Sequence[Group], shared: dict[str, dict[str, Any]], left_out: list[str]
) -> dict[str, str]:
    """What stands below the table: what the metric can see, deviations, stages, held-out losses."""
    seen = {shared[group.key]["protocol_hash"]: shared[group.key] for group in groups}
    parts = [f"Protocol {one['protocol_name']}:\n\n{one['sanity_text']}" for one in seen.values()]
    notes = {"What this metric can see": "\n\n".join(parts), "Data": data_notes(groups)}
    notes["Stages"] = "\n".join(stages_line(record) for record in records)
    notes["First stages"] = first_stages(records)
    started = [line for record in records for line in start_lines(record)]
    if started:
        notes["Initial weights"] = "\n".join(started)
    notes["Deviations from the authors' settings"] = "\n".join(
        f"* {record['cell']}: " + "; ".join(record["deviations"]) for record in records
    )
    apart = apart_lines(records)
    if apart:
        notes["Which rows differ"] = APART_TEXT + "\n" + "\n".join(apart)
    seeds = seeds_note(records)
    if seeds:
        notes["Spread over training seeds"] = seeds
    if left_out:
        notes["Left out"] = "Made under another setting: " + ", ".join(left_out)
    return notes


def seeds_note(records: list[dict[str, Any]]) -> str:
    """Mean, deviation and interval of every score of a row that has several training seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        for score in record["scores"] if record["status"] == "ok" else []:
            if score["stage"] == "train":
                found.setdefault((record["label"], score["metric"]), []).append(score["value"])
    lines = []
    for (label, metric), values in found.items():
        if len(values) > 1:
            s = seed_spread(values)
            lines.append(
                f"* {label}, {metric}: {s.mean:.4g}, standard deviation {s.deviation:.2g}, {s.low:.4g} to {s.high:.4g} "
                f"({s.kind})"
            )
    return "\n".join(lines)


def data_notes(groups: Sequence[Group]) -> str:
    """What the rows were made from: name, splits and fingerprint of the data, and each video that was left out."""
    lines = []
    for source in {group.source.label: group.source for group in groups}.values():
        counts = ", ".join(f"{len(source.catalogue.split(split))} {split}" for split in SPLITS)
        lines.append(f"* {source.label}: {counts}; fingerprint {source.catalogue.fingerprint}")
        lines += [f"  * left out: {note}" for note in source.catalogue.notes]
    return "\n".join(lines)


FIRST_STAGES_TEXT = """\
What the first stage alone loses: real clips against the same after encoding and decoding, by the metrics in the name;
psnr (dB, higher is better), ssim (higher), lpips (lower) on held-out clips, rfvd (lower) on the protocol's real clips.
psnr_average4x4 is the PSNR of each frame averaged to 4x4 blocks, to compare with. `codec` is the suite's, shared by all
that work on its latents (shared/<key>/codec.gif); `autoencoder` is a method's own, paid from its budget
(cells/<cell>/autoencoder.gif). Pictures: original, reconstruction, 4x4 average.
"""


def first_stages(records: list[dict[str, Any]]) -> str:
    """The reconstruction scores: of every codec with the rows that share it, of each method's own autoencoder."""
    shared: dict[str, list[str]] = {}
    own = []
    for record in records:
        for stage in ("codec", "autoencoder"):
            scores = [score for score in record["scores"] if score["stage"] == stage]
            text = "; ".join(f"{score['metric']} {shown(score['value'])}" for score in scores)
            if text and stage == "codec":
                shared.setdefault(text, []).append(record["label"])
            elif text:
                own.append(f"* {record['cell']}, autoencoder: {text}")
    if not shared and not own:
        return "No method has one here: all work in pixels."
    codecs = [f"* codec of {', '.join(dict.fromkeys(labels))}: {text}" for text, labels in shared.items()]
    return FIRST_STAGES_TEXT + "\n" + "\n".join(codecs + own)


def stages_line(record: dict[str, Any]) -> str:
    """Clips by stage and the held-out loss of a cell."""
    stages = ", ".join(stage_text(stage) for stage in record.get("stages", []))
    loss = record.get("heldout_losses") or []
    ends = f"; held-out loss {loss[0][1]:.4g} -> {loss[-1][1]:.4g}" if loss else ""
    return f"* {record['cell']}: clips by stage: {stages or 'none'}{ends}"


def stage_text(stage: dict[str, Any]) -> str:
    """A stage and its clips; of a latent cache, which sees none, what it cost otherwise."""
    if "bytes" not in stage:
        return f"{stage['name']} {stage['clips']}"
    return f"{stage['name']} 0 ({stage['seconds']:.0f} s, {stage['flops']:.3g} FLOPs, {stage['bytes'] / 2**20:.0f} MiB)"


def start_lines(record: dict[str, Any]) -> list[str]:
    """Where a cell's weights began, if not at random: how much was taken, what was not."""
    start = record.get("initialised")
    if not start:
        return []
    left = ", ".join(f"{name} ({why})" for name, why in start["left"].items()) or "nothing"
    unused = ", ".join(start["unused"]) or "none"
    return [
        f"* {record['cell']}: {len(start['taken'])} tensors from {start['source']}; left at their own start: {left}; "
        f"unused tensors of the source: {unused}"
    ]


def pairs_note(folder: Path, pairs: list[Pair]) -> dict[str, str]:
    """The comparison of each row with the first as a section of table.md; writes pairs.csv beside it."""
    if not pairs:
        return {}
    lines = [[text_of(value) for value in astuple(pair)] for pair in pairs]
    write_whole(folder / "pairs.csv", csv_text([list(PAIR_COLUMNS), *lines]))
    table = ["| choice | against | metric | seeds | what this run says |", "| --- | --- | --- | --- | --- |"]
    table += [f"| {p.choice} | {p.against} | {p.metric} | {p.seeds} | {sentence(p)} |" for p in pairs]
    return {"Which rows this size can tell apart": PAIRS_TEXT + "\n" + "\n".join(table)}


def sentence(pair: Pair) -> str:
    """A pair's verdict with its numbers."""
    if pair.ratio is None:
        return pair.verdict
    interval = f" ({pair.ci_low:.2f} to {pair.ci_high:.2f})" if pair.ci_low is not None else ""
    return f"{pair.verdict}; ratio {shown(pair.ratio)}{interval}"


def write_chart(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Distance against training FLOPs for the trained cells, where there are any."""
    trained = [
        row for row in rows if row["stage"] == "train" and row["metric"].startswith("fvd_") and row["train_flops"]
    ]
    points = [
        Point(label_of(row), float(row["train_flops"]) * 1e-12, float(row["value"]))
        for row in trained
        if row["protocol_hash"] == trained[0]["protocol_hash"] and float(row["value"]) > 0
    ]
    if points:
        metric = trained[0]["metric"]
        write_whole(path, scatter(points, title, "training, TFLOPs (codec included)", f"{metric} (lower is better)"))
