"""What becomes of a run when a command is given: every case with its words, on records written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lavita.config.plan import make_plan
from lavita.lock import Held
from lavita.results.attempts import finalize_record, new_attempt
from lavita.results.records import STATUSES, UNFINISHED, Record, Session, read_record, write_record
from lavita.results.rows import Row
from lavita.results.run_folder import RunPlan
from lavita.suite import run_experiments
from lavita.suite.decide import BEGIN, FINISHED, LEAVE, RESUME, Decision, decide, difference, identity, made_from
from lavita.suite.run_experiments import Options

SOURCE = Path(__file__).resolve().parents[2] / "src"
PARTS = {
    "configuration": "c", "code": "k", "libraries": "l", "data": "d", "codec": "o", "feature network": "f",
    "protocol": "p", "external weights": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def experiment():
    (experiment,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], [])
    return experiment


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cells"


def attempt(folder: Path, experiment: Any, status: str, parts: dict[str, str] = PARTS, **more: Any) -> Path:
    """An attempt at a run as it lies there."""
    record = Record(
        cell=experiment.cell,
        label=experiment.label,
        status=status,
        identity=identity(parts),
        made_from=dict(parts),
        config=json.loads(json.dumps(asdict(experiment))),
        row=Row(started_at="2026-01-02T03:04:05+00:00"),
    )
    return new_attempt(folder, experiment.cell, lambda path: write_record(path, replace(record, **more)))


def test_nothing_there(folder, experiment):
    assert decide(folder, experiment, PARTS, fresh=False, retry=False) == Decision(BEGIN, None, "")
    folder.mkdir()
    assert decide(folder, experiment, PARTS, fresh=True, retry=True) == Decision(BEGIN, None, "")
    (folder / f"{experiment.cell}.2").mkdir()  # no record in it
    assert decide(folder, experiment, PARTS, fresh=False, retry=False).action == BEGIN


@pytest.mark.parametrize("retry", [False, True])
def test_finished_with_the_same(folder, experiment, retry):
    done = attempt(folder, experiment, "ok")
    words = "finished before with the same code, configuration, data, weights and protocol"
    assert decide(folder, experiment, PARTS, fresh=False, retry=retry) == Decision(FINISHED, done, words)


def test_the_newest_that_is_finished_counts(folder, experiment):
    attempt(folder, experiment, "ok")
    newest = attempt(folder, experiment, "ok")
    attempt(folder, experiment, "failed")
    attempt(folder, experiment, "interrupted")
    assert decide(folder, experiment, PARTS, fresh=False, retry=True).folder == newest


def test_fresh_begins_whatever_is_there(folder, experiment):
    for status in STATUSES:
        attempt(folder, experiment, status)
        found = decide(folder, experiment, PARTS, fresh=True, retry=False)
        assert found == Decision(BEGIN, None, "from the start, as asked (--fresh)")


@pytest.mark.parametrize("part", [part for part in PARTS if part != "configuration"])
@pytest.mark.parametrize("status", ["ok", "interrupted", "failed", "diverged"])
def test_made_from_something_else(folder, experiment, part, status):
    attempt(folder, experiment, status, PARTS | {part: "another"})
    found = decide(folder, experiment, PARTS, fresh=False, retry=False)
    assert found == Decision(BEGIN, None, f"run again: {part} changed since 2026-01-02T03:04:05+00:00")


def test_another_configuration_says_the_keys(folder, experiment):
    other = replace(
        experiment, train=replace(experiment.train, learning_rate=0.5), sampling=replace(experiment.sampling, steps="7")
    )
    attempt(folder, other, "ok", PARTS | {"configuration": "another", "code": "another"})
    said = decide(folder, experiment, PARTS, fresh=False, retry=False).why
    keys = [
        f"train.learning_rate: 0.5 -> {experiment.train.learning_rate}",
        f"sampling.steps: 7 -> {experiment.sampling.steps}",
    ]
    assert said == f"run again: configuration ({', '.join(keys)}), code changed since 2026-01-02T03:04:05+00:00"


def test_a_configuration_that_nobody_can_read_any_more(folder, experiment):
    attempt(folder, experiment, "ok", PARTS | {"configuration": "another"}, config={"of": "long ago"})
    assert "run again: configuration changed" in decide(folder, experiment, PARTS, fresh=False, retry=False).why
    assert (
        difference(experiment, PARTS, Record(cell="x-s0", label="x", status="ok", row=Row()))
        == "the record does not say what it was made from"
    )


def test_an_older_one_of_the_same_counts_before_a_newer_one_of_another_setting(folder, experiment):
    mine = attempt(folder, experiment, "ok")
    attempt(folder, experiment, "ok", PARTS | {"code": "another"})
    assert decide(folder, experiment, PARTS, fresh=False, retry=False).folder == mine
    other = decide(folder, experiment, PARTS | {"data": "others"}, fresh=False, retry=False)
    assert other.why.startswith("run again: code, data changed")  # compared with the newest


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("status", UNFINISHED)
def test_unfinished_resumes(folder, experiment, status, retry):
    mine = attempt(folder, experiment, status)
    why = "" if status == "queued" else f"resumes ({status})"
    assert decide(folder, experiment, PARTS, fresh=False, retry=retry) == Decision(RESUME, mine, why)
    first = Session("host", 1, "", "a machine", "python 3", "2026-01-02T03:04:05+00:00", ended="killed")
    last = replace(first, stage="train", done=1280.0, ended="")
    write_record(mine, replace(read_record(mine), status="running", sessions=(first, last)))
    assert decide(folder, experiment, PARTS, fresh=False, retry=retry).why == "resumes (running at train 1280)"


@pytest.mark.parametrize("status", ["failed", "diverged", "over_budget"])
def test_what_ended_badly_is_left_unless_asked_for(folder, experiment, status):
    mine = attempt(folder, experiment, status, reason="loss is nan at step 3")
    left = decide(folder, experiment, PARTS, fresh=False, retry=False)
    assert left == Decision(LEAVE, mine, f"{status} before: loss is nan at step 3; --retry-failed runs it again")
    again = decide(folder, experiment, PARTS, fresh=False, retry=True)
    said = f"{status} before: loss is nan at step 3"
    if status == "failed":
        assert again == Decision(RESUME, mine, f"resumes ({said})")
    else:  # the same again would come to the same end
        assert again == Decision(BEGIN, None, f"from the start ({said})")


HOLDER = """
import sys
from lavita.lock import FolderLock
with FolderLock(sys.argv[1], what="the process of a run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_attempt_that_a_living_process_has(folder, experiment):
    """Its run is gone, but it still works: nobody else may."""
    mine = attempt(folder, experiment, "running")
    (mine / "progress").mkdir()
    words = [sys.executable, "-c", HOLDER, str(mine / "progress" / ".lock")]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Held, match=rf"in use by the process of a run on .* \(pid {holder.pid}, since "):
            decide(folder, experiment, PARTS, fresh=False, retry=False)
        holder.kill()
        holder.wait()
    assert decide(folder, experiment, PARTS, fresh=False, retry=False).action == RESUME


