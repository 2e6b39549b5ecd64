"""Cells as jobs of Slurm, as far as that needs no Slurm: what is asked for, what runs on a node, and the waiting."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lavita.config.plan import make_plan
from lavita.config.schema import ConfigError
from lavita.console import Display
from lavita.executors import slurm, slurm_node, slurm_options, slurm_queue
from lavita.executors.base import Task, supervise
from lavita.executors.process import Launcher
from lavita.executors.slurm import SlurmExecutor, submitit_executor, submitit_parameters
from lavita.executors.slurm_node import SlurmTask, rank_environment
from lavita.executors.slurm_options import SlurmOptions, limit_seconds, read_slurm_options
from lavita.executors.slurm_queue import JobState, Queue, is_preempted, read_states
from lavita.experiment.budget import on_meta
from lavita.experiment.disk import largest_checkpoint
from lavita.experiment.sessions import slurm_job
from lavita.lock import FolderLock, Held
from lavita.results.attempts import LOCK
from lavita.results.records import Record, Session, read_record, write_record
from lavita.results.rows import Row
from lavita.suite.decide import refuse_worked_on

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101", "--tier", "demo"]


def record(cell: str, status: str, reason: str = "", **more) -> Record:
    return Record(cell=cell, label=cell, status=status, reason=reason, row=Row(), **more)


def session(job: str) -> Session:
    return Session("host", 1, job, "a machine", "python 3", "2026-01-02T03:04:05+00:00")


def task_in(folder: Path, module: str = "talks", **more) -> Task:
    write_record(folder, record(folder.name, "queued"))
    return Task(folder.name, f"{folder.name}: ", folder, module, (), 2, **more)


# What is asked for


@pytest.mark.parametrize("text", ["90", "1:30", "1:30:00", "2-12", "1-00:30", "1-00:00:01"])
def test_times_go_to_sbatch_as_they_are(text):
    assert read_slurm_options([f"time={text}", "signal_delay_s=30"]).time == text


@pytest.mark.parametrize("text", ["soon", "0", "0:00", "0-0", "-1", "1:", "1:2:3:4", "1-2-3", "90m", "1.5", " 9"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="--slurm time: got .*, wanted minutes, or a time as sbatch has it"):
        read_slurm_options([f"time={text}"])


def test_keys_that_the_run_does_not_know_are_options_of_sbatch():
    found = read_slurm_options(
        ["partition=gpu", "mem_gb=1.5", "reservation=mine", "setup=a", "setup=b", "exclusive=true", "cpus-per-task=3"]
    )
    assert found == SlurmOptions(
        mem_gb=1.5,
        cpus_per_task=3,
        setup=("a", "b"),
        sbatch={"partition": "gpu", "reservation": "mine", "exclusive": True},
    )
    assert read_slurm_options(["--signal-delay-s=30"]) == SlurmOptions(time="240", signal_delay_s=30)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("partion=gpu", "unknown key 'partion': did you mean 'partition'?"),
        ("signal_delay=30", "did you mean 'signal_delay_s'?"),
        ("gpu", "wanted KEY=VALUE"),
        ("partition=", "wanted KEY=VALUE"),
        ("time=soon", "--slurm time: got 'soon', wanted minutes"),
        ("time=0", "--slurm time: got '0', wanted minutes"),
        ("mem_gb=-1", "wanted gigabytes"),
        ("nodes=2", "give compute.nodes=N"),
        ("array=0-3", "--workers"),
        ("gpus-per-task=1", "give gpus_per_node=N"),
        ("job-name=mine", "the run finds its jobs again by their name"),
    ],
)
def test_a_wrong_key_is_said_in_one_line(item, said):
    with pytest.raises(ConfigError) as error:
        read_slurm_options([item])
    assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="twice"):
        read_slurm_options(["qos=a", "qos=b"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("1:30:00", 5400), ("2-12", 216000), ("1-00:30", 88200), ("1-00:00:01", 86401)],
)
def test_a_time_limit_in_seconds(text, seconds):
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize(
    ("gigabytes", "seconds"),
    # Two thirds of the warning: 60 seconds for a step, and twice the state at 0.2 GB a second.
    [(0, 90), (0.01, 91), (10.8, 252), (100, 1590)],
)
def test_a_job_is_warned_early_enough_for_a_step_and_its_checkpoint(gigabytes, seconds):
    options = read_slurm_options(["partition=gpu"], gigabytes * 1e9)
    assert options.signal_delay_s == seconds
    assert options.signal_delay_s * 2 / 3 >= 60 + 2 * gigabytes / 0.2 - 1e-9


def test_a_warning_in_which_the_state_can_not_be_written_is_refused():
    assert read_slurm_options(["signal_delay_s=162"], 10.8e9).signal_delay_s == 162
    with pytest.raises(ConfigError) as error:
        read_slurm_options(["signal_delay_s=161"], 10.8e9)
    assert str(error.value).startswith("--slurm signal_delay_s: got 161, wanted at least 162 and what a step takes")
    assert "would be 252" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="--slurm time: got 4, which is 240 seconds, wanted more than the warning"):
        read_slurm_options(["time=4"], 10.8e9)


def test_the_state_of_a_stage_is_counted_on_shapes():
    """Of XL/2: 673 million weights in float32, their average, both moments; not its 84 million of autoencoder."""
    cells = make_plan("ucf101", "paper", ["dit", "pvdm"], [0, 1], [])
    found = largest_checkpoint(cells)
    params = sum(p.numel() for p in on_meta(cells[0], None)[0].network.parameters() if p.requires_grad)
    assert found == pytest.approx(16 * params, rel=1e-3) and 10e9 < found < 12e9


def test_the_shape_of_a_job_follows_from_its_task(tmp_path):
    task = task_in(tmp_path / "a", devices=2, nodes=3)
    found = submitit_parameters([task], 4, SlurmOptions(setup=("module load cuda",)))
    assert (found["nodes"], found["tasks_per_node"], found["cpus_per_task"]) == (3, 2, 2)
    assert found["slurm_array_parallelism"] == 4 and "--cpus-per-task=2" in found["slurm_srun_args"]
    assert found["slurm_setup"][0] == "module load cuda" and str(ROOT / "src") in found["slurm_setup"][1]
    more = submitit_parameters([task], None, SlurmOptions(cpus_per_task=8))
    assert (more["cpus_per_task"], more["slurm_srun_args"][0]) == (8, "--cpus-per-task=8")
    assert more["slurm_array_parallelism"] == 1
    with pytest.raises(ConfigError, match="the same for all runs"):
        submitit_parameters([task, task_in(tmp_path / "b")], None, SlurmOptions())


def test_submitit_takes_the_parameters(tmp_path, monkeypatch):
    """Its own check of names, and the file that it would give to sbatch."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    options = ["partition=gpu", "mem_gb=1.5", "reservation=mine", "gpus_per_node=a100:2", "time=1-12:00:00"]
    parameters = submitit_parameters([task_in(tmp_path / "a")], 1, read_slurm_options(options)) | {"name": "ours"}
    text = submitit_executor(tmp_path, parameters)._executor._make_submission_file_text("program", "id")
    wanted = ["partition=gpu", "mem=1536MB", "reservation=mine", "gpus-per-node=a100:2", "requeue", "time=1-12:00:00"]
    for line in (*wanted, "job-name=ours", "nodes=1", "ntasks-per-node=1", "cpus-per-task=2"):
        assert f"#SBATCH --{line}\n" in text
    assert "#SBATCH --signal=USR2@90\n" in text and "--cpus-per-task=2 " in text.partition("srun")[2]


