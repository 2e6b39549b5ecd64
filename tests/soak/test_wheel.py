"""A wheel in an environment of its own, outside the checkout: every command works there and writes nothing into it."""

from __future__ import annotations

import csv
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lavita.data.clip_folder import read_clips
from lavita.data.synthetic import write_synthetic
from lavita.results.identity import shared_code_hash

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("src", "baselines", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "results/reported.csv")
TINY = [
    "budget.clips=32", "codec.kind=pixels", "train.warmup_clips=0", "extractor.steps=2", "sampling.steps=2",
    "protocol.n_real=4", "protocol.n_generated=4", "model.depth=1", "model.width=24", "model.num_heads=2",
]  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """base: a git repository around the environment and the working directory; wheel, sdist: the files made."""

    base: Path
    wheel: Path
    sdist: Path

    @property
    def packages(self) -> Path:
        (found,) = (self.base / "env" / "lib").glob("python*/site-packages")
        return found

    def call(self, *words: object, program: str = "lavita", cwd: Path | None = None) -> subprocess.CompletedProcess:
        """A program of the environment, called from the working directory."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LAVITA_"))}
        command = [str(self.base / "env" / "bin" / program), *map(str, words)]
        environment = kept | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=600, cwd=cwd or self.base / "work", env=environment
        )

    def ok(self, *words: object, program: str = "lavita") -> str:
        """The same, which must end well; what it says."""
        done = self.call(*words, program=program)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder, but what Python keeps of them compiled."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def writable(folder: Path, yes: bool) -> None:
    """Let everybody write in folders, or nobody."""
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWUSR if yes else mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel built from a copy of the sources and installed beside the packages of this environment."""
    base = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, base / "sources" / name, symlinks=True, ignore=ignored)
        else:
            (base / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, base / "sources" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    for words in (
        [sys.executable, "-c", build, str(base / "sdist")],
        [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(base / "wheel"), "."],
        [sys.executable, "-m", "venv", "--without-pip", str(base / "env")],
        [*pip, "--python", str(base / "env" / "bin" / "python"), "install", "--no-deps", "--no-index", "WHEEL"],
        ["git", "init", "--quiet", str(base)],
        ["git", "-C", str(base), "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x", "--allow-empty"],
    ):
        words = [str(next((base / "wheel").glob("*.whl"))) if word == "WHEEL" else word for word in words]
        done = subprocess.run(words, capture_output=True, text=True, cwd=base / "sources", timeout=300)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    found = Installed(base, next((base / "wheel").glob("*.whl")), next((base / "sdist").glob("*.tar.gz")))
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (found.packages / "others.pth").write_text("\n".join(others) + "\n")
    (base / "work").mkdir()
    before = tree(found.packages)
    writable(found.packages, False)
    yield found
    writable(found.packages, True)
    assert tree(found.packages) == before


@pytest.fixture(scope="module")
def finished(installed) -> Path:
    """The results folder of a tiny run, where the command puts it by itself."""
    said = installed.ok("run", "--suite", "ucf101", "--tier", "demo", "--methods", "dit", *TINY)
    assert " 0 failed (lavita audit results/ucf101-demo-embedded)" in said, said
    return installed.base / "work" / "results" / "ucf101-demo-embedded"


def wanted() -> set[str]:
    """What a wheel must hold of the package: every file of the tree."""
    folders = {"lavita/baselines": ROOT / "baselines", "lavita/configs": ROOT / "configs"}
    found = {f"{name}/{path}" for name, folder in folders.items() for path in tree(folder)}
    own = {f"lavita/{path}" for path in tree(ROOT / "src" / "lavita")}
    return found | {path for path in own if not path.startswith(tuple(folders))}


def test_the_wheel_holds_every_file_of_the_package_and_the_licence(installed):
    with zipfile.ZipFile(installed.wheel) as file:
        names = [name for name in file.namelist() if not name.endswith("/")]
    assert {name for name in names if name.startswith("lavita/")} == wanted()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_source_archive_holds_them_too(installed):
    with tarfile.open(installed.sdist) as file:
        members = {member.name.partition("/")[2]: member for member in file.getmembers() if not member.isdir()}
    assert all(member.isfile() for member in members.values())
    assert {f"src/{name}" for name in wanted()} <= set(members)
    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= set(members)


def test_a_run_writes_below_the_working_directory_and_claims_no_commit(installed, finished):
    with open(finished / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["status"], row["commit"], row["dirty"]) for row in rows} == {("ok", "unknown", "unknown")}
    assert (finished / "report.html").is_file() and (finished.parent / "cache").is_dir()
    assert {path.name for path in (installed.base / "work").iterdir()} >= {"results"}


def test_the_code_has_the_same_hash_as_in_the_checkout(installed):
    code = "from lavita.results.identity import shared_code_hash; print(shared_code_hash())"
    assert installed.ok("-c", code, program="python").strip() == shared_code_hash()


def test_the_other_commands(installed, finished):
    work = installed.base / "work"
    cell, (extractor,) = finished / "cells" / "dit-s0", finished.glob("shared/*/extractor.safetensors")
    assert " 0 failed; digest " in installed.ok("audit", finished)
    installed.ok("sample", "--checkpoint", cell, "--out", "clips", "--clips", 4, "--seed-start", 7)
    assert read_clips(work / "clips").shape == (4, 8, 32, 32, 3)
    sides = ["--real", cell / "samples", "--generated", "clips", "--protocol", "demo", "--clips", 4]
    said = installed.ok("evaluate", *sides, "--extractor", f"embedded:{extractor}", "--out", "scores")
    assert "fvd_embedded_n4_f8" in said and installed.ok("evaluate", "--from-features", "scores")
    data = write_synthetic("faceforensics", work / "data")
    installed.ok("prepare", "faceforensics", data)
    assert (work / "results" / "cache").is_dir() and (data / "manifest.csv").is_file()
    installed.ok("sanity", "faceforensics", data, "--steps", 2, "--resolution", 16, "--frames", 8)
    cases = [ROOT / "tests" / "parity" / f"{name}.json" for name in ("dit", "vdt", "frechet_full")]
    assert "3 of 3 cases pass" in installed.ok("parity", *cases)
    installed.ok("speed", "score", "--only", "frechet", "--clips", 16, "--features", 4, "--rounds", 1)


def test_python_m_lavita_and_the_library_give_the_same_clips(installed, finished):
    work, cell = installed.base / "work", finished / "cells" / "dit-s0"
    installed.ok("-m", "lavita", "sample", "--checkpoint", cell, "--out", "by-m", "--clips", 2, program="python")
    code = f"import lavita, numpy; numpy.save('by-import.npy', lavita.sample({str(cell)!r}, 2))"
    installed.ok("-c", code, program="python")
    assert np.array_equal(read_clips(work / "by-m"), np.load(work / "by-import.npy"))


def test_a_missing_data_root_names_the_same_tree_as_in_the_checkout(installed):
    here = installed.call("run", "--suite", "skytimelapse")
    words = [sys.executable, "benchmarks/run.py", "--suite", "skytimelapse"]
    there = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert here.returncode == there.returncode == 2 and "sky_train" in here.stderr
    assert here.stderr.replace("lavita run", "run.py") == there.stderr.replace("python benchmarks/run.py", "run.py")
