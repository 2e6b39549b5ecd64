"""Attempts beside each other, which of them counts, and what is read of a results folder."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lavita.results.attempts import attempts, changed_files, files_of, finalize_record, new_attempt, part_of
from lavita.results.records import Record, read_record, write_record
from lavita.results.rows import Row
from lavita.results.run_folder import PlannedRun, RunPlan, read_run, write_plan
from lavita.results.shared import read_shared


def record(cell: str, status: str, identity: str, comparison: str = "c") -> Record:
    return Record(
        cell=cell, label=cell.rpartition("-s")[0], status=status, reason="why" if status != "ok" else "",
        identity=identity, comparison=comparison, shared="k", row=Row(seed=0),
    )  # fmt: skip


def fill(part) -> None:
    """An attempt is there with its files, or not at all; without one two renamed at once would fall into one."""
    (part / "config.yaml").touch()


@pytest.fixture
def folder(tmp_path):
    cells = {"dit-s0": PlannedRun("dit", "new")}
    write_plan(tmp_path, RunPlan("ucf101", "demo", "title", ("dit", "vdt"), False, cells, comparisons=("c",)))
    return tmp_path


def attempt(folder, cell, status, identity, comparison="c"):
    path = new_attempt(folder / "cells", cell, fill)
    write_record(path, record(cell, status, identity, comparison))
    return path


def test_attempts_are_numbered_and_never_reused(tmp_path):
    assert [new_attempt(tmp_path, "dit-s0", fill).name for _ in range(3)] == ["dit-s0", "dit-s0.2", "dit-s0.3"]
    assert part_of(tmp_path / "dit-s0.3") == ("dit-s0", 3) and part_of(tmp_path / "dit-s0") == ("dit-s0", 1)
    new_attempt(tmp_path, "dit-s01", fill)
    for number in range(4, 12):
        assert new_attempt(tmp_path, "dit-s0", fill).name == f"dit-s0.{number}"
    assert [path.name for path in attempts(tmp_path, "dit-s0")][-2:] == ["dit-s0.10", "dit-s0.11"]


def test_two_that_ask_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_attempt(tmp_path, "dit-s0", fill), range(40)))
    assert len(set(made)) == 40


def test_the_newest_that_completed_under_the_plan_counts(folder):
    attempt(folder, "dit-s0", "ok", "old")
    good = attempt(folder, "dit-s0", "ok", "new")
    attempt(folder, "dit-s0", "failed", "new")
    run = read_run(folder)
    assert [one.name for one in run.attempts] == [good.name]
    why = {one.name: one.left_out for one in run.others}
    assert why == {"dit-s0": "made under another setting", "dit-s0.3": "failed: why"}
    newest = attempt(folder, "dit-s0", "ok", "new")
    run = read_run(folder)
    assert [one.name for one in run.attempts] == [newest.name]
    assert {one.name: one.left_out for one in run.others}[good.name] == f"superseded by {newest.name}"


def test_a_failed_run_stands_in_the_table_where_none_completed(folder):
    attempt(folder, "dit-s0", "ok", "old")
    failed = attempt(folder, "dit-s0", "failed", "new")
    assert [one.name for one in read_run(folder).attempts] == [failed.name]


def test_a_run_beside_the_plan_counts_under_its_setting_only(folder):
    attempt(folder, "vdt-s0", "ok", "x")
    attempt(folder, "pvdm-s0", "ok", "x", comparison="another")
    attempt(folder, "lavita-v1-s0", "failed", "x")
    run = read_run(folder)
    assert [one.name for one in run.attempts] == ["vdt-s0"]
    assert {one.name for one in run.others} == {"pvdm-s0", "lavita-v1-s0"}


def test_a_seal_knows_every_file(tmp_path):
    write_record(tmp_path, record("dit-s0", "ok", "x"))
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.mkv").write_bytes(b"a")
    finalize_record(tmp_path)
    values = read_record(tmp_path)
    assert list(values.files) == ["samples/a.mkv"] and changed_files(tmp_path, values) == []
    (tmp_path / "samples" / "a.mkv").write_bytes(b"b")
    (tmp_path / "b").write_bytes(b"")
    found = {change.file: (change.recorded is None, change.found is None) for change in changed_files(tmp_path, values)}
    assert found == {"samples/a.mkv": (False, False), "b": (True, False)}
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with pytest.raises(ValueError, match="is a link"):
        files_of(tmp_path)


def test_paths_of_shared_parts_do_not_leave_their_folder(tmp_path):
    values = {"real": "../real.npz", "extractor": None, "codec": None, "splits": {"train": "train.npz"}}
    (tmp_path / "shared.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="wanted the name of a file beside it"):
        read_shared(tmp_path)


def test_no_results_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no run.json, so this is no results folder"):
        read_run(tmp_path)
