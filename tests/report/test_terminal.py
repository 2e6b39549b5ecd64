"""The table that a run prints: its width, what it says of rows, and that it can be copied as Markdown."""

from __future__ import annotations

import re

import pytest

from lavita.report.tables import wide, with_notes
from lavita.report.terminal import noise_text, terminal_text
from lavita.results.rows import Row

FVD, IS = "fvd_embedded_n64_f8", "is_embedded_n64_f8"


def rows_of(label: str, fvd: float, seed: int = 0, **more) -> list[Row]:
    """A completed run's rows: distance with an interval and inception score, trained and untrained."""
    base = {"cell": f"{label}-s{seed}", "method": label, "seed": seed, "status": "ok", "clips_seen": 2048}
    base |= {"wall_seconds": 68.871, "protocol_hash": "p"} | more
    ends = {"ci_low": 0.9 * fvd, "ci_high": 1.1 * fvd}
    return [
        Row(**base, stage="train", metric=FVD, value=fvd, lower_is_better=True, **ends),
        Row(**base, stage="untrained", metric=FVD, value=309.36, lower_is_better=True),
        Row(**base, stage="train", metric=IS, value=1.1184, lower_is_better=False),
        Row(**base, stage="untrained", metric=IS, value=1.0512, lower_is_better=False),
    ]


def failed(label: str, reason: str) -> Row:
    return Row(cell=f"{label}-s0", method=label, seed=0, status="failed", reason=reason, protocol_hash="p")


def tables(text: str) -> list[list[dict[str, str]]]:
    """Every Markdown table in a text, read as any Markdown reader does; columns of one name get a number."""
    found: list[list[dict[str, str]]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE):
        head, rule, *lines = (
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()
        )
        assert all(re.fullmatch(r":?-+:?", cell) for cell in rule) and len(rule) == len(head)
        names = [name + "'" * head[:at].count(name) for at, name in enumerate(head)]
        found.append([dict(zip(names, line, strict=True)) for line in lines])
    return found


def test_a_usual_table_is_one_that_fits_and_says_what_its_metrics_are():
    rows = [row for label, fvd in (("lavita-v1", 29.283), ("dit-joint", 12345.678)) for row in rows_of(label, fvd)]
    text = terminal_text(wide(rows, ["lavita-v1", "dit-joint"]))
    assert max(map(len, text.splitlines())) <= 100 and FVD not in text and IS not in text
    assert "FVD (in-domain, 64 clips of 8 frames): Frechet video distance; lower is better.\n" in text
    ((one, other),) = tables(text)
    assert one == {
        "method": "lavita-v1", "seed": "0", "FVD ↓": "29.28 (26.35 to 32.21)", "untrained": "309.4",
        "IS ↑": "1.118", "untrained'": "1.051", "clips": "2048", "wall (s)": "68.87",
    }  # fmt: skip
    assert other["FVD ↓"] == "12350 (11110 to 13580)"
    assert "dit-joint-s0: not better than its own untrained start by FVD\n" in text


@pytest.mark.parametrize("length", [20, 45])
def test_a_table_that_is_too_wide_is_cut_by_columns(length):
    label = "lavita-v1-".ljust(length, "x")
    rows = [row for seed in (0, 12) for row in rows_of(label, 123456.7, seed)]
    text = terminal_text(wide(rows, []))
    assert max(map(len, text.splitlines())) <= 100
    parts = tables(text)
    assert len(parts) > 1
    assert all([(line["method"], line["seed"]) for line in part] == [(label, "0"), (label, "12")] for part in parts)
    heads = [name.rstrip("'") for part in parts for name in part[0] if name not in ("method", "seed")]
    assert heads == ["FVD ↓", "untrained", "IS ↑", "untrained", "clips", "wall (s)"]


def test_a_row_that_failed_says_so_and_why_below():
    reason = "RuntimeError: " + "a | very long reason " * 12
    text = terminal_text(wide([*rows_of("dit", 400.0), failed("vdt", reason)], ["dit", "vdt"]))
    assert max(map(len, text.splitlines())) <= 100
    ((_, bad),) = tables(text)
    assert bad["FVD ↓"] == bad["untrained"] == "failed"
    assert f"vdt-s0: failed: {reason.strip()}" in " ".join(text.split())


def test_rows_of_which_the_same_is_to_be_said_share_a_line():
    rows = [row for label in ("a", "b") for row in rows_of(label, 400.0)]
    assert "a-s0, b-s0: not better than its own untrained start by FVD\n" in terminal_text(wide(rows, []))


def test_what_is_known_of_a_row_stands_below_and_not_in_the_csv():
    frame = wide([*rows_of("dit", 400.0), *rows_of("vdt", 5.0), failed("pvdm", "why")], [])
    text = terminal_text(with_notes(frame, dict.fromkeys(("dit", "pvdm"), "a note that is " + "long " * 20)))
    assert max(map(len, text.splitlines())) <= 100
    said = " ".join(text.split())
    assert "dit-s0: not better than its own untrained start by FVD; a note that is long" in said
    assert said.count("a note that is") == 1 and "pvdm-s0: failed: why" in said


def test_rows_that_are_like_noise_are_named_in_lines_that_fit():
    cells = [f"lavita-v{number}-s0" for number in range(12)]
    text = noise_text(cells)
    assert max(map(len, text.splitlines())) <= 100
    assert ", ".join(cells) in " ".join(text.split())


def test_columns_stand_below_each_other():
    lines = [line for line in terminal_text(wide(rows_of("dit", 9.5), [])).splitlines() if line.startswith("|")]
    bars = [[at for at, letter in enumerate(line) if letter == "|"] for line in lines]
    assert len(lines) == 3 and bars[0] == bars[1] == bars[2]
