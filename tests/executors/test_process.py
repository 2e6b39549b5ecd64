"""Processes of a run: their environment, and that all of them can be ended."""

import threading
import time

import pytest

from lavita.console import Display
from lavita.data.ahead import usable_cores
from lavita.executors import base
from lavita.executors.base import LocalExecutor, Task, default_workers, environment_of
from lavita.executors.process import Interrupted, Launcher


def test_a_process_has_its_own_environment_and_log(tmp_path, monkeypatch):
    (tmp_path / "talks.py").write_text(
        "import os\nfrom lavita.executors.heartbeat import Result, emit\nprint('words')\n"
        "emit(Result('ok', os.environ['OMP_NUM_THREADS']))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    events, launcher = [], Launcher()
    ended = launcher.run("talks", [], tmp_path / "log.txt", events.append, {"OMP_NUM_THREADS": "3"})
    assert (ended.code, ended.reason) == (0, "3") and len(events) == 1 and not launcher.running
    assert (tmp_path / "log.txt").read_text().startswith("words\n")


def test_a_warning_of_slurm_does_not_end_a_process_that_begins(tmp_path, monkeypatch):
    """Its USR2 goes to every process of a job; by default it ends one that has not said otherwise."""
    (tmp_path / "begins.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGUSR2)\n"
        "from lavita.executors.heartbeat import Result, emit\nemit(Result('ok', 'still here'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = Launcher().run("begins", [], tmp_path / "log.txt", lambda _: None, {})
    assert (ended.code, ended.reason) == (0, "still here")


def test_stop_ends_every_process(tmp_path):
    """`python -m http.server` runs for ever; stop ends it, and its `run` says so."""
    launcher, outcome = Launcher(), []

    def call() -> None:
        try:
            launcher.run("http.server", ["0", "--bind", "127.0.0.1"], tmp_path / "log.txt", lambda _: None, {})
        except Interrupted:
            outcome.append("interrupted")

    thread = threading.Thread(target=call)
    thread.start()
    for _ in range(200):
        if launcher.running:
            break
        time.sleep(0.05)
    (process,) = launcher.running
    launcher.stop()
    thread.join(timeout=20)
    assert outcome == ["interrupted"] and process.poll() is not None
    with pytest.raises(Interrupted):
        launcher.run("http.server", ["0"], tmp_path / "log.txt", lambda _: None, {})


def test_a_process_without_a_heartbeat_is_killed_as_hung(tmp_path):
    """`python -m http.server` says nothing of itself."""
    (tmp_path / "heartbeat.json").write_text('{"stage": "train", "done": 8, "beats": 1, "seconds": 1, "peak_bytes": 1}')
    ended = Launcher(hang_timeout=0.6).run(
        "http.server",
        ["0", "--bind", "127.0.0.1"],
        tmp_path / "log.txt",
        lambda _: None,
        {},
        tmp_path / "heartbeat.json",
    )
    assert (ended.code, ended.status) == (-9, "failed")
    assert ended.reason == "no heartbeat for 0.01 minutes at train 8: ended as hung (--hang-timeout)"


def test_runs_at_once(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_workers(1) == usable_cores() and default_workers(10**6) == 1
    assert environment_of(5, 2) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert default_workers(1) == 2
    assert [environment_of(worker, 1)["CUDA_VISIBLE_DEVICES"] for worker in range(3)] == ["3", "5", "3"]


@pytest.mark.parametrize("visible", ["0,1,2,3", None])
def test_a_task_gets_its_own_accelerators_or_every_one(visible, tmp_path, monkeypatch):
    """What fills the latent cache alone takes those of the whole machine."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = []
    monkeypatch.setattr(base, "supervise", lambda launcher, task, show, environment: given.append(environment))
    executor = LocalExecutor(1, Launcher(), Display())
    for every in (False, True):
        executor.run_one(Task("a", "", tmp_path, "talks", (), 2, every_device=every), 1)
    own, all_of_them = given
    assert "CUDA_VISIBLE_DEVICES" not in all_of_them and all_of_them["OMP_NUM_THREADS"] == "2"
    assert own.get("CUDA_VISIBLE_DEVICES") == (None if visible is None else "1")
