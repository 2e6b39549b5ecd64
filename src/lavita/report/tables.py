"""The wide table of rows that may be compared: one row per run, scores with intervals, costs, and a remark."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from lavita.config.schema import FRAMES
from lavita.metrics.table import MetricKey, parse_key, with_titles
from lavita.results.rows import Row, label_of, shown, text_of

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


def wide(rows: Sequence[Row], order: Sequence[str]) -> pd.DataFrame:
    """One row per run, named <method>[-<choice>]: scores of the trained method, of its untrained start, costs, remark.

    Raises ValueError where rows that can't be compared would share a table.
    """
    frame = frame_of(rows)
    for column in SAME_IN_A_TABLE:
        different = sorted(set(frame[column].astype(str)) - {""})
        if len(different) > 1:
            raise ValueError(f"one table can't hold rows with different {column}: {', '.join(different)}")
    lines = []
    middle = median_flops(frame)
    for _, group in frame.groupby("cell", sort=False):
        line = wide_row(group)
        lines.append(line | {"remark": "; ".join(filter(None, (line["remark"], costs_of_size(group, middle))))})
    position = {name: index for index, name in enumerate(order)}
    lines.sort(key=lambda line: (position.get(line["method"], len(order)), line["seed"]))
    return pd.DataFrame(lines)


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Tidy rows as a frame; what is not known is "", so that no column of numbers turns into others."""
    return pd.DataFrame([{key: "" if value is None else value for key, value in asdict(row).items()} for row in rows])


def wide_row(group: pd.DataFrame) -> dict[str, Any]:
    """The table row of one run."""
    first = group.iloc[0]
    line: dict[str, Any] = {"method": label_of(first["cell"]), "seed": first["seed"], "status": first["status"]}
    trained = group[group["stage"] == "train"]
    for _, row in trained.iterrows():
        start = group[(group["stage"] == "untrained") & (group["metric"] == row["metric"])]
        name = heading(row["metric"])
        line[name] = row["value"]
        if row["ci_low"] != "":
            line |= {name + LOW: row["ci_low"], name + HIGH: row["ci_high"]}
        if len(start):
            line[name + UNTRAINED] = start.iloc[0]["value"]
    for column, title in COST.items():
        value = (trained.iloc[0] if len(trained) else first)[column]
        line[title] = value * SCALE[column] if column in SCALE and value != "" else value
    line["remark"] = remark(group)
    return line


# What a trained method has to be better than, by stage.
LESS = {"untrained": "its own untrained start", FRAMES: "its frames made each by itself"}


def remark(group: pd.DataFrame) -> str:
    """What a reader must know of a run: why it failed, or that training did not help by some metric."""
    if group.iloc[0]["status"] != "ok":
        return f"{group.iloc[0]['status']}: {group.iloc[0]['reason']}"
    said = str(group.iloc[0]["reason"] or "")
    found = [
        f"not better than {words} by {', '.join(worse)}"
        for stage, words in LESS.items()
        if (worse := no_gain(group, stage))
    ]
    return "; ".join(part for part in (*found, said) if part)


def no_gain(group: pd.DataFrame, stage: str) -> list[str]:
    """The metrics by which a trained method is not better than the clips of another stage of its run."""
    found = []
    for metric, pair in group.groupby("metric", sort=False):
        values = {row["stage"]: row["value"] for _, row in pair.iterrows()}
        if not {"train", stage} <= set(values):
            continue
        gain = values[stage] - values["train"]
        if (gain if pair.iloc[0]["lower_is_better"] else -gain) <= 0:
            found.append(str(metric))
    return found


SMALL_TIERS = ("small", "demo")  # whose sizes the suite chose, so that it answers for what they make of a method
LEAST_GAIN, MOST_RATIO = 3.0, 2.0  # dB above 4x4 averages; of training FLOPs to the table's median