def run(*more: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([*RUN, *more], capture_output=True, text=True, timeout=120, env=os.environ | environment)


def test_wrong_flags_are_one_line_and_exit_2(tmp_path):
    for flags, said in (
        (["--executor", "slrum"], "--executor: got 'slrum', did you mean 'slurm'?"),
        (["--slurm", "partition=gpu"], "--slurm goes with --executor slurm"),
        (["--executor", "slurm", "--slurm", "partion=gpu"], "did you mean 'partition'?"),
    ):
        done = run(*flags, "--out", str(tmp_path / "out"))
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_slurm_or_submitit_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(slurm_options.shutil, "which", lambda name: None)
    monkeypatch.setattr(slurm_options.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="no sbatch on PATH; give the command on a login node"):
        slurm_options.check_executor("slurm", [], [])
    monkeypatch.setattr(slurm_options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"submitit is not installed: pip install -e '\.\[slurm\]'"):
        slurm_options.check_executor("slurm", [], [])
    monkeypatch.setattr(slurm_options, "checkout", lambda: None)
    with pytest.raises(ConfigError, match=r"submitit is not installed: pip install 'lavita\[slurm\]'"):
        slurm_options.check_executor("slurm", [], [])


def test_several_nodes_want_slurm():
    class Compute:
        nodes = 2

    class OneExperiment:
        compute = Compute

    with pytest.raises(ConfigError, match="compute.nodes: got 2, wanted 1 without --executor slurm"):
        slurm_options.check_executor("local", [], [OneExperiment])


# What runs on a node


@pytest.mark.parametrize("given", [{"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}])
def test_a_process_alone_has_no_ranks(given, monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    assert rank_environment() == {}


def test_ranks_of_several_processes(monkeypatch):
    pytest.importorskip("submitit")
    given = {
        "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "20007", "SLURM_JOB_NODELIST": "gpu[07-08,11],big3", "SUBMITIT_EXECUTOR": "slurm",
    }  # fmt: skip
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    for key in ("MASTER_ADDR", "MASTER_PORT", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(key, raising=False)
    found = rank_environment()
    port = found.pop("MASTER_PORT")
    assert found == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu07",
    }  # fmt: skip
    assert 20000 <= int(port) <= 60000
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert rank_environment()["MASTER_PORT"] == port  # of every rank of the job
    monkeypatch.setenv("SLURM_JOB_ID", "20008")
    assert rank_environment()["MASTER_PORT"] != port  # jobs that share a node must not meet
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1234")
    assert (rank_environment()["MASTER_ADDR"], rank_environment()["MASTER_PORT"]) == ("here", "1234")


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that a task may run; they say of themselves what the test wants."""
    (tmp_path / "talks.py").write_text(
        "import os\nfrom lavita.executors.heartbeat import Result, emit\n"
        "emit(Result('ok', os.environ.get('RANK', 'alone')))\n"
    )
    (tmp_path / "waits.py").write_text(
        "import signal, sys, time\nfrom lavita.executors.heartbeat import Result, emit\n"
        "def end(*_):\n    emit(Result('interrupted', 'asked to stop'))\n    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_only_the_first_process_settles_the_record(modules):
    task = task_in(modules / "cell")
    assert supervise(Launcher(), task, lambda _: None, {"RANK": "1"}, rank=1).reason == "1"
    assert read_record(task.folder).status == "queued" and not (task.folder / "log.txt").exists()
    assert "result" in (task.folder / "progress" / "log-1.txt").read_text()
    supervise(Launcher(), task, lambda _: None, {})
    found = read_record(task.folder)
    assert found == record("cell", "ok", "alone", files=found.files) and found.files is not None


@pytest.fixture
def own_handlers(monkeypatch):
    """A process outside of Slurm, whose handler of SIGTERM is put back."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def when_up(task: Task, then) -> None:
    """Call something once the task's process has said that it is up."""

    def wait() -> None:
        log = task.folder / "log.txt"
        while not (log.is_file() and "up" in log.read_text()):
            time.sleep(0.02)
        then()

    threading.Thread(target=wait, daemon=True).start()


def test_a_job_that_is_asked_to_end_leaves_its_run_interrupted(modules, own_handlers):
    call = pickle.loads(pickle.dumps(SlurmTask(task_in(modules / "cell", "waits"), 60.0, 20.0)))
    when_up(call.task, lambda: os.kill(os.getpid(), signal.SIGTERM))
    call()
    assert read_record(call.task.folder).status == "interrupted"
    assert json.loads((call.task.folder / "log.txt").read_text().splitlines()[-1][8:])["reason"] == "asked to stop"


def test_submitits_signal_ends_the_process_and_gives_the_same_task_again(modules, own_handlers):
    pytest.importorskip("submitit")
    call, given = SlurmTask(task_in(modules / "cell", "waits"), 60.0, 20.0), []
    before = signal.signal(signal.SIGUSR2, lambda *_: given.append(call.checkpoint()))
    try:
        when_up(call.task, lambda: os.kill(os.getpid(), signal.SIGUSR2))
        call()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert read_record(call.task.folder).status == "interrupted"
    again = pickle.loads(pickle.dumps(given[0])).function
    assert (again.task, again.hang_timeout, again.grace) == (call.task, 60.0, 20.0)


def test_a_signal_before_the_task_began_only_requeues(modules):
    pytest.importorskip("submitit")
    call = SlurmTask(task_in(modules / "cell"), 60.0, 20.0)
    assert call.checkpoint().function.task == call.task


def test_a_folder_that_cannot_be_written_fails_the_job(modules, own_handlers):
    task = task_in(modules / "cell")
    (task.folder / "log.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        SlurmTask(task, 60.0, 20.0)()


@pytest.mark.parametrize("error", [ValueError("record.json: holds no JSON"), RuntimeError("can't start new thread")])
def test_whatever_else_goes_wrong_fails_the_job_too(modules, own_handlers, monkeypatch, error):
    """It happens in another thread, where nobody would hear of it and Slurm would see a job that completed."""

    def raises(*_):
        raise error

    monkeypatch.setattr(slurm_node, "supervise", raises)
    with pytest.raises(type(error)) as caught:
        SlurmTask(task_in(modules / "cell"), 60.0, 20.0)()
    assert caught.value is error


def test_a_job_that_slurm_starts_again_after_its_end_does_nothing(modules, own_handlers):
    task = task_in(modules / "cell")
    write_record(task.folder, record("cell", "ok"))
    SlurmTask(task, 60.0, 20.0)()
    assert not (task.folder / "log.txt").exists()


def test_preemption_is_read_from_the_job(monkeypatch):
    for time_, wanted in (("None", False), ("2026-01-01T00:00:00", True)):
        text = f"JobId=3 JobName=x\n   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime={time_}\n"
        done = subprocess.CompletedProcess([], 0, text, "")
        monkeypatch.setattr(slurm_queue, "run_command", lambda *_, done=done: done)
        assert is_preempted("3") is wanted


# The waiting


def test_states_of_arrays_and_single_jobs():
    text = "12_0|RUNNING|None|node1\n12_1|PENDING|JobArrayTaskLimit|\n13|OUT_OF_MEMORY|OutOfMemory|node2\n"
    one, two, three = read_states(text)
    assert one == JobState("12_0", "RUNNING", "None", "node1") and not one.waits and not one.ended
    assert two.job == "12_1" and two.waits and three.job == "13" and three.ended


class FakeQueue(Queue):
    """A queue that gives the next of some states at every look; acts: what happens before a look, by its number."""

    def __init__(self, folder, looks, acts=()):
        super().__init__(folder)
        self.looks, self.acts, self.number, self.asked = looks, dict(acts), -1, []

    def jobs(self):
        self.number += 1
        self.acts.get(self.number, lambda: None)()
        look = self.looks[min(self.number, len(self.looks) - 1)]
        if look is None:
            raise ConfigError("squeue does not answer")
        earlier = {"3_0": JobState("3_0", "PENDING", "Priority", "")}  # of an earlier array of the folder
        return earlier | {f"7_{i}": JobState(f"7_{i}", s, "Resources", "node1") for i, s in enumerate(look) if s}

    def unfinished(self):
        return [] if "cancel" in self.asked else [JobState("7_0", "RUNNING", "None", "node1")]

    def ask_to_end(self):
        self.asked.append("ask")

    def cancel(self):
        self.asked.append("cancel")


def ends(task: Task, status: str, reason: str = "") -> None:
    """As the process on a node leaves a task."""
    with open(task.folder / "log.txt", "a") as log:
        log.write(
            "@lavita "
            + json.dumps({"kind": "result", "status": status, "reason": reason, "external": {"a": "3"}})
            + "\n"
        )
    write_record(task.folder, record(task.title, status, reason))


def waited(tmp_path, tasks, looks, acts=(), workers=None):
    """The executor over a queue that is played, and what submitit was given."""
    given = []

    def submit(folder, calls, parameters):
        given.append((calls, parameters))
        return [f"7_{i}" for i in range(len(calls))]

    queue = FakeQueue(tmp_path / "slurm", looks, acts)
    options = SlurmOptions(signal_delay_s=120)
    executor = SlurmExecutor(tmp_path / "slurm", workers, options, 60.0, Display(), submit, queue, poll_seconds=0.01)
    return executor, queue, given


def test_an_array_is_seen_through(tmp_path, capsys):
    tasks = [task_in(tmp_path / "one"), task_in(tmp_path / "two")]
    looks = [["PENDING", "PENDING"], None, ["RUNNING", "PENDING"], ["PENDING", "RUNNING"], ["RUNNING", "COMPLETED"]]
    looks += [["COMPLETED", "COMPLETED"]]
    acts = {4: lambda: ends(tasks[1], "ok"), 5: lambda: ends(tasks[0], "diverged", "loss nan")}
    executor, queue, given = waited(tmp_path, tasks, looks, acts, workers=1)
    pickles = [tmp_path / "slurm" / "7_0_submitted.pkl", tmp_path / "slurm" / "70_0_submitted.pkl"]
    for path in pickles:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    told = []
    one, two = executor.run(tasks, lambda task, ended: told.append((task.title, ended.status)))
    assert (one.status, one.reason, one.code) == ("diverged", "loss nan", 1)
    assert (two.status, two.code, two.result.external) == ("ok", 0, {"a": "3"})
    assert told == [("two", "ok"), ("one", "diverged")] and [path.exists() for path in pickles] == [False, True]
    said = capsys.readouterr().out
    assert "2 waiting in the queue: Resources" in said and "one: job 7_0 runs on node1" in said
    assert "one: preempted or near its time limit, waits again (job 7_0)" in said
    calls, parameters = given[0]
    assert [call.task for call in calls] == tasks and calls[0].grace == 80.0
    assert parameters["slurm_array_parallelism"] == 1 and parameters["name"].startswith("lavita-")


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [
        ("OUT_OF_MEMORY", "failed", "ended by Slurm: OUT_OF_MEMORY (job 7_0); --slurm mem_gb=N asks for more"),
        ("FAILED", "failed", "ended by Slurm: FAILED (job 7_0): no such file: python"),
        ("CANCELLED", "interrupted", "ended by Slurm: CANCELLED (job 7_0)"),
        ("NODE_FAIL", "interrupted", "ended by Slurm: NODE_FAIL (job 7_0)"),
        ("", "interrupted", "Slurm no longer knows job 7_0"),
    ],
)
def test_a_job_that_ends_without_a_word(tmp_path, monkeypatch, state, status, said):
    monkeypatch.setattr(slurm, "FILES_SECONDS", 0.05)
    task = task_in(tmp_path / "one")
    executor, *_ = waited(tmp_path, [task], [["RUNNING"], [state]])
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "7_0_0_log.err").write_text("first\nno such file: python\nsrun: error: node1: task 0\n")
    (ended,) = executor.run([task])
    assert ended.code != 0 and (ended.status, ended.reason) == (status, said)
    found = read_record(task.folder)
    assert (found.status, found.reason) == (status, said) and found.files is not None


def test_an_end_that_comes_late_over_the_network_is_waited_for(tmp_path):
    task = task_in(tmp_path / "one")
    executor, *_ = waited(tmp_path, [task], [["COMPLETED"]], {5: lambda: ends(task, "ok")})
    assert executor.run([task])[0].status == "ok"


def test_ctrl_c_asks_the_jobs_then_cancels_them(tmp_path, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("lavita.executors.slurm.END_SECONDS", 0.05)
    monkeypatch.setattr(SlurmExecutor, "grace", 0.05)
    executor, queue, _ = waited(tmp_path, [task_in(tmp_path / "one")], [["RUNNING"]], {1: interrupt})
    with pytest.raises(KeyboardInterrupt):
        executor.run([task_in(tmp_path / "one")])
    assert queue.asked[0] == "ask" and queue.asked[-1] == "cancel"
    assert "stopping: each job saves its state" in capsys.readouterr().out


def test_jobs_of_an_earlier_run_are_found_by_their_name(tmp_path, monkeypatch):
    queue = Queue(tmp_path / "re sults" / "slurm")
    asked = []

    def answer(*words):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, "8_0|PENDING|Priority|\n8_1|COMPLETED|None|node1\n", "")

    monkeypatch.setattr(slurm_queue, "run_command", answer)
    queue.refuse_unfinished()
    assert not asked, "no job was ever submitted from this folder"
    assert queue.name.startswith("lavita-re_sults-") and Queue(queue.folder).name == queue.name
    with pytest.raises(ConfigError) as error:
        queue.refuse_unfinished()
    assert "not finished: 8_0 (pending); wait until they are, or end them: scancel --name=lavita-" in str(error.value)
    assert f"--name={queue.name}" in asked[0]
    silent = subprocess.CompletedProcess([], 1, "", "no\nroute")
    monkeypatch.setattr(slurm_queue, "run_command", lambda *_: silent)
    with pytest.raises(ConfigError, match=r"squeue does not answer \(route\)"):
        queue.refuse_unfinished()


def test_an_attempt_that_a_job_works_on_is_refused_with_its_id(tmp_path):
    (tmp_path / "progress").mkdir()
    with FolderLock(tmp_path / "progress" / LOCK, "the process of a run"):
        with pytest.raises(Held, match="it is Slurm job 12_3, which `scancel 12_3` ends"):
            refuse_worked_on(tmp_path, record("x", "running", sessions=(session("12_3"),)))
        with pytest.raises(Held) as error:
            refuse_worked_on(tmp_path, record("x", "running", sessions=(session(""),)))
        assert "Slurm" not in str(error.value)
    refuse_worked_on(tmp_path, record("x", "running"))


def test_the_id_of_a_job_is_that_of_its_element():
    given = {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert slurm_job(given) == "12_3" and slurm_job({"SLURM_JOB_ID": "14"}) == "14" and slurm_job({}) == ""


def test_a_command_that_is_not_there_has_failed():
    assert shutil.which("no-such-command") is None and slurm_queue.run_command("no-such-command").returncode != 0