def test_a_record_that_was_cut_is_one_line(folder, experiment):
    mine = attempt(folder, experiment, "interrupted")
    content = (mine / "record.json").read_text()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        (mine / "record.json").write_text(content[:length])
        with pytest.raises(ValueError, match=r"record.json: not a record \(.*\); remove the run's folder to run it"):
            decide(folder, experiment, PARTS, fresh=False, retry=False)


def test_identity_is_of_all_parts():
    assert len({identity(PARTS), *(identity(PARTS | {part: "x"}) for part in PARTS)}) == len(PARTS) + 1


def test_what_a_run_is_made_from(experiment):
    catalogue = SimpleNamespace(fingerprint="prints")
    values = SimpleNamespace(codec_hash="", extractor_hash="e", protocol_hash="p")
    shared = SimpleNamespace(
        values=values, external={}, flops={}, group=SimpleNamespace(source=SimpleNamespace(catalogue=catalogue))
    )
    found = made_from(experiment, shared)
    assert list(found) == list(PARTS) and found["data"] == "prints" and found["codec"] == ""
    assert found == made_from(replace(experiment, checkpoint=replace(experiment.checkpoint, every_clips=1)), shared)
    assert found != made_from(replace(experiment, seed=1), shared)


@pytest.fixture
def work(tmp_path):
    lines: list[str] = []
    executor = SimpleNamespace(run=lambda tasks, done: [])
    return SimpleNamespace(folder=tmp_path, executor=executor, display=SimpleNamespace(line=lines.append), lines=lines)


