"""speed.py gpu on a CPU at tiny sizes: every part gives rows, what fails keeps its reason, the time limit holds."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from lavita.speed import bench, gpu, gpu_clips, gpu_network
from lavita.speed.bench import FAILED, OK, SKIPPED, Case, Part, Quantity, Row, Setting, Stopwatch, duration, measure_all

TINY = Setting(torch.device("cpu"), tiny=True)
CASES = gpu_network.PARTS | gpu_clips.PARTS
NEEDS_A_GPU = ("memory-efficient", "cudnn", "pinned")


class Clock:
    """Time that passes by being told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def call(script):
    threads = torch.get_num_threads()
    yield script("speed")
    torch.set_num_threads(threads)


@pytest.fixture
def no_compiler(monkeypatch):
    """Blocks are traced and run as they are: a compiler of C++ takes minutes here."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled(call, backend="eager", **options))


def test_every_part_has_cases_and_words():
    assert list(gpu.PARTS) != [] and set(gpu.PARTS) == set(CASES)


@pytest.mark.parametrize("name", sorted(set(gpu.PARTS) - {"end-to-end"}))
def test_a_part_gives_numbers(name, no_compiler, monkeypatch):
    monkeypatch.setattr(bench, "MOST_REPEATS", 1)
    rows = measure_all({name: Part(1, CASES[name])}, TINY, 1e9, lambda rows: None)
    assert rows and all(row.part == name and row.name for row in rows)
    assert len({(row.name, row.quantity) for row in rows}) == len(rows)
    for row in rows:
        if any(word in row.name for word in NEEDS_A_GPU):
            assert row.status == FAILED and row.reason and row.value is None, row
        else:
            assert row.status == OK and np.isfinite(row.value) and row.quantity and row.repeats == 1, row


def test_float32_agrees_with_itself_and_bfloat16_does_not():
    stopwatch = Stopwatch(0.0, lambda: 0.0, lambda: None)
    exact, rough = ({q.name: q.value for q in gpu_clips.exactness(TINY, p, stopwatch)} for p in ("32", "bf16"))
    # Sums of a few thousand float32 products in another order; a bfloat16 has 8 bits.
    assert max(exact["moments: half against all"], exact["moments: 1 frame against all"]) < 1e-5
    assert exact["moments: against float32"] == 0 and exact["pixels: against float32"] == 0
    assert 1e-3 < rough["moments: against float32"] < 0.2 and 0.05 < rough["pixels: against float32"] < 60


def test_the_arithmetic_is_set_and_put_back():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    found = {}
    for precision in gpu_network.PRECISIONS:
        with gpu_network.arithmetic(precision, TINY.device):
            flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            found[precision] = (*flags, torch.is_autocast_enabled("cpu"))
    assert found == {"32": (False, False, False), "tf32": (True, True, False), "bf16": (False, False, True)}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_counted_products_are_those_of_the_published_size():
    full = Setting(torch.device("cpu"), tiny=False)
    # Forward pass of XL/2 at 16 x 32 x 32: 3725.65 G, counted on the official code with modulation once a clip.
    assert round(gpu_network.step_flops(gpu_network.shape_of(full, "XL")) / 3e9, 2) == 3725.65


def test_what_fails_is_a_row_and_the_rest_goes_on():
    def broken(stopwatch: Stopwatch) -> list[Quantity]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 86.30 GiB.\nmore lines")

    def no_cases(setting: Setting) -> list[Case]:
        raise ValueError("no such thing here")

    good = Case("good", lambda stopwatch: [Quantity("time", 1.0, "s"), Quantity("share", float("nan"), "")])
    parts = {
        "a": Part(1, lambda setting: [Case("broken", broken), good]),
        "b": Part(1, no_cases),
        "c": Part(1, lambda setting: [good]),
    }
    rows = measure_all(parts, TINY, 60, lambda rows: None)
    assert [(row.part, row.name, row.status) for row in rows] == [
        ("a", "broken", FAILED), ("a", "good", OK), ("a", "good", OK), ("b", "", FAILED), ("c", "good", OK),
        ("c", "good", OK),
    ]  # fmt: skip
    assert rows[0].reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate 86.30 GiB."
    assert rows[3].reason == "ValueError: no such thing here" and rows[2].value is None
    json.loads(json.dumps([asdict(row) for row in rows], allow_nan=False))


def test_the_limit_is_shared_out():
    """Two parts of shares 1 and 3 in 100 s; a call takes 4 s."""
    clock = Clock()
    began: list[tuple[str, float, float]] = []

    def timed(name: str):
        def measure(stopwatch: Stopwatch) -> list[Quantity]:
            began.append((name, clock(), stopwatch.until))
            return [duration(stopwatch.repeat(lambda: clock.spend(4)))]

        return Case(name, measure)

    parts = {
        "a": Part(1, lambda setting: [timed("a1"), timed("a2")]),
        "b": Part(3, lambda setting: [timed("b1"), timed("b2")]),
    }
    rows = measure_all(parts, TINY, 100, lambda rows: None, clock)
    # a: 25 s, of which a1 has 12.5: one call to warm up and 2 that end in time; a2 what is left, 13 s, and so on.
    assert began[0] == ("a1", 0, 12.5) and began[1] == ("a2", 12, 25)
    assert began[2][:2] == ("b1", 24) and began[2][2] == 24 + (100 - 24) / 2
    assert clock() <= 100 and [row.value for row in rows] == [4.0] * 4
    assert [row.repeats for row in rows] == [2, 2, 8, 8]


def test_cases_without_time_are_skipped_with_the_reason():
    clock = Clock()

    def slow(stopwatch: Stopwatch) -> list[Quantity]:
        clock.spend(70)  # as a compiler does, whatever it was given
        return [Quantity("time", 70.0, "s")]

    parts = {
        "a": Part(1, lambda setting: [Case("slow", slow), Case("late", slow)]),
        "b": Part(1, lambda setting: [Case("b", slow)]),
        "c": Part(1, lambda setting: [Case("c", slow)]),
    }
    rows = measure_all(parts, TINY, 60, lambda rows: None, clock)
    assert [(row.name, row.status) for row in rows] == [
        ("slow", OK), ("late", SKIPPED), ("b", SKIPPED), ("c", SKIPPED),
    ]  # fmt: skip
    assert clock() == 70 and "60 s" in rows[1].reason and "--seconds" in rows[1].reason


def test_rows_are_there_after_every_case():
    seen: list[int] = []
    one = Case("one", lambda stopwatch: [Quantity("time", 1.0, "s")])
    parts = {"a": Part(1, lambda setting: [one, Case("two", one.measure)])}
    measure_all(parts, TINY, 60, lambda rows: seen.append(len(rows)))
    assert seen[:2] == [1, 2]


def test_median_and_distance_of_quartiles():
    row = duration([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (row.value, row.spread, row.repeats) == (3.0, 2.0, 5)


def test_the_command_writes_and_prints(call, tmp_path):
    done = call("gpu", "--tiny", "--only", "optimiser,matmul", "--seconds", "30", "--out", tmp_path / "gpu.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["scale"] == "tiny" and found["hardware"] and found["commit"] and found["versions"]
    assert found["seconds"] == 30 and found["device"]
    assert list(dict.fromkeys(row["part"] for row in found["rows"])) == ["matmul", "optimiser"]  # in the fixed order
    assert set(found["rows"][0]) == {field for field in Row.__dataclass_fields__}
    assert "moving average" in done.out and "tiny sizes" in done.out and found["commit"][:12] in done.out


def test_a_failed_part_is_printed_with_its_reason(call, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = call("gpu", "--only", "end-to-end")
    assert done.code == 0 and "failed: ValueError: a run of tier paper wants an accelerator" in done.out


def test_list_names_the_parts(call):
    done = call("gpu", "--list", "--only", "sdpa,step")
    assert [line.split()[0] for line in done.out.splitlines()] == ["step", "sdpa"]


def test_help_explains_every_part(call):
    done = call("gpu", "--help")
    assert done.code == 0 and all(
        f"  {name} " in done.out and what in done.out for name, (_, what) in gpu.PARTS.items()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "stp"], "--only: got 'stp': did you mean 'step'?"),
        (["--seconds", "0"], "--seconds: got 0, wanted more than 0"),
    ],
)
def test_bad_arguments_are_one_line(call, arguments, message):
    done = call("gpu", *arguments)
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1 and not done.out
