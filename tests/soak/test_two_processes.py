"""What a stage learns does not depend on the number of processes that train it: one against two, by gloo on the CPU."""

from __future__ import annotations

import csv
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WORKER = Path(__file__).with_name("together.py")
ROOT = WORKER.parents[2]
STAGES = (
    "lavita-v4", "dit-joint", "vdt", "codec", "pvdm-autoencoder", "pvdm-adversarial", "pvdm-diffusion",
    "lvdm-autoencoder", "lvdm-adversarial", "lvdm-diffusion", "mcvd",
)  # fmt: skip
# strategy, passes (two: with blocks that run again), dtype, stage
CASES = [
    *(f"ddp_1_float64_{stage}" for stage in STAGES),
    # Of the transformers one, below: they are cut in the same way, and cut weights are slow on a CPU.
    *(f"fsdp_1_float64_{stage}" for stage in ("codec", "pvdm-adversarial", "pvdm-diffusion")),
    "ddp_2_float64_pvdm-adversarial",
    "ddp_2_float64_vdt",  # of two passes one is sent
    "fsdp_2_float64_lavita-images",
    "ddp_1_float32_lavita-v1",
]
SPECIAL = ["ddp_1_float64_apart", "ddp_1_float32_diverge", "ddp_1_float32_by-seconds"]
# float64: losses are sums of at most 1e5 terms of like size, in another order: 1e5 x 2^-53 relative; through ten steps
# the same again. float32: as the golden losses.
LOSS_TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
# AdamW divides by |gradient| + 1e-8: where a gradient should be 0 (a bias before batch norm or softmax), its rounding,
# at most 1e3 terms x 2^-53 = 1e-13, moves a weight by 1e-5 of the learning rate of 1e-3 in each of ten steps.
WEIGHT_TOLERANCE = 1e-7


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder and both processes' results of all cases."""
    out = tmp_path_factory.mktemp("two")
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    started = []
    for rank in ("0", "1"):
        with (out / f"said{rank}").open("w") as said:
            environment = os.environ | common | {"RANK": rank, "LOCAL_RANK": rank}
            command = [sys.executable, str(WORKER), str(out), *CASES, *SPECIAL]
            started.append(subprocess.Popen(command, env=environment, stdout=said, stderr=said))
    try:
        codes = [process.wait(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], "".join((out / f"said{rank}").read_text()[-3000:] for rank in (0, 1))
    return out, [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Any:
    """one(case) is the folder and the result of the same case in this process alone, run once."""
    spec = importlib.util.spec_from_file_location("together", WORKER)
    together = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(together)
    out, known = tmp_path_factory.mktemp("one"), {}

    def of(case: str) -> tuple[Path, dict[str, Any]]:
        case = "auto_" + case.partition("_")[2].replace("apart", "pvdm-adversarial")
        if case not in known:
            known[case] = together.run(case, out)
        return out / case, known[case]

    return of


def losses(folder: Path) -> list[float]:
    """The loss of each step."""
    with (folder / "steps.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves as (clips, value)."""
    (events,) = (folder / "tensorboard").rglob("events.out.tfevents*")
    read = EventAccumulator(str(events.parent)).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of any value of two states."""
    assert list(ours) == list(theirs)
    return max(float((value.double() - theirs[name].double()).abs().max()) for name, value in ours.items())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_see_and_learn_what_one_does(case, one, two):
    (folder, alone), (out, results) = one(case), two
    first, second = (result[case] for result in results)
    dtype = case.split("_")[2]
    tolerance = LOSS_TOLERANCE[dtype]
    batch = 4
    for step in range(10):
        seen = [part["read"][step * batch // 2 : (step + 1) * batch // 2] for part in (first, second)]
        assert sorted(sum(seen, [])) == sorted(alone["read"][step * batch : (step + 1) * batch])
    assert (first["clips"], first["steps"]) == (alone["clips"], alone["steps"]) == (second["clips"], second["steps"])

    assert losses(out / case) == pytest.approx(losses(folder), rel=tolerance) and len(losses(folder)) == 10
    for part in (first, second):
        assert [clips for clips, _ in part["heldout"]] == [clips for clips, _ in alone["heldout"]]
        assert [x for _, x in part["heldout"]] == pytest.approx([x for _, x in alone["heldout"]], rel=tolerance)
    ours, theirs = scalars(out / case), scalars(folder)
    assert ours.keys() == theirs.keys() and len(theirs) >= 2
    for tag, curve in theirs.items():
        assert [clips for clips, _ in ours[tag]] == [clips for clips, _ in curve]
        # Events hold float32.
        expected = [value for _, value in curve]
        assert [value for _, value in ours[tag]] == pytest.approx(expected, rel=max(tolerance, 2**-23), abs=1e-7)

    assert all(torch.equal(value, second["state"][name]) for name, value in first["state"].items())
    assert all(type(value) is torch.Tensor for value in first["state"].values())
    if dtype == "float64":
        assert furthest(first["state"], alone["state"]) < WEIGHT_TOLERANCE


def test_batch_statistics_of_each_process_alone_would_be_noticed(one, two):
    case = "ddp_1_float64_apart"
    (_, alone), (_, results) = one(case), two
    assert furthest(results[0][case]["state"], alone["state"]) > 1e3 * WEIGHT_TOLERANCE


def test_a_loss_that_is_not_finite_on_one_process_ends_both(two):
    for result in two[1]:
        assert result["ddp_1_float32_diverge"]["said"] == "loss is nan at step 2 of stage train (4 clips seen)"


def test_the_first_process_says_when_the_seconds_are_over(two):
    first, second = (result["ddp_1_float32_by-seconds"] for result in two[1])
    assert first == second and first["seconds"] >= 0.5 and first["steps"] > 1


def test_the_number_of_processes_is_checked():
    from lavita.config.schema import ComputeConfig
    from lavita.training.fit import placement

    with pytest.raises(ValueError, match="compute.devices: 2 on 3 nodes are 6 processes, but this is one of 1"):
        placement(ComputeConfig("32-true", False, 1, 1, False, 2, 3, "auto", False), None)
