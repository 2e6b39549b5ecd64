"""What stands below a run's table."""

from __future__ import annotations

import json

from lavita.report.write import tables_of_run
from lavita.results.run_folder import read_run
from tests.report.folder_of_run import make_run


def test_systems_that_are_not_built_are_named_in_the_main_table(tmp_path):
    folder = make_run(tmp_path / "out")
    plan = json.loads((folder / "run.json").read_text())
    plan["not_yet"] = [
        {"name": "lvdm", "title": "LVDM", "source": "https://arxiv.org/abs/2211.13221", "left_out": ""},
        {"name": "diffpose", "title": "DiffPose", "source": "", "left_out": "makes no video"},
    ]
    (folder / "run.json").write_text(json.dumps(plan))
    text = tables_of_run(read_run(folder)).texts["table.md"]
    assert "* lvdm: not yet. LVDM https://arxiv.org/abs/2211.13221\n* diffpose: makes no video. DiffPose\n" in text