def run_one(work: Any, monkeypatch: Any, job: run_experiments.Job) -> int:
    return run_all(work, monkeypatch, [job])


def run_all(work: Any, monkeypatch: Any, jobs: list[run_experiments.Job]) -> int:
    """`run_experiments` on jobs whose processes nobody starts."""
    monkeypatch.setattr(run_experiments, "planned", lambda *_: jobs)
    plan = RunPlan("ucf101", "demo", "title", (), False, {}, ())
    monkeypatch.setattr(run_experiments, "plan_of", lambda *_: plan)
    return run_experiments.run_experiments(work, [], Options())


def test_the_run_that_costs_most_begins_first_and_equal_ones_keep_their_order(work, folder, monkeypatch):
    flops = {"lavita-v1": 2.0, "dit": 2.0, "pvdm": 5.0}  # VDT's are not known
    shared, jobs = SimpleNamespace(folder=folder, flops=flops), []
    for one in make_plan("ucf101", "demo", ["lavita-v1", "dit", "vdt", "pvdm"], [0], []):
        mine = attempt(folder, one, "interrupted", reason="stopped from outside")
        jobs.append(run_experiments.Job(one.cell, one, shared, PARTS, Decision(RESUME, mine, "resumes")))
    begun: list[str] = []
    work.executor.run = lambda tasks, done: begun.extend(task.title for task in tasks)
    run_all(work, monkeypatch, jobs)
    assert begun == ["pvdm-s0", "lavita-v1-s0", "dit-s0", "vdt-s0"]


def test_a_run_whose_suite_was_killed_before_it_was_finalized_is_finalized_late(work, experiment, folder, monkeypatch):
    mine = attempt(folder, experiment, "ok")
    (mine / "steps.csv").write_text("stage\n")
    (mine / ".record.json.123.part").write_text("half")
    (mine / "progress").mkdir()
    job = run_experiments.Job("t", experiment, None, PARTS, decide(folder, experiment, PARTS, fresh=False, retry=False))
    assert run_one(work, monkeypatch, job) == 0
    assert list(read_record(mine).files) == ["steps.csv"]
    assert sorted(path.name for path in mine.iterdir()) == ["record.json", "steps.csv"]
    assert work.lines == [f"t: {job.decision.why}"]


def test_a_finalized_one_stays_as_it_is(work, experiment, folder, monkeypatch):
    mine = attempt(folder, experiment, "ok")
    finalize_record(mine)
    (mine / "added").write_text("later")
    job = run_experiments.Job("t", experiment, None, PARTS, decide(folder, experiment, PARTS, fresh=False, retry=False))
    assert run_one(work, monkeypatch, job) == 0
    assert read_record(mine).files == {}  # for the audit to find


def test_what_resumes_is_no_longer_finalized(work, experiment, folder, monkeypatch):
    """Else a suite killed just before it finalizes the finished run would leave the hashes of its unfinished files."""
    mine = attempt(folder, experiment, "interrupted", reason="stopped from outside")
    finalize_record(mine)
    (mine / "config.yaml").write_text("cut o")
    shared = SimpleNamespace(folder=folder, flops={})
    job = run_experiments.Job("t", experiment, shared, PARTS, Decision(RESUME, mine, "resumes"))
    assert run_one(work, monkeypatch, job) == 1  # queued is not ok
    record = read_record(mine)
    assert record.files is None and (record.status, record.reason) == ("queued", "")
    assert "learning_rate" in (mine / "config.yaml").read_text()


def test_what_is_left_counts_as_bad(work, experiment, folder, monkeypatch):
    mine = attempt(folder, experiment, "diverged", reason="loss is nan")
    before = (mine / "record.json").read_bytes()
    job = run_experiments.Job("t", experiment, None, PARTS, decide(folder, experiment, PARTS, fresh=False, retry=False))
    assert run_one(work, monkeypatch, job) == 1
    assert (mine / "record.json").read_bytes() == before


def test_nothing_slow_is_imported_here():
    code = "import sys, lavita.suite.decide, lavita.suite.run\n"
    code += "assert not {'torch', 'scipy.stats'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(SOURCE)})
