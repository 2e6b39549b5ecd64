"""`python -m tests.soak.slurm.together FOLDER`: processes that count together over gloo as runs train together: the
first one alone writes, all stop in the same step when it is asked to, and resume from there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed

from lavita.executors.heartbeat import Progress, Result, emit
from lavita.executors.process import end_with_parent
from lavita.results.records import read_record, write_record
from lavita.training import checkpoint

STEPS = 40


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    first = distributed.get_rank() == 0
    kept = folder / "progress" / "count.json"
    count, total = json.loads(kept.read_text()) if kept.is_file() else (0, 0)
    while count < STEPS:
        time.sleep(0.2)
        step = torch.tensor([distributed.get_rank() + 1, int(first and checkpoint.asked())])
        distributed.all_reduce(step)
        count, total = count + 1, total + int(step[0])
        if first:
            emit(Progress("count", count, STEPS))
        if step[1]:
            if first:
                kept.write_text(json.dumps([count, total]))
                emit(Result("interrupted", "asked to stop"))
            raise SystemExit(1)
    if first:
        ranks = [os.environ[key] for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK")]
        (folder / "counted.json").write_text(json.dumps({"total": total, "ranks": ranks}))
        write_record(folder, replace(read_record(folder), status="ok"))
        emit(Result("ok"))


if __name__ == "__main__":
    end_with_parent()
    checkpoint.listen()
    main(Path(sys.argv[1]))
