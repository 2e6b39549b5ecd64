"""Scores of one and of two processes are equal bit for bit, whoever saw which clips and how often."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
import numpy as np, torch
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet
from lavita.metrics.torchmetrics import (
    FrechetFrameDistance, FrechetVideoDistance, KernelVideoDistance, MemorizationCheck, VideoInceptionScore
)

rank, store, whole, shares = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
torch.manual_seed(0)
extractor = InDomainExtractor(InDomainNet(3), {})

class Frames:
    name, weights_hash, num_features = "means", "", 3
    def frame_features(self, clips):
        return torch.from_numpy(clips).float().mean(dim=(2, 3)).flatten(0, 1)

def clips(seed):
    return np.random.default_rng(seed).integers(0, 256, (10, 4, 16, 16, 3), dtype=np.uint8)

sets = {"real": clips(0), "generated": clips(1), "train": clips(2), "heldout": clips(3)}
def scores(share):
    metrics = [
        FrechetVideoDistance(extractor, 10), KernelVideoDistance(extractor, 10), VideoInceptionScore(extractor, 10, 2),
        FrechetFrameDistance(Frames(), 10), MemorizationCheck(extractor, 10, 10, 10),
    ]
    for metric in metrics:
        check = isinstance(metric, MemorizationCheck)
        for side in ("train", "heldout", "generated") if check else ("real", "generated"):
            for batch in share[side]:
                metric.update(sets[side][batch], side if check else side == "real", indices=batch)
    return [float(metric.compute()).hex() for metric in metrics]

alone = scores(whole)
torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=len(shares))
together = scores(shares[rank])
# Left to the interpreter's exit, gloo's threads may still run when their owner is gone, and the process is aborted.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
print(json.dumps([alone, together]))
"""


def run(whole, shares, folder):
    """What each process printed: scores of all clips by itself, and of its share together with the others."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"PYTHONPATH": str(ROOT / "src")}
    arguments = [str(folder / "store"), json.dumps(whole), json.dumps(shares)]
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(rank), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(shares))
    ]
    try:
        done = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), [errors[-2000:] for _, errors in done]
    return [json.loads(out.splitlines()[-1]) for out, _ in done]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gloo over the loopback device, named as on Linux")
def test_one_and_two_processes_agree_to_the_last_bit(tmp_path):
    every = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]
    whole = dict.fromkeys(("real", "generated", "train", "heldout"), every)
    # As a padded sampler deals them: in turns, in other batches, two clips twice; and one process without a clip.
    one = {"real": [[0, 2], [4, 6, 8, 0]], "generated": [[9, 7, 5, 3, 1]], "train": every, "heldout": [[0, 1, 2]]}
    two = {
        "real": [[9, 1], [3], [5, 7, 1]],
        "generated": [[8, 6], [4, 2, 0, 9]],
        "train": [],
        "heldout": [[3, 4, 5, 6]],
    }
    two["heldout"] += [[9, 8, 7, 3]]
    (alone, together), other = run(whole, [one, two], tmp_path)
    assert together == alone and other == [alone, alone]
    assert len(set(alone)) == 5
