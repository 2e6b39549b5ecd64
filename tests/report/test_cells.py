"""How tables write their cells: decimals, intervals, bold, reasons; and the LaTeX of it."""

from __future__ import annotations

import csv
import io
import re

from lavita.report.tables import for_readers, number, plain, wide
from lavita.report.write import escaped, tables_of
from lavita.results.rows import Row

METRIC = "fvd_embedded_n8_f8"


def row(method: str, stage: str = "train", value: float | None = 43.2511, **more) -> Row:
    base = {
        "suite": "ucf101", "tier": "demo", "cell": f"{method}-s0", "method": method, "dataset": "x", "seed": 0,
        "protocol_hash": "p", "status": "ok", "stage": stage, "metric": METRIC, "value": value, "lower_is_better": True,
        "clips_seen": 2048, "train_flops": 1_966_500_000_000, "wall_seconds": 49.06, "nfe": 25,
    }  # fmt: skip
    return Row(**base | more)


ROWS = [
    row("dit", ci_low=40.06, ci_high=46.94), row("dit", "untrained", 1106.04),
    row("vdt", value=67.49), row("pvdm", status="failed", reason="out of memory", metric="", value=None, stage=""),
    row("theirs", value=99.9, reason="training not audited", clips_seen=None, train_flops=None),
]  # fmt: skip
NAME = f"{METRIC} ↓"


def test_decimals_of_the_csv_are_those_of_the_column():
    assert number(43.2511, NAME) == "43.3" and number(1.2564, "is_embedded_n8_f8 ↑") == "1.26"
    assert number(0.31449, "kvd_embedded_n8_f8 ↓") == "0.314" and number(2048, "clips") == "2048"
    assert number("class", "method") == "class"


def test_every_empty_cell_has_a_reason():
    table = plain(wide(ROWS, ["dit", "vdt", "pvdm"])).set_index("method")
    assert table.loc["dit", NAME] == "43.3" and table.loc["dit", f"{NAME} low"] == "40.1"
    assert table.loc["vdt", f"{NAME} low"] == "no interval" and table.loc["vdt", f"{NAME} untrained"] == "not measured"
    assert table.loc["pvdm", NAME] == "failed" and "out of memory" in table.loc["pvdm", "remark"]
    assert table.loc["theirs", "clips"] == "not audited" and table.loc["theirs", "train TFLOPs"] == "not audited"
    assert not (table.drop(columns="remark") == "").any().any()


def test_intervals_and_bold_stand_with_their_score():
    frame = for_readers(wide(ROWS, []), {("dit-s0", METRIC)}, lambda text: f"<{text}>").set_index("method")
    assert frame.loc["dit", NAME] == "<43.25> (40.06 to 46.94)" and frame.loc["vdt", NAME] == "67.49"
    assert f"{NAME} low" not in frame.columns


def test_people_read_words_and_significant_digits_where_the_csv_keeps_its_names():
    large = [row("dit", value=2073761.138, ci_low=1984012.7, ci_high=2204001.2), row("dit", "untrained", 0.031449)]
    texts, _ = tables_of(large, ["dit"], {}, "d" * 64)
    (line,) = csv.DictReader(io.StringIO(texts["table.csv"]))
    assert line[NAME] == "2073761.1" and line[f"{NAME} untrained"] == "0.0"
    assert line["remark"] == f"not better than its own untrained start by {METRIC}"
    head, _, cells = [one for one in texts["table.md"].splitlines() if one.startswith("|")]
    told = dict(zip(head.split(" | "), cells.split(" | "), strict=True))
    assert told["FVD (in-domain, 8 clips of 8 frames) ↓"] == "2074000 (1984000 to 2204000)"
    assert told["FVD untrained"] == "0.03145" and told["wall (s)"] == "49.06" and told["clips"] == "2048"
    assert "not better than its own untrained start by FVD |" in cells
    assert f"* FVD, `{METRIC}` in CSV files: Frechet video distance; lower is better." in texts["table.md"]
    assert r"FVD $\downarrow$ & untrained" in texts["table.tex"]
    assert "2074000 (1984000 to 2204000) & 0.03145" in texts["table.tex"]
    assert "Scores: FVD (in-domain, 8 clips of 8 frames)." in texts["table.tex"]


def test_the_three_tables_say_the_same_and_the_digest():
    texts, _ = tables_of(ROWS, ["dit", "vdt", "pvdm"], {}, "d" * 64, {("dit-s0", METRIC)})
    lines = list(csv.DictReader(io.StringIO(texts["table.csv"])))
    assert [line["method"] for line in lines] == ["dit", "vdt", "pvdm", "theirs"]
    assert {line["digest"] for line in lines} == {"d" * 64}
    assert "**43.25** (40.06 to 46.94)" in texts["table.md"] and "d" * 64 in texts["table.md"]
    tex = texts["table.tex"]
    assert r"\textbf{43.25} (40.06 to 46.94)" in tex and "d" * 64 in tex
    widths = {line.count(" & ") for line in tex.splitlines() if line.endswith(r"\\") and " & " in line}
    columns = len(re.search(r"\\begin\{tabular\}\{(l[r]+)\}", tex)[1])
    assert widths == {columns - 1}
    assert tex.count(r"\begin{") == tex.count(r"\end{") and tex.count("{") == tex.count("}")


def test_latex_survives_what_names_may_hold():
    assert escaped("a_b 50% & $x$ #1 {y} ~ ^ \\ ↓") == (
        r"a\_b 50\% \& \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} $\downarrow$"
    )
