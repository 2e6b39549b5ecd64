"""The processes that train one run together, one per device: started here where no scheduler has started them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lavita.config.schema import ComputeConfig
from lavita.executors.process import PARENT
from lavita.results.attempts import PROGRESS
from lavita.training import distributed

ALL_GONE_SECONDS = 30.0  # after one has failed: what the others' own errors take to arrive


@contextmanager
def together(compute: ComputeConfig, folder: Path) -> Iterator[None]:
    """Inside, as many processes as compute.devices work on the run in a folder: this one and, where nobody has started
    them yet (a cluster's scheduler does), others that run the same command. Their output goes to
    progress/log-<rank>.txt.
    """
    if "RANK" in os.environ or compute.devices == 1:
        try:
            yield
        finally:
            distributed.end_group()
        return
    os.environ |= rank_environment(0, compute.devices, free_port())
    others = [start_other(rank, compute.devices, folder) for rank in range(1, compute.devices)]
    watch = threading.Thread(target=end_with_them, args=(others,), daemon=True)
    watch.start()
    try:
        yield
        for process in others:
            process.wait()
    finally:
        distributed.end_group()
        for process in others:
            process.kill()


def rank_environment(rank: int, world: int, port: int) -> dict[str, str]:
    """torch's variables of a process among those of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in numbers.items()}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_other(rank: int, world: int, folder: Path) -> subprocess.Popen:
    """The process of another rank, which runs this process's command."""
    port = int(os.environ["MASTER_PORT"])
    environment = os.environ | rank_environment(rank, world, port) | {PARENT: str(os.getpid())}
    progress = folder / PROGRESS
    progress.mkdir(parents=True, exist_ok=True)
    with (progress / f"log-{rank}.txt").open("a") as log:
        command = [sys.executable, "-m", "lavita.experiment.run", *sys.argv[1:]]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)


def end_with_them(others: list[subprocess.Popen]) -> None:
    """End this process a while after another failed; it would otherwise wait for ever."""
    while all(process.poll() in (None, 0) for process in others):
        if all(process.poll() == 0 for process in others):
            return
        time.sleep(0.5)
    time.sleep(ALL_GONE_SECONDS)
    codes = [process.poll() for process in others]
    print(f"other processes of this run ended with {codes}; see progress/log-*.txt", file=sys.stderr, flush=True)
    os._exit(1)
