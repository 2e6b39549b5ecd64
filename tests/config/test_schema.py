"""The configuration reader: every wrong key and value is one line that names the nearest right one."""

from dataclasses import dataclass

import pytest

from lavita.config.schema import CheckpointConfig, ComputeConfig, ConfigError, SamplingConfig, read


@dataclass(frozen=True)
class Example:
    clips: int
    rate: float
    name: str
    path: str | None
    widths: tuple[int, ...]


GOOD = {"clips": 3, "rate": 1, "name": "a", "path": None, "widths": [1, 2]}


def test_reads_and_converts():
    value = read(Example, GOOD, "example")
    assert value == Example(3, 1.0, "a", None, (1, 2))
    assert isinstance(value.rate, float)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"clip": 1}, "unknown key example.clip: did you mean 'clips'"),
        ({"clips": "many"}, "example.clips: got 'many', wanted int"),
        ({"clips": True}, "example.clips: got True, wanted int"),
        ({"rate": "fast"}, "example.rate: got 'fast', wanted float"),
        ({"widths": [1, "x"]}, "example.widths: got 'x', wanted int"),
        ({"path": 3.5 + 2j}, "example.path"),
    ],
)
def test_wrong_values(change, message):
    with pytest.raises(ConfigError) as error:
        read(Example, GOOD | change, "example")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_key():
    values = {key: value for key, value in GOOD.items() if key != "rate"}
    with pytest.raises(ConfigError, match="missing key example.rate"):
        read(Example, values, "example")


@pytest.mark.parametrize("steps, count", [("25", 25), ("ddim50", 50), ("10,15,20", 45)])
def test_number_of_steps(steps, count):
    assert SamplingConfig("ddim", steps, 0.0, 1.0, None, False, 8, "generation", 1, "32-true").num_steps == count


COMPUTE = {
    "precision": "32-true", "compile": "auto", "threads": 1, "pass_clips": "auto", "checkpoint_activations": False,
    "devices": 2, "nodes": 3, "strategy": "fsdp", "deterministic": False,
}  # fmt: skip


def test_processes_are_devices_times_nodes():
    assert read(ComputeConfig, COMPUTE, "compute").processes == 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"devices": 0}, "compute.devices: got 0, wanted at least 1"),
        ({"nodes": 0}, "compute.nodes: got 0, wanted at least 1"),
        ({"strategy": "dp"}, "compute.strategy: got 'dp', allowed auto, ddp, fsdp"),
        ({"devices": 1, "nodes": 1}, "compute.strategy: got fsdp for one process, wanted auto"),
        ({"pass_clips": 0}, "compute.pass_clips: got 0, wanted at least 1"),
        ({"pass_clips": "all"}, "compute.pass_clips: got all, wanted clips of one pass, at least 1, or auto"),
        ({"pass_clips": 2.5}, "compute.pass_clips: got 2.5, wanted int"),
        ({"precision": "16-mixed"}, "compute.precision: got '16-mixed', allowed 32-true, bf16-mixed"),
        ({"compile": "never"}, "compute.compile: got 'never', allowed True, False, auto"),
        ({"compile": 2}, "compute.compile: got '2', allowed True, False, auto"),
    ],
)
def test_processes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError) as error:
        read(ComputeConfig, COMPUTE | change, "compute")
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every_clips": 0}, "checkpoint.every_clips: got 0, wanted at least 1"),
        ({"every_minutes": 0}, "checkpoint.every_minutes: got 0.0, wanted above 0"),
        ({"every_minutes": float("inf")}, "checkpoint.every_minutes: got inf, wanted above 0"),
        ({"every_minutes": "often"}, "checkpoint.every_minutes: got 'often', wanted float"),
    ],
)
def test_how_often_a_stage_is_kept(change, message):
    assert read(CheckpointConfig, {"every_clips": 8, "every_minutes": 20}, "checkpoint").every_minutes == 20.0
    with pytest.raises(ConfigError) as error:
        read(CheckpointConfig, {"every_clips": 8, "every_minutes": 20} | change, "checkpoint")
    assert str(error.value) == message
