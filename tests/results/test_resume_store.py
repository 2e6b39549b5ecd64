"""Files that are kept with their hash in the name: whole or not there, whatever happens to them or to their writer."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lavita import files
from lavita.files import atomic_write, naming_file, remove_parts
from lavita.results.resume_store import ResumeStore

SOURCE = Path(__file__).resolve().parents[2] / "src"
OLD, NEW = "the old content", "the new content, which is longer"


def put(kept: ResumeStore, text: str) -> Path:
    return kept.save("a-000016.000", ".txt", lambda file: file.write(text.encode()))


def found(kept: ResumeStore) -> str | None:
    path = kept.load("a-000016.000", ".txt")
    return None if path is None else path.read_text()


def test_the_last_that_was_put_is_found(tmp_path):
    kept = ResumeStore(tmp_path / "deep" / "folder")
    assert found(kept) is None
    put(kept, OLD)
    assert found(kept) == OLD
    put(kept, NEW)
    assert found(kept) == NEW and len(list(kept.folder.iterdir())) == 1
    put(kept, NEW)
    assert found(kept) == NEW and kept.damaged == []
    assert kept.names("a-", ".txt") == ["a-000016.000"]
    kept.delete("a-000016.000", ".txt")
    assert found(kept) is None and not list(kept.folder.iterdir())


def test_values(tmp_path):
    kept = ResumeStore(tmp_path)
    assert kept.load_value("v") is None
    made = []
    for _ in range(2):
        assert kept.get_or_compute("v", lambda: made.append(1) or {"losses": [(1, 0.1)], "pi": 0.1 + 0.2}) == {
            "losses": [[1, 0.1]],
            "pi": 0.1 + 0.2,
        }
    assert made == [1]


@pytest.mark.parametrize("name", ["scores of sample [1]", "a*b", "end-autoencoder"])
def test_names_are_taken_as_they_are(name, tmp_path):
    kept = ResumeStore(tmp_path)
    kept.save_value(name, 1)
    kept.save_value(f"{name}-gan", 2)
    assert kept.load_value(name) == 1 and kept.load_value(f"{name}-gan") == 2
    assert kept.load_value(name.replace("*", "x").replace("[1]", "1")) in (None, 1)


@pytest.mark.parametrize("how", ["cut", "emptied", "one bit", "renamed", "another's content"])
def test_what_was_damaged_is_as_if_never_put(how, tmp_path):
    kept = ResumeStore(tmp_path)
    path = put(kept, OLD)
    content = path.read_bytes()
    if how == "renamed":
        path = path.rename(path.with_name(path.name.replace(path.name.split(".")[-2], "0123456789abcdef")))
    else:
        one_bit = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes({"cut": content[:-1], "emptied": b"", "one bit": one_bit}.get(how, NEW.encode()))
    assert found(kept) is None and kept.damaged == [path.name] and not path.exists()
    put(kept, NEW)
    assert found(kept) == NEW


def test_of_two_under_a_name_a_damaged_one_is_passed_over(tmp_path):
    """A process that was ended between two steps of put leaves both."""
    kept = ResumeStore(tmp_path)
    old = put(kept, OLD).read_bytes()
    name = next(tmp_path.iterdir()).name
    new = put(kept, NEW)
    (tmp_path / name).write_bytes(old)
    os.utime(tmp_path / name, (1, 1))
    assert found(kept) == NEW
    new.write_bytes(b"x")
    assert found(kept) == OLD


def test_the_hash_is_taken_of_what_is_written_and_nothing_is_read_again(tmp_path, monkeypatch):
    """Whatever writes: pieces of any kind, numpy's archives, torch's; the name holds the file's sha256."""
    kept = ResumeStore(tmp_path)
    writers = {
        "pieces": lambda file: [file.write(piece) for piece in (b"a", bytearray(b"bc"), memoryview(np.arange(9.0)))],
        "numpy": lambda file: np.savez(file, clips=np.arange(10**5), seconds=np.array(1.5)),
        "torch": lambda file: torch.save({"weight": torch.arange(10**5), "step": 3}, file),
    }
    plain, opened = io.open, []
    monkeypatch.setattr("builtins.open", lambda path, mode="r", *more: opened.append(mode) or plain(path, mode, *more))
    paths = {name: kept.save(name, ".bin", fill) for name, fill in writers.items()}
    monkeypatch.undo()
    assert opened == ["wb"] * 3
    for path in paths.values():
        assert path.name.split(".")[-2] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert paths["pieces"].read_bytes() == b"abc" + np.arange(9.0).tobytes()
    with np.load(paths["numpy"]) as file:
        assert np.array_equal(file["clips"], np.arange(10**5)) and file["seconds"] == 1.5
    content = torch.load(paths["torch"], weights_only=True, mmap=True)
    assert content["step"] == 3 and torch.equal(content["weight"], torch.arange(10**5))


