"""What the processes of a whole run have imported when they end is what their hash is over."""

import json
import os
import subprocess
import sys
from pathlib import Path

from lavita.config.plan import make_plan
from lavita.config.registry import BASELINES, ROOT
from lavita.results import identity
from lavita.results.identity import source_files

ROOTS = {"lavita": ROOT / "src" / "lavita"}
# Written into a folder that every process of the run has in its path: what it had imported when it ended.
WITNESS = """
import atexit, json, os, sys
def write():
    files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
    name = sys.argv[0].rpartition("/")[2] + "." + str(os.getpid())
    with open(os.path.join(os.environ["WITNESSES"], name), "w") as file:
        json.dump([sys.argv[0], sys.argv[1] if len(sys.argv) > 1 else "", *files], file)
atexit.register(write)
"""
TINY = [
    "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip


def test_what_a_run_imports_is_reached(tmp_path):
    """A tiny run of two implementations, with all that is imported late: codec, extractor, first stage, sampler."""
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    (tmp_path / "seen").mkdir()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WITNESSES": str(tmp_path / "seen"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src"), str(ROOT)]),
    }
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101-class", "--tier", "demo"]
    command += ["--methods", "lavita-v1,pvdm", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run([*command, *TINY], capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = make_plan("ucf101-class", "demo", ["lavita-v1", "pvdm"], [0], [])
    lavita, pvdm = ({str(path) for path in source_files(cell).values()} for cell in cells)
    # The shared process builds every method to check its purse, and takes no number from it.
    methods = {str(path) for path in identity.reach(["lavita.methods.lavita.module"], ROOTS).values()} | (pvdm - lavita)
    shared = {str(path) for path in source_files().values()} | methods
    late = str(ROOTS["lavita"] / "score" / "embedded.py")
    for script, folder, reached in (
        ("cell.py", "lavita-v1-s0", lavita), ("cell.py", "pvdm-s0", pvdm), ("shared.py", "", shared)
    ):  # fmt: skip
        (files,) = (
            files for first, given, *files in map(json.loads, (f.read_text() for f in (tmp_path / "seen").iterdir()))
            if Path(first).name == script and folder in given
        )  # fmt: skip
        ours = {file for file in files if Path(file).is_relative_to(ROOT) and Path(file).suffix == ".py"}
        ours -= {file for file in ours if "site-packages" in file or file == str(BASELINES / "__init__.py")}
        assert late in ours and len(ours) > 60 and ours <= reached, ours - reached
