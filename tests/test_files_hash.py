"""The hash of a file is made as it is read: a checkpoint of some GB takes some MB of memory."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lavita.files import sha256_of

ROOT = Path(__file__).resolve().parents[1]
GB = 2**30
HASH_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from lavita.files import sha256_of
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
try:
    Path(sys.argv[1]).read_bytes()
except MemoryError:
    print(sha256_of(Path(sys.argv[1])))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to know the memory in use")
def test_two_gigabytes_are_hashed_in_sixteen_megabytes(tmp_path):
    """In a process that may take 16 MB more than it has, where reading the whole file fails."""
    path = tmp_path / "weights"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 2 * GB)
    command = [sys.executable, "-c", HASH_UNDER_A_LIMIT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    zeros = hashlib.sha256()
    for _ in range(2048):
        zeros.update(bytes(2**20))
    assert done.stdout.strip() == zeros.hexdigest(), done.stderr


def test_nothing_hashes_a_file_that_it_has_read_whole():
    whole = re.compile(r"sha256\([^)]*read_bytes\(\)")
    assert not [str(path) for path in (ROOT / "src").rglob("*.py") if whole.search(path.read_text(encoding="utf-8"))]


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
