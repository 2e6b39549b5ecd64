"""Losses on the axis of the budget: stages in order, the autoencoder's from the shared folder, logs cut short."""

import json
import xml.etree.ElementTree as ET

import pytest

from lavita.report.charts import FLOPS, quality_cost, seconds_cost, trained_rows, training_seconds
from lavita.report.loss_chart import LEFT, RIGHT, WIDTH, loss_chart
from lavita.report.write import tables_of_run
from lavita.results.attempts import finalize_record
from lavita.results.records import Record, rows_of
from lavita.results.rows import Row
from lavita.results.run_folder import read_run
from lavita.results.training_log import averaged, logged, losses_of
from tests.report.folder_of_run import make_run


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "out")


def losses(folder, method):
    run = read_run(folder)
    return losses_of(run, next(one for one in run.attempts if one.record.label == method))


def test_stages_follow_each_other_and_the_codec_comes_first(folder):
    found = losses(folder, "dit")
    assert [(stage.name, stage.start, stage.clips) for stage in found.stages] == [
        ("codec", 0, 512),
        ("train", 512, 1536),
    ]
    codec, train = found.stages
    assert codec.train[:2] == [(8, 1.0), (16, 0.5)] and len(codec.train) == 64  # logged at every step there
    assert [clips for clips, _ in train.train] == [80, 160, 240, 320, 400, 480]  # and here at every tenth
    assert train.heldout == [(0, 1.0), (768, 0.5), (1536, 0.25)] and not codec.heldout


def test_a_method_with_its_own_first_stage_has_no_codec(folder):
    found = losses(folder, "pvdm")
    assert [stage.start for stage in found.stages] == [0, 800, 904]
    assert found.stages[-1].start + found.stages[-1].clips == found.budget == 2048


def test_a_run_that_failed_has_the_losses_up_to_there(folder):
    found = losses(folder, "vdt")
    assert found.remark.startswith("failed: the log ends there")
    assert [(stage.name, stage.clips, len(stage.train)) for stage in found.stages] == [("train", 480, 6)]


def test_losses_that_are_not_finite_are_left_out_and_said(folder):
    cell = folder / "cells" / "dit-s0"
    (cell / "steps.csv").write_text("stage,step,clips_seen,seconds,loss\ntrain,10,80,1.0,0.5\ntrain,20,160,2.0,nan\n")
    finalize_record(cell)
    found = losses(folder, "dit")
    assert found.stages[1].train == [(80, 0.5)] and "not finite" in found.remark


def test_without_a_log_there_is_nothing_to_draw(folder):
    for path in [*folder.glob("cells/*/steps.csv"), *folder.glob("shared/*/codec/steps.csv")]:
        path.unlink()
    record = json.loads((folder / "cells/dit-s0/record.json").read_text())
    (folder / "cells/dit-s0/record.json").write_text(json.dumps(record | {"heldout_losses": []}))
    assert losses(folder, "dit") is None and logged(folder / "nowhere") == {}


def test_long_logs_are_averaged_without_losing_their_mean():
    values = [(float(i), float(i % 7)) for i in range(1, 1001)]
    short = averaged(values, most=100)
    assert len(short) == 100 and short[-1][0] == 1000
    assert sum(loss for _, loss in short) / 100 == pytest.approx(sum(loss for _, loss in values) / 1000)
    assert averaged(values[:50], most=100) == values[:50] and averaged([], most=100) == []


def test_the_chart_puts_clips_where_they_belong(folder):
    root = ET.fromstring(loss_chart(losses(folder, "dit"), "one"))
    dots = [float(circle.get("cx")) for circle in root.iter("circle") if circle.get("class") == "heldout"]
    width = WIDTH - LEFT - RIGHT
    wanted = [LEFT + width * share for share in (0.25, 0.625, 1.0)]  # 512, 512 + 768 and 2048 of 2048 clips
    assert dots == pytest.approx(wanted, abs=0.06)
    assert "Stage 2, train, 1,536 clips: training loss" in root.findtext("desc")
    assert "vertical: loss, logarithmic" in root.findtext("desc")


def test_a_loss_below_zero_takes_an_even_axis(folder):
    cell = folder / "cells" / "dit-s0"
    (cell / "steps.csv").write_text("stage,step,clips_seen,seconds,loss\ntrain,10,80,1.0,-0.5\ntrain,20,160,2.0,1\n")
    finalize_record(cell)
    assert "loss, linear" in loss_chart(losses(folder, "dit"), "one")


def test_seconds_are_those_of_all_stages_and_intervals_are_the_rows(folder):
    run = read_run(folder)
    (rows,) = trained_rows([row for record in run.records for row in rows_of(record)])
    drawn = quality_cost(rows, seconds_cost(run.records), "title")
    assert "dit: 20.00, 33.33 (28.33 to 38.33); pvdm: 36.00, 133.3 (128.3 to 138.3)" in drawn
    assert "dit: 2.000, 33.33" in quality_cost(rows, FLOPS, "title")
    assert training_seconds(Record(cell="x-s0", label="x", status="ok", row=Row())) is None
    texts = tables_of_run(run).texts
    assert texts["quality_cost.svg"] == quality_cost(rows, FLOPS, "UCF101 & more")
