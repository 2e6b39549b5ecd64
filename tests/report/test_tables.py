"""Ledger and tables: the columns that other programs read, failed runs, remarks, and what may not share a table."""

import csv
import io
import json
from dataclasses import replace

import pytest

from lavita.files import atomic_write_text
from lavita.report.tables import wide
from lavita.report.write import tables_of
from lavita.results.records import Record, read_record, rows_of, write_record
from lavita.results.rows import COLUMNS, Row, write_rows
from lavita.results.scores import Score

# Spelled out again on purpose: other programs read these columns in this order (fairness rules, section "Row").
EXPECTED = """
suite tier cell method dataset data_fingerprint division conditioning guidance seed stage metric value unit
lower_is_better ci_low ci_high ci_kind n_real n_generated protocol protocol_hash extractor extractor_hash sampler nfe
clips_seen train_flops wall_seconds accelerator_seconds peak_bytes params_trained params_total external_bytes
sampling_seconds_per_clip status reason config_hash weights_hash commit dirty hardware versions started_at""".split()


DIGEST = "d" * 64


def score(stage, value, metric="fvd_embedded_n8_f8", lower=True):
    return Score(stage=stage, metric=metric, value=value, unit="u", lower_is_better=lower)


def record(method="dit", status="ok", scores=(), **row):
    base = {
        "suite": "ucf101", "tier": "demo", "cell": f"{method}-s0", "method": method, "dataset": "ucf101 (x, 3 videos)",
        "protocol": "P", "protocol_hash": "p", "guidance": 1.0,
        "data_fingerprint": "f", "division": "closed", "conditioning": "none", "seed": 0,
        "clips_seen": 64, "train_flops": 10**12, "wall_seconds": 2.0,
    }  # fmt: skip
    return Record(
        cell=f"{method}-s0",
        label=method,
        status=status,
        reason="" if status == "ok" else "why",
        row=Row(**base | row),
        scores=tuple(scores),
    )


def test_columns():
    assert list(COLUMNS) == EXPECTED


