"""Every command without a network: all of them do their work, and none tries to reach anything, swallowed or not.

Two walls at once: Python's sockets and look-ups of names refuse and write down every attempt, in every process of a
command; and where the kernel lets us, the commands run where there is nothing but loopback, so that libraries which
open connections below Python fail too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavita.data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = Path(__file__).parent / "no_network"
TINY = [
    "data.latent_cache=false",
    "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip
ELSEWHERE = "192.0.2.1"  # of TEST-NET-1, RFC 5737: nobody's
# Brings loopback up in a network of its own, then becomes the command: 0x8914 is SIOCSIFFLAGS, 0x41 up and running.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def alone() -> list[str]:
    """What a command is begun with so that it has no network but loopback; [] where the kernel does not let us."""
    words = ["unshare", "-n", sys.executable, "-I", "-c", LOOPBACK_UP]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, timeout=30)
    except OSError:
        return []
    return words if done.returncode == 0 else []


class Offline:
    """Runs commands behind both walls; log: the attempts of all."""

    def __init__(self, folder: Path) -> None:
        self.log, self.words = folder / "attempts.txt", alone()

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        # Nothing that tells a library to keep quiet: it must be quiet by itself.
        kept = {key: value for key, value in kept.items() if not key.startswith(("HF_", "TRANSFORMERS_", "DIFFUSERS_"))}
        own = {"PYTHONPATH": str(NO_NETWORK), "NO_NETWORK_LOG": str(self.log), "OMP_NUM_THREADS": "1"}
        return kept | own | {"HF_HOME": str(self.log.parent / "hub")}

    def run(self, *command: object) -> subprocess.CompletedProcess:
        """A Python command to its end."""
        words = [*self.words, sys.executable, *map(str, command)]
        return subprocess.run(words, capture_output=True, text=True, timeout=170, env=self.environment(), cwd=ROOT)

    def attempts(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def offline(tmp_path) -> Offline:
    return Offline(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Offline]:
    """The results folder of a run without a network, and the walls that it ran behind."""
    base = tmp_path_factory.mktemp("offline")
    walls = Offline(base)
    where = ["--out", base / "out", "--cache", base / "cache", "--workers", 1]
    done = walls.run(
        "benchmarks/run.py", "--suite", "ucf101-class", "--tier", "demo", "--methods", "lavita-v1,pvdm", *where, *TINY
    )
    assert done.returncode == 0 and " 0 failed (" in done.stdout, done.stdout + done.stderr
    return base / "out", walls


ATTEMPTS = {
    "connect": f"import socket\nsocket.socket().connect(('{ELSEWHERE}', 80))",
    "connect_ex": f"import socket\nsocket.socket().connect_ex(('{ELSEWHERE}', 80))",
    "create_connection": f"import socket\nsocket.create_connection(('{ELSEWHERE}', 80), 2)",
    "sendto": f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{ELSEWHERE}', 53))",
    "sendto with flags": f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', 0, ('{ELSEWHERE}', 53))",
    "sendmsg": f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('{ELSEWHERE}', 53))",
    "getaddrinfo": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "gethostbyname": "import socket\nsocket.gethostbyname('example.org')",
    "urlopen": "import urllib.request\nurllib.request.urlopen('https://example.org', timeout=2)",
    "version 6": "import socket\nsocket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
}


@pytest.mark.parametrize("name", ATTEMPTS)
@pytest.mark.parametrize("how", ["raised", "swallowed", "by a child"])
def test_the_wall_stands(offline, name, how):
    code = ATTEMPTS[name]
    if how == "by a child":
        code = f"import subprocess, sys\nraise SystemExit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    if how == "swallowed":
        code = "try:\n" + "".join(f"    {line}\n" for line in code.splitlines()) + "except Exception:\n    pass"
    done = offline.run("-c", code)
    assert (done.returncode == 0) == (how == "swallowed"), done.stderr
    assert ELSEWHERE in offline.attempts() or "example.org" in offline.attempts() or "2001:db8" in offline.attempts()


def test_loopback_and_unix_sockets_stay(offline):
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", server.getsockname()[1]), 5).sendall(b"x")
one, other = socket.socketpair()
one.sendall(b"x")
socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
"""
    done = offline.run("-c", code)
    assert done.returncode == 0 and not offline.attempts(), done.stderr + offline.attempts()


def test_below_python_there_is_no_network_either(offline):
    if not offline.words:
        pytest.skip("unshare -n is not allowed here (it needs root): only Python's own sockets were blocked")
    code = f"import socket\nsocket.socket().connect(('{ELSEWHERE}', 80))"
    done = offline.run("-I", "-c", code)  # -I: without the wall in Python
    assert done.returncode != 0 and "unreachable" in done.stderr and not offline.attempts()


def test_a_run_reaches_for_nothing(finished):
    folder, walls = finished
    assert (folder / "report.html").is_file() and walls.attempts() == ""


def test_every_other_command_reaches_for_nothing(finished, tmp_path):
    folder, walls = finished
    data = write_synthetic("faceforensics", tmp_path / "data")
    (shared,) = (folder / "shared").iterdir()
    samples = [folder / "cells" / name / "samples" for name in ("lavita-v1-s0", "pvdm-s0")]
    extractor = ["--extractor", f"embedded:{shared / 'extractor.safetensors'}"]
    sides = ["--real", samples[1], "--generated", samples[0], "--protocol", "demo", "--clips", 8]
    commands = {
        "sample": ["--checkpoint", samples[0].parent, "--out", tmp_path / "clips", "--clips", 2],
        "evaluate": [*sides, *extractor, "--out", tmp_path / "scores"],
        "audit": [folder],
        "parity": ["tests/parity/frechet_full.json", "tests/parity/dit.json"],
        "prepare": ["faceforensics", data, "--manifest", tmp_path / "manifest.csv", "--cache", tmp_path / "cache"],
        "sanity": ["faceforensics", data, "--steps", 2, "--resolution", 16, "--frames", 8],
        "run": ["--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1", "--dry-run"],
    }  # fmt: skip
    for name, arguments in commands.items():
        done = walls.run(f"benchmarks/{name}.py", *arguments)
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert walls.attempts() == "", name
    assert walls.run("benchmarks/evaluate.py", "--from-features", tmp_path / "scores").returncode == 0
    assert walls.attempts() == ""


def test_what_is_not_on_the_machine_is_said_and_not_fetched(finished, tmp_path):
    folder, walls = finished
    kl = ["codec.kind=kl", "codec.path=somebody/an-autoencoder"]
    where = ["--out", tmp_path / "out", "--cache", folder.parent / "cache"]
    done = walls.run(
        "benchmarks/run.py", "--suite", "ucf101", "--tier", "demo", "--methods", "lavita-v1", *where, *kl, *TINY
    )
    assert done.returncode == 2 and walls.attempts() == "", walls.attempts()
    assert len(done.stderr.strip().splitlines()) == 1
    assert "codec.path: no AutoencoderKL at 'somebody/an-autoencoder'" in done.stderr and "hf download" in done.stderr
    samples = folder / "cells" / "lavita-v1-s0" / "samples"
    sides = ["--real", samples, "--generated", samples, "--protocol", "latte-2024", "--clips", 8, "--offline"]
    done = walls.run("benchmarks/evaluate.py", *sides)
    assert done.returncode == 1 and walls.attempts() == "", walls.attempts()
    assert "offline nothing is fetched" in done.stdout
