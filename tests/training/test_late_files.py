"""Two processes on a network file system that lists new files late: what is there is decided by one of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("late_files.py")
ROOT = WORKER.parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    """The results of both processes."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    started = []
    for rank in ("0", "1"):
        with (out / f"said{rank}").open("w") as said:
            environment = os.environ | common | {"RANK": rank, "LOCAL_RANK": rank}
            started.append(
                subprocess.Popen([sys.executable, str(WORKER), str(out)], env=environment, stdout=said, stderr=said)
            )
    try:
        codes = [process.wait(timeout=150) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], "".join((out / f"said{rank}").read_text()[-3000:] for rank in (0, 1))
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_no_part_is_made_twice_and_the_first_process_has_all(two):
    first, second = (result["parts"] for result in two)
    made, other = first["made"], second["made"]
    assert sorted(made[:4] + other[:3]) == list(range(0, 20, 3))
    assert first["nothing_made"] and second["nothing_made"]
    assert made[4:] == [3] and other[3:] == []  # the one that was let go of
    for clips in first["clips"]:
        assert [int(value) for value in clips] == list(range(20)) and clips == first["clips"][0]
    assert second["clips"] == [[], [], []]
    done = [done for done, _ in first["reports"]]
    assert done[-1] == 20 and all(total == 20 for _, total in first["reports"])


def test_a_stage_is_resumed_from_one_checkpoint_and_trained_once(two):
    first, second = (result["stage"] for result in two)
    assert first["stopped"] and second["stopped"]
    assert first["starts"] == second["starts"] and first["starts"][0] is None
    assert first["starts"][-1].startswith("at-train-00000000000020.000.")
    for result in (first, second):
        assert result["not_again"] and len(result["seen"]) == 8 and result["trained"]["steps"] == 8
        assert result["trained"] == result["found"] == first["trained"]
    assert sorted(sum(first["seen"] + second["seen"], [])) == list(range(32))


def test_whether_clips_are_scored_is_said_by_the_first(two):
    first, second = (result["scores"] for result in two)
    assert first == {"calls": ["sample", "score"], "scores": [[1.0], [1.0]]}
    assert second == {"calls": ["sample"], "scores": [[], []]}


def test_a_long_wait_for_the_first_breaks_no_collective_and_its_error_ends_all(two):
    first, second = (result["waits"] for result in two)
    assert first == {"slow": "done", "everyone": [0, 10], "said": "division by zero"}
    assert second == {
        "slow": "done",
        "everyone": [],
        "said": "the first process ended: ZeroDivisionError: division by zero",
    }
