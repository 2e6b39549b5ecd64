"""The wide table of rows that may be compared: a row a cell, scores with intervals, costs, and a remark."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lavita.bench.pairs import label_of

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
LOW, HIGH, UNTRAINED = " low", " high", " untrained"  # ends of the names of what stands beside a score
SCALE = {"train_flops": 1e-12, "params_trained": 1e-6, "params_total": 1e-6, "peak_bytes": 2**-30}


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
        name = f"{row['metric']} {arrow}"
        line[name] = row["value"]
        if row["ci_low"] not in ("", None):
            line |= {name + LOW: row["ci_low"], name + HIGH: row["ci_high"]}
        if len(start):
            line[name + UNTRAINED] = start.iloc[0]["value"]
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


def blocks(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows cut into what may share a table, in the order in which each block first appears."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[column]) for column in SAME_IN_A_TABLE), []).append(row)
    return list(found.values())


def facts_of(first: dict[str, Any]) -> str:
    """What all rows of a block share, in a sentence."""
    changes = " (with uncommitted changes)" if str(first["dirty"]) == "true" else ""
    return (
        f"{first['division']} division; conditioning: {first['conditioning']}; guidance {first['guidance']}; protocol "
        f"{first['protocol']} ({first['protocol_hash']}); extractor {first['extractor']} "
        f"({str(first['extractor_hash'])[:12]}); data {str(first['data_fingerprint'])[:12]}; "
        f"commit {str(first['commit'])[:12]}{changes}"
    )