def test_rows_csv(tmp_path):
    rows = rows_of(record(scores=[score("untrained", 9.5), score("train", 1 / 3)]))
    write_rows(tmp_path / "rows.csv", rows)
    with open(tmp_path / "rows.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == EXPECTED
    assert [row["stage"] for row in read] == ["untrained", "train"]
    assert float(read[1]["value"]) == 1 / 3
    assert read[1]["lower_is_better"] == "true"
    assert (read[0]["clips_seen"], read[1]["clips_seen"]) == ("0", "64")


def test_a_run_that_is_not_ok_has_one_row_with_the_reason():
    (row,) = rows_of(record(status="failed", scores=[score("train", 1.0)]))
    assert (row.metric, row.value, row.status, row.reason) == ("", None, "failed", "why")


def test_remark_when_training_did_not_help():
    good = record("dit", scores=[score("untrained", 9.0), score("train", 1.0)])
    bad = record("vdt", scores=[score("untrained", 1.0), score("train", 9.0)])
    inception = [score("untrained", 2.0, "is_n8_f8", False), score("train", 1.0, "is_n8_f8", False)]
    low = record("pvdm", scores=inception)
    rows = [row for one in (good, bad, low) for row in rows_of(one)]
    texts, ((_, frame),) = tables_of(rows, ["pvdm", "dit", "vdt"], {}, DIGEST)
    remarks = dict(zip(frame["method"], frame["remark"], strict=True))
    assert list(frame["method"]) == ["pvdm", "dit", "vdt"]
    assert remarks["dit"] == ""
    assert "not better" in remarks["vdt"] and "not better" in remarks["pvdm"]
    assert texts["table.md"].count("not better") == 2


def test_remark_when_a_task_beside_does_as_well():
    values = {"temporal": (1.0, 2.0), "useless": (2.0, 2.0)}
    rows = [
        row
        for name, (trained, alone) in values.items()
        for row in rows_of(
            record(name, scores=[score("untrained", 3), score("train", trained), score("frames", alone)])
        )
    ]
    frame = wide(rows, list(values))
    remarks = dict(zip(frame["method"], frame["remark"], strict=True))
    assert remarks == {
        "temporal": "",
        "useless": "not better than its frames made each by itself by fvd_embedded_n8_f8",
    }


def first_stage(psnr, average, stage="codec"):
    return [score(stage, psnr, "psnr_n32_f8", False), score(stage, average, "psnr_average4x4_n32_f8", False)]


def test_a_row_says_what_the_size_of_a_small_tier_costs_it():
    """Of 1, 1, 2.1 and 0.4 TFLOPs the middle is 1; 23.9 dB are not 3 above 20.9, 23.95 are."""
    rows = {
        "dit": record("dit", scores=[score("train", 1.0), *first_stage(23.95, 20.9)]),
        "vdt": record("vdt", scores=[score("train", 1.0), *first_stage(23.85, 20.9)]),
        "big": record("big", scores=[score("train", 1.0)], train_flops=2.1e12),
        "pvdm": record("pvdm", scores=[score("train", 1.0), *first_stage(19.5, 20.9, "autoencoder")], train_flops=4e11),
        "failed": record("failed", status="failed", train_flops=1.0),
    }

    def remarks(**row):
        frame = wide([replace(line, **row) for one in rows.values() for line in rows_of(one)], [])
        return dict(zip(frame["method"], frame["remark"], strict=True))

    found, times = remarks(), "times the training FLOPs that the table's methods have in the middle"
    weak = "at this size its first stage reconstructs {} dB, averages of 4x4 pixels 20.9"
    assert found["dit"] == "" and found["vdt"] == weak.format("23.9") and found["big"] == f"at this size 2.1 {times}"
    assert found["pvdm"] == f"{weak.format('19.5')}; at this size 0.4 {times}" and found["failed"] == "failed: why"
    choice = replace(rows["big"], row=replace(rows["big"].row, cell="big-wide-s0"))  # whose size is the point
    frame = wide([line for one in (*list(rows.values())[:2], choice) for line in rows_of(one)], [])
    assert dict(zip(frame["method"], frame["remark"], strict=True))["big-wide"] == ""
    assert set(remarks(tier="paper").values()) == {"", "failed: why"}


def test_failed_run_stands_in_the_table_with_its_reason():
    rows = rows_of(record("dit", scores=[score("train", 1.0)])) + rows_of(record("vdt", status="diverged"))
    frame = wide(rows, ["dit", "vdt"])
    assert list(frame["status"]) == ["ok", "diverged"]
    assert frame["remark"][1] == "diverged: why"


@pytest.mark.parametrize("column", ["protocol_hash", "data_fingerprint", "conditioning", "guidance", "division"])
def test_what_can_not_be_compared_shares_no_table(column):
    rows = rows_of(record("dit", scores=[score("train", 1.0)])) + rows_of(
        record("vdt", scores=[score("train", 2.0)], **{column: "other"})
    )
    with pytest.raises(ValueError, match=column):
        wide(rows, [])


def test_blocks_share_no_column():
    """Two protocols in one folder: two tables, and in the CSV a column of each, with a reason where it says nothing."""
    one = record("dit", scores=[score("untrained", 9.0), score("train", 1.0)])
    other = record("vdt", scores=[score("train", 2.0)], protocol_hash="q", protocol="Q")
    texts, tables = tables_of([row for r in (one, other) for row in rows_of(r)], ["dit", "vdt"], {}, DIGEST)
    own, elsewhere = "fvd_embedded_n8_f8 ↓", "fvd_embedded_n8_f8 ↓ [closed; none; guidance 1.0; Q]"
    reader = csv.DictReader(io.StringIO(texts["table.csv"]))
    first, second = reader
    no = "another block"
    assert (first[own], first[elsewhere], second[own], second[elsewhere]) == ("1.0", no, no, "2.0")
    assert reader.fieldnames[-1] == "remark" and [facts.count("protocol Q") for facts, _ in tables] == [0, 1]
    text = texts["table.md"]
    assert text.count("| method | seed |") == 2 and "protocol Q (q)" in text


def test_a_choice_stands_in_the_table_under_its_own_name():
    rows = rows_of(record("dit", cell="dit-joint-s0", scores=[score("train", 1.0)]))
    assert list(wide(rows, [])["method"]) == ["dit-joint"]


def test_records_are_written_whole(tmp_path):
    write_record(tmp_path, record())
    assert read_record(tmp_path) == record()
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    with pytest.raises(ValueError, match="allowed queued"):
        write_record(tmp_path, record(status="fine"))
    atomic_write_text(tmp_path / "record.json", json.dumps({})[:1])
    with pytest.raises(ValueError, match="not a record"):
        read_record(tmp_path)
    assert read_record(tmp_path / "nowhere") is None