def median_flops(table: pd.DataFrame) -> float:
    """Of the training FLOPs of a table's methods as such, choices left out; NaN where none is known."""
    trained = table[(table["stage"] == "train") & (table["train_flops"] != "")].drop_duplicates("cell")
    plain = [label_of(cell) == method for cell, method in zip(trained["cell"], trained["method"], strict=True)]
    return float(trained.loc[plain, "train_flops"].astype(float).median())


def costs_of_size(group: pd.DataFrame, middle: float) -> str:
    """What the suite's own sizes cost a run, in words: a first stage that is hardly better than averages of 4x4 pixels,
    or training FLOPs far from those of the table's other methods (middle: their median); "" where neither holds, of a
    choice, whose size is the point, and at tier paper.
    """
    first, said = group.iloc[0], []
    if first["tier"] not in SMALL_TIERS or first["status"] != "ok" or label_of(first["cell"]) != first["method"]:
        return ""
    keys = ((parse_key(row["metric"]), row["value"]) for _, row in group.iterrows())
    value = {key.row.name: value for key, value in keys if key is not None}
    if {"psnr", "psnr_average4x4"} <= set(value) and value["psnr"] < value["psnr_average4x4"] + LEAST_GAIN:
        reached = f"{value['psnr']:.1f} dB, averages of 4x4 pixels {value['psnr_average4x4']:.1f}"
        said.append(f"at this size its first stage reconstructs {reached}")
    spent = group[group["stage"] == "train"]["train_flops"]
    ratio = float(spent.iloc[0]) / middle if len(spent) and spent.iloc[0] != "" else 1.0
    if not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        said.append(f"at this size {ratio:.2g} times the training FLOPs that the table's methods have in the middle")
    return "; ".join(said)


def with_notes(frame: pd.DataFrame, notes: Mapping[str, str]) -> pd.DataFrame:
    """A wide table for people: behind the remark of a completed row stands what they must know of its method, by name
    of the row.
    """
    lines = [line for _, line in frame.iterrows()]
    known = [notes.get(line["method"], "") if line["status"] == "ok" else "" for line in lines]
    remarks = ["; ".join(filter(None, (line["remark"], note))) for line, note in zip(lines, known, strict=True)]
    return frame.assign(remark=remarks)


def setting_of(row: Row) -> tuple[str, ...]:
    """What all rows of a table share."""
    return tuple(text_of(getattr(row, column)) for column in SAME_IN_A_TABLE)


