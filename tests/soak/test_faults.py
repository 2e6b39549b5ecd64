"""What goes wrong with machines and people, done to whole runs: each says what it is in a line, and loses nothing.

The same command, once the fault is mended, ends with the table of a run that nothing happened to.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.soak.runs import (
    ROOT,
    assert_same_run,
    command,
    is_alive,
    leftovers,
    processes_of,
    run,
    start,
    state_of,
    table,
    wait_for,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at in /proc")

SETTING = [
    "data.latent_cache=false",
    "budget.clips=160", "codec.clips=32", "checkpoint.every_clips=16", "train.warmup_clips=8", "extractor.steps=4",
    "sampling.steps=4", "sampling.batch_clips=4", "protocol.n_real=16", "protocol.n_generated=16",
    "data.frames=4", "protocol.frames=4",
]  # fmt: skip
METHODS = "lavita-v1,pvdm"
CELL, OTHER = "lavita-v1-s0", "pvdm-s0"


class Quiet(NamedTuple):
    """The suite that nothing happens to, one run after the other, and what it has fitted."""

    out: Path
    cache: Path


@pytest.fixture(scope="session")
def quiet(tmp_path_factory) -> Quiet:
    base = tmp_path_factory.mktemp("quiet")
    made = Quiet(base / "out", base / "cache")
    done = run([*words(made.out, made), "--workers", "1"])
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def words(out: Path, quiet: Quiet, methods: str = METHODS) -> list[str]:
    """The command of the suites of this file, two runs at once."""
    return command(out, quiet.cache, "--methods", methods, "--workers", "2", *SETTING)


def assert_completes(again: list[str], out: Path, quiet: Quiet) -> None:
    """The command now ends with the table of the undisturbed run, and leaves nothing behind."""
    done = run(again)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed (" in done.stdout
    assert_same_run(out, quiet.out)
    assert leftovers(out) == []


def assert_one_line(said: str) -> None:
    """Nothing that a user would not know what to do with."""
    assert "Traceback" not in said and "Exception" not in said, said


def kept_something(cell: Path) -> bool:
    return any((cell / "progress").glob("at-*.ckpt"))


def samples(cell: Path) -> bool:
    return any((cell / "progress").glob("sample-*.npz"))


def record(out: Path, cell: str) -> dict:
    return json.loads((out / "cells" / cell / "record.json").read_text())


def wait_while_it_runs(process: subprocess.Popen, said: Path, what: Callable[[], Any]) -> Any:
    """Wait for a moment of a run that has not ended before it; what the function gave then."""

    def look() -> Any:
        assert process.poll() is None, said.read_text()[-3000:]
        return what()

    return wait_for(look, 240)


def stopped_where(process: subprocess.Popen, said: Path, there: Mapping[str, Callable[[], object]]) -> dict[str, int]:
    """The processes of runs, each made to stand still as soon as it is where it should be: none is long past that when
    the last one comes to it."""
    pids = {}
    while there.keys() - pids.keys():
        cell = wait_while_it_runs(
            process, said, lambda: next((cell for cell in there if cell not in pids and there[cell]()), None)
        )
        pids[cell] = processes_of(process.pid)[cell]
        os.kill(pids[cell], signal.SIGSTOP)
        wait_for(lambda cell=cell: state_of(pids[cell]) == "T", 10)
    return pids


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory; skips where this machine lets nobody mount one."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        wait_for(lambda: subprocess.run(["umount", str(path)], capture_output=True).returncode == 0, 60, every=1)


def fill(disk: Path) -> Path:
    """Take all that is left of a disk."""
    ballast = disk / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:  # then the disk is not full, and what follows would test nothing
                    raise
    return ballast


FULL = {
    "before anything": None,
    "in training": kept_something,
    "in sampling": samples,
}


@pytest.mark.parametrize("moment", FULL)
def test_a_full_disk(moment, quiet, tmp_path):
    """Checkpoints, parts, records, logs: whatever is written next fails; a line says so and names the file."""
    with small_disk(tmp_path / "disk", "size=600m") as disk:
        out, said = disk / "out", tmp_path / "said.txt"
        again = words(out, quiet)
        if FULL[moment] is None:
            ballast = fill(disk)
            process = start(again, said)
        else:
            process = start(again, said)
            wait_while_it_runs(process, said, lambda: FULL[moment](out / "cells" / CELL))
            ballast = fill(disk)
        deadline = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < deadline:
            fill(disk)  # what a run lets go of makes room again
            time.sleep(0.05)
        lines = said.read_text()
        assert process.returncode in (1, 2), lines
        assert re.search(rf"No space left on device: {disk}/\S+|{disk}/\S+: No space left on device", lines), lines
        assert_one_line(lines)
        ballast.unlink()
        assert_completes(again, out, quiet)


def test_a_read_only_results_folder(quiet, tmp_path):
    with small_disk(tmp_path / "disk", "ro") as disk:
        done = run(words(disk / "out", quiet))
    assert done.returncode == 2 and "Read-only file system" in done.stderr and str(disk) in done.stderr
    assert_one_line(done.stdout + done.stderr)


def test_a_results_folder_that_becomes_read_only(quiet, tmp_path):
    """A finished one: nothing can be written any more, and nothing is changed."""
    with small_disk(tmp_path / "disk", "size=600m") as disk:
        out = shutil.copytree(quiet.out, disk / "out")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = run(words(out, quiet))
        assert done.returncode == 2 and "Read-only file system" in done.stderr and str(out) in done.stderr
        assert_one_line(done.stdout + done.stderr)
        assert_same_run(out, quiet.out)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert_completes(words(out, quiet), out, quiet)


def test_a_read_only_cache(quiet, tmp_path):
    with small_disk(tmp_path / "disk", "ro") as disk:
        done = run(command(tmp_path / "out", disk / "cache", "--methods", METHODS, *SETTING))
    assert done.returncode == 2 and "Read-only file system" in done.stderr and str(disk) in done.stderr
    assert_one_line(done.stdout + done.stderr)
    assert_completes(words(tmp_path / "out", quiet), tmp_path / "out", quiet)


BACKWARDS = """
import time
_began, _plain = time.time(), time.time
time.time = lambda: _began - 10 * (_plain() - _began)
time.time_ns = lambda: int(1e9 * time.time())
"""


def test_a_clock_that_goes_backwards(quiet, tmp_path):
    """Ten seconds back for each that goes by, in every process, with a stop and a resumption between."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BACKWARDS)
    more, out, said = {"PYTHONPATH": str(tmp_path / "site")}, tmp_path / "out", tmp_path / "said.txt"
    process = start(words(out, quiet), said, more)
    wait_while_it_runs(process, said, lambda: kept_something(out / "cells" / CELL))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130
    done = run(words(out, quiet), more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed (" in done.stdout
    assert_same_run(out, quiet.out)
    assert leftovers(out) == []


def test_two_runs_into_one_folder(quiet, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said.txt"
    first = start(words(out, quiet), said)
    wait_while_it_runs(first, said, lambda: (out / ".lock").exists() and (out / ".lock").stat().st_size)
    for moment in (lambda: True, lambda: kept_something(out / "cells" / CELL)):
        wait_while_it_runs(first, said, moment)
        second = run(words(out, quiet, "dit"))
        wanted = rf"run.py: {out}: in use by run.py on {socket.gethostname()} \(pid {first.pid}, since "
        assert second.returncode == 2 and re.match(wanted, second.stderr), second.stderr
        assert len(second.stderr.splitlines()) == 1
    assert first.wait(timeout=240) == 0, said.read_text()
    assert_same_run(out, quiet.out)
    assert leftovers(out) == []


def test_a_process_that_hangs(quiet, tmp_path):
    """It is ended after the time that was asked for, the other run is well, and the retry is as if it had not."""
    out, said = tmp_path / "out", tmp_path / "said.txt"
    process = start([*words(out, quiet), "--hang-timeout", "0.75"], said)
    wait_while_it_runs(process, said, lambda: kept_something(out / "cells" / CELL))
    pid = processes_of(process.pid)[CELL]
    os.kill(pid, signal.SIGSTOP)
    assert process.wait(timeout=240) == 1
    assert not is_alive(pid)
    found = record(out, CELL)
    assert found["status"] == "failed", found["reason"]
    assert re.fullmatch(
        r"no heartbeat for 0\.75 minutes at train \d+: ended as hung \(--hang-timeout\)", found["reason"]
    )
    lines = {line["cell"]: line for line in table(out / "rows.csv", ())}
    assert lines[CELL]["status"] == "failed" and lines[CELL]["reason"] == found["reason"]
    assert lines[OTHER]["status"] == "ok"
    same = run(words(out, quiet))
    assert same.returncode == 1 and "--retry-failed runs it again" in same.stdout
    assert_completes([*words(out, quiet), "--retry-failed"], out, quiet)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "Ctrl-C twice"])
def test_asked_to_stop(how, quiet, tmp_path):
    """Both runs keep where they are; one that does not listen is killed by the second Ctrl-C."""
    out, said = tmp_path / "out", tmp_path / "said.txt"
    process = start(words(out, quiet), said)
    there = {cell: lambda cell=cell: kept_something(out / "cells" / cell) for cell in (CELL, OTHER)}
    pids = stopped_where(process, said, there)
    deaf = how == "Ctrl-C twice"
    for cell, pid in pids.items():
        if cell == OTHER or not deaf:
            os.kill(pid, signal.SIGCONT)
    process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
    if deaf:
        wait_while_it_runs(process, said, lambda: "Ctrl-C again kills them" in said.read_text())
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    assert process.wait(timeout=90) == 130
    lines = said.read_text()
    assert "interrupted; the same command resumes what is not finished" in lines
    assert_one_line(lines)
    assert not any(is_alive(pid) for pid in pids.values())
    for cell in (CELL, OTHER):
        found = record(out, cell)
        assert found["status"] in ("interrupted", "ok"), found
        last = found["sessions"][-1]
        if cell == CELL and not deaf and found["status"] == "interrupted":
            assert last["ended"] == "interrupted" and last["stage"] == "train"
    assert_completes(words(out, quiet), out, quiet)


def plugin(folder: Path, name: str, loss: str) -> Path:
    """A method that is the template but for its loss."""
    shutil.copytree(ROOT / "docs" / "template", folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    settings = folder / name / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", f": {name}\n"))
    module = folder / name / "module.py"
    module.write_text(module.read_text() + f"\n    def loss(self, batch, draws):\n        {loss}\n")
    return folder / name


RAISES = "raise RuntimeError('no such thing')"
DIVERGES = """found = super().loss(batch, draws)
        return {"loss": found["loss"] * (float("nan") if self.num_clips_seen >= 40 else 1.0)}"""


def test_a_run_that_diverges_and_one_that_raises_leave_the_others(quiet, tmp_path):
    out = tmp_path / "out"
    more = []
    for name, loss in (("raises", RAISES), ("diverges", DIVERGES)):
        more += ["--plugin", str(plugin(tmp_path, name, loss))]
    again = [*words(out, quiet, f"{METHODS},raises,diverges"), *more]
    done = run(again)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = {line["cell"]: line for line in table(out / "rows.csv", ())}
    diverged = "Diverged: loss is nan at step 6 of stage train (40 clips seen)"
    assert (lines["diverges-s0"]["status"], lines["diverges-s0"]["reason"]) == ("diverged", diverged)
    assert (lines["raises-s0"]["status"], lines["raises-s0"]["reason"]) == ("failed", "RuntimeError: no such thing")
    assert diverged in (out / "table.md").read_text() and "no such thing" in (out / "table.md").read_text()
    assert_same_run(out, quiet.out, [CELL, OTHER])
    same = run(again)
    assert same.returncode == 1 and same.stdout.count("--retry-failed runs it again") == 2
    retried = run([*again, "--retry-failed"])
    assert retried.returncode == 1 and "from the start (diverged before" in retried.stdout
    assert sorted(path.name for path in (out / "cells").glob("diverges*")) == ["diverges-s0", "diverges-s0.2"]
    assert_same_run(out, quiet.out, [CELL, OTHER])


@pytest.fixture(scope="module")
def interrupted(quiet, tmp_path_factory) -> Path:
    """A results folder whose runs are not finished: one in training, one in the stage after its first. Each stands
    still from where it should be until both have been asked to end."""
    base = tmp_path_factory.mktemp("interrupted")
    out, said = base / "out", base / "said.txt"
    process = start(words(out, quiet), said)
    second = out / "cells" / OTHER / "progress"
    there = {CELL: lambda: kept_something(out / "cells" / CELL), OTHER: lambda: any(second.glob("at-train-*.ckpt"))}
    pids = stopped_where(process, said, there)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    for pid in pids.values():
        os.kill(pid, signal.SIGCONT)
    assert process.wait(timeout=120) == 130
    assert {record(out, cell)["status"] for cell in (CELL, OTHER)} == {"interrupted"}
    return out


def test_a_record_that_was_cut(interrupted, quiet, tmp_path):
    out = shutil.copytree(interrupted, tmp_path / "out")
    path = out / "cells" / CELL / "record.json"
    content = path.read_text()
    path.write_text(content[: len(content) // 2])
    done = run(words(out, quiet))
    assert done.returncode == 2
    assert re.search(rf"run.py: {path}: not a record \(.*\); remove the run's folder to run it again", done.stderr)
    shutil.rmtree(path.parent)
    assert_completes(words(out, quiet), out, quiet)


def test_everything_that_was_kept_was_cut(interrupted, quiet, tmp_path):
    """Checkpoints, ends of stages, scores, the heartbeat and the configuration: recomputed, and a note says of each."""
    out = shutil.copytree(interrupted, tmp_path / "out")
    damaged = []
    for cell in (CELL, OTHER):
        folder = out / "cells" / cell
        for path in [folder / "config.yaml", *(folder / "progress").glob("*.*")]:
            if path.name != ".lock":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                damaged.append(path)
    assert any(path.name.startswith("end-autoencoder.") for path in damaged)
    assert any(path.name.startswith("at-train") for path in damaged)
    assert_completes(words(out, quiet), out, quiet)
    for cell in (CELL, OTHER):
        assert "damaged, recomputed" in (out / "cells" / cell / "log.txt").read_text()


def test_the_end_of_an_earlier_stage_was_cut(interrupted, quiet, tmp_path):
    """It is trained again, and so is what came after it: its logs stand in the order of time."""
    out = shutil.copytree(interrupted, tmp_path / "out")
    progress = out / "cells" / OTHER / "progress"
    (value,) = progress.glob("end-autoencoder.*.json")
    value.write_text("")
    assert_completes(words(out, quiet), out, quiet)
