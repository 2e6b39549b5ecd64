"""Memory that training no longer refers to goes back to the kernel, though an allocator is told to keep it."""

import os
import platform
import subprocess
import sys

import pytest

from lavita.executors.process import STEADY_CPU

MIB = 2**20
# Between tensors that go lie small ones that stay, so that nothing but a trim of the whole heap gives it back.
HELD = """
import torch
from lavita.training.fit import free_memory

def resident():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(lines["RssAnon"].split()[0])

large, small = [], []
for _ in range(64):
    large.append(torch.ones(2**21))  # 8 MiB
    small.append(torch.ones(2**10))
there = resident()
large.clear()
kept = resident()
free_memory()
print(there, kept, resident(), len(small))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_is_no_longer_used_goes_back():
    done = subprocess.run(
        [sys.executable, "-c", HELD], capture_output=True, text=True, env=os.environ | STEADY_CPU, timeout=120
    )
    assert done.returncode == 0, done.stderr
    there, kept, after, _ = map(int, done.stdout.split())
    assert kept > there - 64 * MIB  # of 512 MiB nearly all is kept
    assert after < there - 448 * MIB