def blocks(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows cut into what may share a table, in the order in which each block first appears."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(setting_of(row), []).append(row)
    return list(found.values())


def facts_of(first: Row) -> str:
    """What all rows of a block share, in a sentence."""
    changes = " (with uncommitted changes)" if first.dirty == "true" else ""
    return (
        f"{first.division} division; conditioning: {first.conditioning}; guidance {text_of(first.guidance)}; protocol "
        f"{first.protocol} ({first.protocol_hash}); extractor {first.extractor} ({first.extractor_hash[:12]}); data "
        f"{first.data_fingerprint[:12]}; commit {first.commit[:12] or 'unknown'}{changes}"
    )


COST_DECIMALS = {
    "clips": 0, "train TFLOPs": 2, "trained params (M)": 2, "params (M)": 2, "wall (s)": 1, "sampling (s/clip)": 3,
    "NFE": 0, "peak (GiB)": 2, "seed": 0,
}  # fmt: skip
USUAL_DECIMALS = 2
AUDITED_NOT = "training not audited"


def heading(metric: str) -> str:
    """A score's column: its full name and the direction of better values."""
    key = parse_key(metric)
    return metric if key is None else f"{metric} {key.row.heading}".rstrip()


def column_words(column: str) -> str:
    """A column's name as people read it: FVD (in-domain, 64 clips of 8 frames) ↓; beside it FVD untrained."""
    key = parse_key(column)
    if key is None:
        return column
    return key.title + UNTRAINED if column.endswith(UNTRAINED) else f"{key.words} {key.row.heading}".rstrip()


def column_title(column: str) -> str:
    """The same where a table's caption says what its scores are: FVD ↓, and beside it untrained."""
    key = parse_key(column)
    if key is None:
        return column
    return UNTRAINED.strip() if column.endswith(UNTRAINED) else f"{key.title} {key.row.heading}".rstrip()


def keys_of(columns: Sequence[str]) -> dict[str, MetricKey]:
    """The metrics of a table's columns, by their full names."""
    return {column.split(" ")[0]: key for column in columns if (key := parse_key(column)) is not None}


def decimals_of(column: str) -> int:
    """Digits behind the point of every number in a column of table.csv."""
    key = parse_key(column)
    return COST_DECIMALS.get(column, USUAL_DECIMALS) if key is None else key.row.decimals


def number(value: Any, column: str) -> str:
    """A number as table.csv has it, with the decimals of its column, or the text that it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.{decimals_of(column)}f}"


def is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and pd.isna(value))


def why_empty(line: pd.Series, column: str) -> str:
    """The reason for a cell without a number."""
    if line["status"] != "ok":
        return str(line["status"])
    if AUDITED_NOT in str(line["remark"]):
        return "not audited"
    return "no interval" if column.endswith((LOW, HIGH)) else "not measured"


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Every cell as text for a CSV: numbers with fixed decimals, reasons elsewhere; a remark may be empty."""
    return filled(frame, lambda line, column: number(line[column], column))


def filled(frame: pd.DataFrame, write: Callable[[pd.Series, str], str]) -> pd.DataFrame:
    """A table of texts: write(line, column) where there is a value, a reason where there is none."""
    texts = [
        {
            column: write(line, column)
            if not is_empty(line[column])
            else ("" if column == "remark" else why_empty(line, column))
            for column in frame.columns
        }
        for _, line in frame.iterrows()
    ]
    return pd.DataFrame(texts, columns=frame.columns)


def for_readers(
    frame: pd.DataFrame, best: Collection[tuple[str, str]], bold: Callable[[str], str], skip: Collection[str] = ()
) -> pd.DataFrame:
    """The same for people: numbers with significant digits, intervals in brackets behind their scores, bold(text) for
    (cell, metric) in best, short titles of metrics in remarks. Columns keep their names: see `column_words`.
    """

    def write(line: pd.Series, column: str) -> str:
        text = with_titles(line[column]) if column == "remark" else shown(line[column])
        metric = column.split(" ")[0]
        if column in COST or column.endswith(UNTRAINED) or column + LOW not in frame.columns:
            return text
        if (f"{line['method']}-s{line['seed']}", metric) in best:
            text = bold(text)
        low, high = line[column + LOW], line[column + HIGH]
        return text if is_empty(low) else f"{text} ({shown(low)} to {shown(high)})"

    kept = [name for name in frame.columns if not name.endswith((LOW, HIGH)) and name not in skip]
    return filled(frame, write)[kept]


LEGEND = """\
* ↓: lower is better; ↑: higher is better. In brackets: the feature network, and how many generated clips of how many
  frames. `in-domain` is the suite's own small network (`embedded` in names of files): its scores are **not** comparable
  with any published ones.
* 43.3 (40.1 to 46.9): the score and its 95 % interval, for the same number of clips; rows.csv says of which kind.
* **bold**: significantly different, at 95 %, from every other row of its table: by seeds where every row has the same
  two or more, else by the clips alone, and then the spread of training seeds is not in it. Nothing else is bold.
* untrained: the same network at its starting weights, zero steps, same protocol.
* clips: training clips seen, all stages together; each method that uses the suite's autoencoder is charged all of it.
* train TFLOPs: counted forward and backward of all trained stages with the autoencoder, 1e12 floating-point operations,
  2 per multiply-add; wall: seconds of the run's process; peak: peak resident memory of the run's process;
  NFE: network evaluations per clip; guidance doubles their cost.
"""


def legend(columns: Sequence[str]) -> str:
    """What a reader of tables with these columns must know: one line per metric, then what all have in common."""
    lines = [
        textwrap.fill(f"* {key.title}, `{name}` in CSV files: {key.row.legend}", 120, subsequent_indent="  ")
        for name, key in keys_of(columns).items()
    ]
    return "\n".join([*lines, LEGEND])