def test_a_file_that_another_process_named_is_waited_for(tmp_path, monkeypatch):
    kept = ResumeStore(tmp_path)
    looks, moment = [], [0.0]

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        moment[0] += seconds
        if len(looks) == 4:
            (tmp_path / "a.txt").write_text("late")

    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: moment[0], sleep=sleep))
    assert kept.named("a.txt").read_text() == "late" and len(looks) == 4
    with pytest.raises(FileNotFoundError, match="never"):
        kept.named("never.txt")
    assert 120 <= sum(looks[4:]) < 122


def test_files_of_others_are_no_business_of_it(tmp_path):
    for name in ("a-000016.000.txt", "a-000016.000.0123.txt", ".a-000016.000.txt", "..a-000016.000.txt.12.part"):
        (tmp_path / name).write_text("anything")
    kept = ResumeStore(tmp_path)
    assert found(kept) is None and kept.names("a-", ".txt") == [] and len(list(tmp_path.iterdir())) == 4
    put(kept, NEW)
    assert found(kept) == NEW
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".samples.12.part.gif").write_text("a picture that was being written")
    remove_parts(tmp_path)
    assert not list(tmp_path.glob("*.part")) and not list((tmp_path / "deep").iterdir())


def test_what_fails_leaves_the_old_one(tmp_path):
    kept = ResumeStore(tmp_path)
    put(kept, OLD)

    def fill(file) -> None:
        file.write(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        kept.save("a-000016.000", ".txt", fill)
    assert found(kept) == OLD and len(list(tmp_path.iterdir())) == 1


# Kills itself where the first argument says: within fill, or just before or after the n-th call of a function of os.
KILLED = f"""
import os, signal, sys
from pathlib import Path
from lavita.results.resume_store import ResumeStore

where, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
calls = 0

def end():
    os.kill(os.getpid(), signal.SIGKILL)

def fill(file):
    file.write({NEW.encode()!r}[:9])
    file.flush()
    if where == "fill":
        end()
    file.write({NEW.encode()!r}[9:])

def hooked(plain):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == count and where.startswith("before"):
            end()
        plain(*arguments, **options)
        if calls == count and where.startswith("after"):
            end()
    return call

kept = ResumeStore(folder)
name = where.rpartition(" ")[2]
if name != "fill":
    setattr(os, name, hooked(getattr(os, name)))
kept.save("a-000016.000", ".txt", fill)
print("ended")
"""


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize(
    ("where", "count"),
    [("fill", 1), ("before fsync", 1), ("after fsync", 1)]
    + [("before replace", 1), ("after replace", 1)]
    + [(f"{side} unlink", count) for side in ("before", "after") for count in (1, 2)],
)
def test_a_writer_that_is_killed_tears_and_loses_nothing(where, count, before, tmp_path):
    """SIGKILL at every step of put: the old content or the new one is found, whole; the next put works."""
    kept = ResumeStore(tmp_path)
    if before:
        put(kept, before)
    words = [sys.executable, "-c", KILLED, where, str(count), str(tmp_path)]
    process = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True)
    reached = process.returncode == -signal.SIGKILL
    # With nothing before there is nothing to unlink but the temporary file's own name.
    assert reached or (process.stdout == "ended\n" and "unlink" in where), process.stderr
    last = ("after replace", 1)
    expected = {NEW} if not reached or "unlink" in where or (where, count) == last else {before}
    if where.endswith("unlink") and count == 1:
        expected = {NEW, before}  # which of the two files is unlinked first is no promise
    assert found(kept) in expected and kept.damaged == []
    put(kept, "later")
    assert found(kept) == "later"
    remove_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    def fill(part: Path) -> None:
        raise OSError(28, "No space left on device", str(part))

    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '.*/record.json'$"):
        atomic_write(tmp_path / "record.json", fill)
    with pytest.raises(OSError, match="'log.txt'$"), naming_file(Path("log.txt")):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="'other'$"), naming_file(Path("log.txt")):
        raise OSError(28, "No space left on device", "other")


def test_a_library_that_hides_a_full_disk_does_not_get_away_with_it(tmp_path):
    """/dev/full takes nothing, as a full disk does; torch and safetensors say so in errors of their own."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is of Linux")

    def fill(part: Path) -> None:
        part.symlink_to("/dev/full")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    with pytest.raises(OSError, match="No space left on device: '.*/a.ckpt'"):
        atomic_write(tmp_path / "a.ckpt", fill)
    assert not list(tmp_path.iterdir())
