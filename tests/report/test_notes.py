"""What stands below a run's table."""

from __future__ import annotations

from dataclasses import replace

from lavita.report.write import tables_of_run
from lavita.results.run_folder import AbsentSystem, read_plan, read_run, write_plan
from tests.report.folder_of_run import make_run


def test_systems_that_are_not_built_are_named_in_the_main_table(tmp_path):
    folder = make_run(tmp_path / "out")
    absent = (
        AbsentSystem("lvdm", "LVDM", "https://arxiv.org/abs/2211.13221"),
        AbsentSystem("diffpose", "DiffPose", "", left_out="makes no video"),
    )
    write_plan(folder, replace(read_plan(folder), not_yet=absent))
    text = tables_of_run(read_run(folder)).texts["table.md"]
    assert "* lvdm: not yet. LVDM https://arxiv.org/abs/2211.13221\n* diffpose: makes no video. DiffPose\n" in text
