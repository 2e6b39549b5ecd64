"""Runs as jobs of a real Slurm: the rows are those of this machine whatever the cluster does to the jobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from lavita.console import Display
from lavita.executors.base import Task
from lavita.executors.process import environment_of_processes
from lavita.executors.slurm import SlurmExecutor
from lavita.executors.slurm_options import SlurmOptions
from lavita.results.records import Record, write_record
from lavita.results.rows import Row
from lavita.results.shared import read_shared
from tests.soak.slurm.cluster import Run, rows, started, wait_until, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -e '.[slurm]'")
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def here(base):
    """The results of the same run without Slurm."""
    run = Run(base / "here", os.environ | {"OMP_NUM_THREADS": "1"})
    run.end()
    return run.out


def record(out, cell):
    return json.loads((out / "cells" / cell / "record.json").read_text())


def test_shared_parts_are_fitted_again_in_their_folder(here, tmp_path):
    """As by a job that was requeued when they were half done: the same files."""
    shutil.copytree(here / "shared", tmp_path / "shared")
    (folder,) = (tmp_path / "shared").iterdir()
    before = read_shared(folder)
    command = [sys.executable, "-m", "lavita.experiment.shared", str(folder / "spec.json"), str(folder)]
    subprocess.run(command, check=True, env=environment_of_processes({"OMP_NUM_THREADS": "1"}), timeout=120)
    assert read_shared(folder) == before


def test_jobs_give_the_rows_of_this_machine_never_more_at_once_than_asked(base, cluster, here):
    run = cluster.start(base / "capped", "--workers", "1")
    most = 0
    while run.process.poll() is None:
        most = max(most, len(cluster.running()))
        wait_until(lambda: True, 1, "")
    said = run.end()
    assert most == 1, said
    assert rows(run.out) == rows(here)
    assert "an array of 2" in said and "waiting in the queue: JobArrayTaskLimit" in said and " 0 failed (" in said
    assert not list((run.out / "slurm").glob("*.pkl"))


def test_a_preempted_job_is_requeued_under_its_id_and_ends_undisturbed(base, cluster, here):
    run = cluster.start(base / "preempted")
    run.until_trained("lavita-v1-s0", "dit-s0")
    before = cluster.running()
    cluster.take("--nodelist=node[1-2]", "--nodes=2")
    said = run.end()
    assert rows(run.out) == rows(here)
    assert len(before) == 2 and said.count("waits again") == 2
    for cell in ("lavita-v1-s0", "dit-s0"):
        sessions = record(run.out, cell)["sessions"]
        assert [one["ended"] for one in sessions] == ["interrupted", "ok"]
        assert len({one["job"] for one in sessions}) == 1 and sessions[0]["job"] in before


def test_a_job_is_requeued_before_its_time_limit(base, cluster, here):
    """Of a minute 40 seconds are for the end, so that the signal comes in training, of which there is more than usual:
    after the start of the process, before the last step."""
    longer = ("--methods", "dit", "budget.clips=3840")
    undisturbed = Run(base / "unlimited", os.environ | {"OMP_NUM_THREADS": "1"}, *longer)
    undisturbed.end()
    out = base / "limited"
    run = cluster.start(out, *longer, "--slurm", "time=1", "--slurm", "signal_delay_s=40")
    said = run.end(seconds=480)
    assert "waits again" in said
    assert rows(out, "dit") == rows(undisturbed.out, "dit")
    sessions = record(out, "dit-s0")["sessions"]
    assert sessions[0]["ended"] == "interrupted" and sessions[-1]["ended"] == "ok"
    assert len({one["job"] for one in sessions}) == 1


def test_ctrl_c_ends_the_jobs_and_the_same_command_resumes(base, cluster, here):
    run = cluster.start(base / "interrupted", "--methods", "dit")
    run.until_trained("dit-s0")
    run.process.send_signal(signal.SIGINT)
    assert "the same command resumes" in run.end(130)
    assert not cluster.left()
    first = record(run.out, "dit-s0")
    assert first["status"] == "interrupted" and first["sessions"][0]["ended"] == "interrupted"
    run.go()
    assert "dit-s0: resumes (interrupted at " in run.end()
    assert rows(run.out, "dit") == rows(here, "dit")


def test_a_cancelled_job_says_so_in_its_row_and_the_other_is_ok(base, cluster, here):
    run = cluster.start(base / "cancelled")
    run.until_trained("lavita-v1-s0", "dit-s0")
    cluster.say("scancel", record(run.out, "dit-s0")["sessions"][0]["job"])
    said = run.end(1)
    assert rows(run.out, "lavita-v1") == rows(here, "lavita-v1")
    (row,) = rows(run.out, "dit")
    assert row["status"] == "interrupted" and row["reason"] and "dit-s0: interrupted: " in said


def test_jobs_outlive_a_killed_run_and_no_second_one_works_on_their_runs(base, cluster, here):
    run = cluster.start(base / "killed", "--methods", "dit")
    run.until_trained("dit-s0")
    (job,) = cluster.running()
    cluster.say("scontrol", "suspend", job)  # so that it can't end before the second run has begun
    run.process.kill()
    run.process.wait()
    run.go()
    said = run.end(2)
    cluster.say("scontrol", "resume", job)
    assert "Slurm jobs of an earlier run of this results folder are not finished" in said
    assert "scancel --name=lavita-killed-" in said
    wait_until(lambda: not cluster.left(), 120, "the job to end")
    run.go()
    assert "dit-s0: finished before" in run.end()
    assert rows(run.out, "dit") == rows(here, "dit")


def test_a_job_of_two_nodes_stops_on_both_and_resumes(base, cluster, monkeypatch):
    """Processes that count 3 a step together, asked to go by a job that wants the second node alone."""
    for key in ("PATH", "SLURM_CONF", "MASTER_ADDR", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(key, cluster.environment[key])
    folder = base / "together" / "cells" / "count"
    write_record(folder, Record(cell="count", label="count", status="queued", row=Row()))
    (folder / "progress").mkdir()
    task = Task("count", "", folder, "tests.soak.slurm.together", (str(folder),), 1, nodes=2)

    def take() -> None:
        log = folder / "log.txt"
        wait_until(lambda: log.is_file() and '"done": 5,' in log.read_text(), 60, "some steps")
        cluster.take("--nodelist=node2")

    threading.Thread(target=take, daemon=True).start()
    executor = SlurmExecutor(base / "together" / "slurm", None, SlurmOptions(), 60.0, Display())
    (ended,) = executor.run([task])
    log = (folder / "log.txt").read_text()
    assert ended.status == "ok" and log.count('"status": "interrupted"') == 1, log
    found = json.loads((folder / "counted.json").read_text())
    assert found["total"] == 3 * 40 and found["ranks"] == ["2", "1", "0"]
    assert [f'"done": {step},' in log for step in (5, 40)] == [True, True] and log.count('"done": 5,') == 1
    assert not (folder / "progress").exists()  # with the logs of the other ranks: the task is finished


def test_a_job_of_two_nodes_is_preempted_and_ends_undisturbed(base, cluster):
    """Two processes sum gradients in another order than one, so both runs are of two."""
    runs = {}
    for name in ("two-nodes", "two-nodes-preempted"):
        run = runs[name] = cluster.start(base / name, "--methods", "dit", "compute.nodes=2")
        if name != "two-nodes":
            run.until_trained("dit-s0")
            cluster.take("--nodelist=node2", "--nodes=1")
            assert "waits again" in run.end()
        else:
            run.end()
    sessions = record(base / "two-nodes-preempted", "dit-s0")["sessions"]
    assert [one["ended"] for one in sessions] == ["interrupted", "ok"]
    assert rows(base / "two-nodes") == rows(base / "two-nodes-preempted")


def test_preemption_by_sigterm_alone(base, cluster, here):
    """Without preempt_send_user_signal, as on many clusters. Last: it changes the cluster."""
    cluster.change("preempt_send_user_signal", "reboot_from_controller")
    run = cluster.start(base / "terminated", "--methods", "dit")
    run.until_trained("dit-s0")
    cluster.take("--nodelist=node[1-2]", "--nodes=2")
    assert "waits again" in run.end()
    assert rows(run.out, "dit") == rows(here, "dit")
    assert [one["ended"] for one in record(run.out, "dit-s0")["sessions"]] == ["interrupted", "ok"]
