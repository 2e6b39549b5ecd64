"""The wide tables, made from the tidy rows and never edited: table.csv and table.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lavita.bench.ledger import csv_text, text_of
from lavita.bench.pairs import label_of
from lavita.whole import write_whole

SAME_IN_A_TABLE = (
    "suite",
    "tier",
    "dataset",
    "data_fingerprint",
    "division",
    "conditioning",
    "guidance",
    "protocol_hash",
)
COST = {
    "clips_seen": "clips",
    "train_flops": "train TFLOPs",
    "params_trained": "trained params (M)",
    "params_total": "params (M)",
    "wall_seconds": "wall (s)",
    "sampling_seconds_per_clip": "sampling (s/clip)",
    "nfe": "NFE",
    "peak_bytes": "peak (GiB)",
}
SCALE = {"train_flops": 1e-12, "params_trained": 1e-6, "params_total": 1e-6, "peak_bytes": 2**-30}
LEGEND = """\
* fvd: Frechet video distance; kvd: unbiased kernel video distance; is: video inception score. Lower is better for
  fvd and kvd (down arrow), higher for is (up arrow). `_n64_f8` = 64 generated clips of 8 frames. A name between metric
  and `_n` is the feature network: `fvd_embedded` is made with the suite's own small network and is **not** comparable
  with any published FVD.
* fvd-train, fvd-heldout: the distance to real clips of the training and of the held-out split, as many windows as there
  are (at most four times those of fvd), so numbers of clips differ: each is compared down its own column only.
* memorisation: median distance of a generated clip to the nearest training clip, in units of the same of held-out real
  clips: about 1 for new clips, near 0 for copies; `record.json` names the closest.
* untrained: the same network at its starting weights, zero steps, same protocol.
* clips: training clips seen, all stages together; the suite's own codec is charged in full to each method that uses it.
* train TFLOPs: counted forward and backward of all trained stages, codec included, 1e12 floating-point operations,
  2 a multiply-add; wall: seconds of the cell's process; peak: peak resident memory of the cell's process;
  NFE: network evaluations a clip; guidance doubles their cost.
"""


def wide(rows: list[dict[str, Any]], order: list[str]) -> pd.DataFrame:
    """One row a cell, named <method>[-<choice>]: scores of the trained method, of its untrained start, costs, remark.

    Raises ValueError where rows that can't be compared would share a table.
    """
    frame = pd.DataFrame(rows)
    for column in SAME_IN_A_TABLE:
        different = sorted(set(frame[column].astype(str)) - {""})
        if len(different) > 1:
            raise ValueError(f"one table can't hold rows with different {column}: {', '.join(different)}")
    lines = [wide_row(group) for _, group in frame.groupby("cell", sort=False)]
    position = {name: index for index, name in enumerate(order)}
    lines.sort(key=lambda line: (position.get(line["method"], len(order)), line["seed"]))
    return pd.DataFrame(lines)


def wide_row(group: pd.DataFrame) -> dict[str, Any]:
    """The table row of one cell."""
    first = group.iloc[0]
    line: dict[str, Any] = {"method": label_of(first), "seed": first["seed"], "status": first["status"]}
    trained = group[group["stage"] == "train"]
    for _, row in trained.iterrows():
        start = group[(group["stage"] == "untrained") & (group["metric"] == row["metric"])]
        arrow = {True: "↓", False: "↑"}.get(row["lower_is_better"], "(1 = new)")
        line[f"{row['metric']} {arrow}"] = row["value"]
        if len(start):
            line[f"{row['metric']} {arrow} untrained"] = start.iloc[0]["value"]
    for column, title in COST.items():
        value = (trained.iloc[0] if len(trained) else first)[column]
        line[title] = value * SCALE[column] if column in SCALE and value != "" else value
    line["remark"] = remark(group)
    return line


def remark(group: pd.DataFrame) -> str:
    """What a reader must know of a cell: why it failed, or that training did not help by some metric."""
    if group.iloc[0]["status"] != "ok":
        return f"{group.iloc[0]['status']}: {group.iloc[0]['reason']}"
    said, worse = str(group.iloc[0]["reason"] or ""), []
    for metric, pair in group.groupby("metric", sort=False):
        values = {row["stage"]: row["value"] for _, row in pair.iterrows()}
        if not {"train", "untrained"} <= set(values):
            continue
        gain = values["untrained"] - values["train"]
        if (gain if pair.iloc[0]["lower_is_better"] else -gain) <= 0:
            worse.append(metric)
    found = f"not better than its own untrained start by {', '.join(worse)}" if worse else ""
    return "; ".join(part for part in (found, said) if part)


def shown(value: Any) -> str:
    """A number with four significant digits for reading; the CSV keeps them all."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table; `|` in a cell is escaped."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    for _, row in frame.iterrows():
        lines.append("| " + " | ".join(shown(value).replace("|", "\\|") for value in row) + " |")
    return "\n".join(lines) + "\n"


def blocks(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows cut into what may share a table, in the order in which each block first appears."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[column]) for column in SAME_IN_A_TABLE), []).append(row)
    return list(found.values())


def write_tables(
    folder: Path, rows: list[dict[str, Any]], order: list[str], notes: dict[str, str]
) -> list[tuple[str, pd.DataFrame]]:
    """Write table.csv and table.md into folder; rows that can't be compared share neither table nor column.

    Returns (what its rows share, table) of each block. order: the rows' names as they shall stand. notes: heading ->
    Markdown text.
    """
    cut = blocks(rows)
    frames = [wide(block, order) for block in cut]
    later = [renamed(frame, block[0]) for frame, block in zip(frames[1:], cut[1:], strict=True)]
    whole = pd.concat([frames[0], *later])
    write_whole(folder / "table.csv", csv_of(whole[[*whole.columns.drop("remark"), "remark"]]))
    tables = [(facts_of(block[0]), frame) for frame, block in zip(frames, cut, strict=True)]
    first = rows[0]
    lines = [f"# {first['suite']}, tier {first['tier']}, {first['dataset']}", ""]
    for facts, frame in tables:
        lines += [facts, "", markdown(frame)]
    lines += ["## Legend", "", LEGEND]
    for heading, text in notes.items():
        lines += [f"## {heading}", "", text.rstrip(), ""]
    write_whole(folder / "table.md", "\n".join(lines).rstrip() + "\n")
    return tables


def csv_of(frame: pd.DataFrame) -> str:
    """A table as CSV, every digit kept, empty where there is no value."""
    values = frame.astype(object).where(frame.notna(), None).values
    return csv_text([list(frame.columns), *([text_of(value) for value in line] for line in values)])


def renamed(frame: pd.DataFrame, first: dict[str, Any]) -> pd.DataFrame:
    """A later block's table, its score columns named with what sets the block apart."""
    apart = f"[{first['division']}; guidance {first['guidance']}; {first['protocol']}]"
    scores = [name for name in frame.columns if "↓" in name or "↑" in name]
    return frame.rename(columns={name: f"{name} {apart}" for name in scores})


def facts_of(first: dict[str, Any]) -> str:
    """What all rows of a block share, in a sentence."""
    changes = " (with uncommitted changes)" if str(first["dirty"]) == "true" else ""
    return (
        f"{first['division']} division; conditioning: {first['conditioning']}; guidance {first['guidance']}; protocol "
        f"{first['protocol']} ({first['protocol_hash']}); extractor {first['extractor']} "
        f"({str(first['extractor_hash'])[:12]}); data {str(first['data_fingerprint'])[:12]}; "
        f"commit {str(first['commit'])[:12]}{changes}"
    )
