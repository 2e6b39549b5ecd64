"""prepare.py on whole and on broken copies of the four data sets: what it prints, writes and returns, item by item."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lavita.data import scan, sources
from lavita.data.layouts import read_layout
from lavita.data.trees import LayoutError
from lavita.data.video import write_video
from tests.data.web_server import WebServer

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
RNG = np.random.default_rng(0)
SUFFIX = {"ucf101": ".avi", "faceforensics": ".mp4", "skytimelapse": "", "taichi": ""}
PLACES = {
    "ucf101": ("UCF-101/Wave/v_Wave_g{:02d}_c01.avi", "UCF-101/Wave/v_Wave_g{:02d}_c01.avi"),
    "faceforensics": ("preprocess_ffs/train/videos/face{:02d}.mp4", "preprocess_ffs/test/videos/face{:02d}.mp4"),
    "skytimelapse": ("sky_train/sky{:02d}/sky{:02d}_1", "sky_test/sky{:02d}/sky{:02d}_1"),
    "taichi": ("taichi-256/frames/train/video{:02d}", "taichi-256/frames/test/video{:02d}"),
}
TRAIN, HELDOUT = range(1, 9), range(9, 12)


def write(path: Path, frames: int) -> None:
    """A video file or frame folder of noise: no two are alike."""
    pictures = RNG.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
    if path.suffix:
        write_video(path, pictures, 25, lossless=False)
        return
    path.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{number:05d}.jpg")


def place(dataset: str, root: Path, number: int) -> Path:
    return root / PLACES[dataset][number in HELDOUT].format(number, number)


def write_lists(root: Path, train: list[str], heldout: list[str]) -> None:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "classInd.txt").write_text("1 Wave\n")
    (lists / "trainlist01.txt").write_text("".join(f"Wave/{name} 1\n" for name in train), encoding="utf-8")
    (lists / "testlist01.txt").write_text("".join(f"Wave/{name}\n" for name in heldout), encoding="utf-8")


@pytest.fixture(params=SUFFIX)
def copy(request, tmp_path) -> tuple[str, Path]:
    """A small whole copy of a data set: 8 training and 3 held-out videos of 20 frames."""
    dataset, root = request.param, tmp_path / "data"
    for number in (*TRAIN, *HELDOUT):
        write(place(dataset, root, number), 20)
    if dataset == "ucf101":
        names = [[f"v_Wave_g{n:02d}_c01.avi" for n in numbers] for numbers in (TRAIN, HELDOUT)]
        write_lists(root, *names)
    return dataset, root


def prepare(dataset: str, root: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "prepare.py"), dataset, str(root), *more]
    return subprocess.run([*command, "--cache", str(root.parent / "cache")], capture_output=True, text=True)


def rows(path: Path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def damage(dataset: str, root: Path) -> dict[str, str]:
    """Break a copy in six ways; returns the status that each changed item must have, by path."""
    cut, zero, text, short, odd = (place(dataset, root, number) for number in (1, 2, 3, 4, 5))
    copied, original = place(dataset, root, 9), place(dataset, root, 6)
    if SUFFIX[dataset]:
        cut.write_bytes(cut.read_bytes()[:-200])
        zero.write_bytes(b"")
        text.write_text("This is no video.\n")
        shutil.copy(original, copied)
    else:
        last = sorted(cut.iterdir())[-1]
        last.write_bytes(last.read_bytes()[:-200])
        shutil.rmtree(zero)
        zero.mkdir()
        shutil.rmtree(text)
        text = text.with_suffix(".avi")
        text.write_text("This is no video.\n")
        shutil.rmtree(copied)
        shutil.copytree(original, copied)
    shutil.rmtree(short) if short.is_dir() else short.unlink()
    write(short, 5)
    named = odd.with_name(odd.name.replace("05", "Zürich_été_05"))
    odd.rename(named)
    if dataset == "ucf101":
        lists = root / "ucfTrainTestlist" / "trainlist01.txt"
        lists.write_text(lists.read_text().replace(odd.name, named.name), encoding="utf-8")
    status = {cut: "unreadable", zero: "empty", text: "not_video", short: "too_short", copied: "duplicate", named: "ok"}
    return {path.relative_to(root).as_posix(): word for path, word in status.items()}


def test_a_whole_copy_is_written_down_and_verified(copy):
    dataset, root = copy
    done = prepare(dataset, root)
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(root / "manifest.csv")
    assert len(table) == 11 and {row["status"] for row in table.values()} == {"ok"}
    one = table[place(dataset, root, 9).relative_to(root).as_posix()]
    fps = "25" if SUFFIX[dataset] else ""
    assert (one["split"], one["frames"], one["fps"], one["width"], one["height"]) == ("heldout", "20", fps, "16", "16")
    catalogue = read_layout(dataset, root)
    assert f"fingerprint  {catalogue.fingerprint}" in done.stdout.splitlines()
    for line in ("found        11", "ok           11", "train        8", "heldout      3"):
        assert line in done.stdout.splitlines()
    again = prepare(dataset, root, "--verify")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, f"manifest     {root}/manifest.csv: equal")


def test_a_broken_copy_is_reported_item_by_item(copy):
    dataset, root = copy
    before = prepare(dataset, root)
    assert before.returncode == 0
    wanted = damage(dataset, root)
    changed = prepare(dataset, root, "--verify")
    assert changed.returncode == 1
    for path in wanted:
        assert any(line.startswith(f"differs: {path}: ") for line in changed.stdout.splitlines()), path
    assert len([line for line in changed.stdout.splitlines() if line.startswith("differs: ")]) == len(wanted) + (
        1 if dataset in ("ucf101", "faceforensics") else 2  # the old name; and the folder whose place the text took
    )

    done = prepare(dataset, root, "--manifest", str(root.parent / "broken.csv"))
    assert done.returncode == 1
    table = rows(root.parent / "broken.csv")
    assert {path: table[path]["status"] for path in wanted} == wanted
    assert sum(row["status"] == "ok" for row in table.values()) == 11 - 5
    duplicate = next(path for path, status in wanted.items() if status == "duplicate")
    original = place(dataset, root, 6).relative_to(root).as_posix()
    assert table[duplicate]["reason"] == f"same content as {original} (train)"
    lines = done.stdout.splitlines()
    for path, status in wanted.items():
        said = [line for line in lines if line.startswith(f"{path}: ")]
        assert said == ([] if status == "ok" else [f"{path}: {status}: {table[path]['reason']}"])
    for status in ("unreadable", "too_short", "duplicate", "empty", "not_video"):
        assert f"{status:12} 1" in lines
    assert prepare(dataset, root, "--manifest", str(root.parent / "broken.csv"), "--verify").returncode == 1


def test_training_leaves_broken_videos_out_under_the_cap_only(copy):
    """3 of 11 can't be read, the held-out copy of a training video is never accepted, a short one by its own rule."""
    dataset, root = copy
    damage(dataset, root)
    with pytest.raises(LayoutError, match=r"3 of 11 videos can't be read, 27.27%; data.max_unreadable allows 0.50%"):
        read_layout(dataset, root)
    with pytest.raises(LayoutError, match="have the same content .*train and held-out videos must differ"):
        read_layout(dataset, root, max_unreadable=0.3)
    copied = place(dataset, root, 9)
    shutil.rmtree(copied) if copied.is_dir() else copied.unlink()
    write(copied, 20)
    catalogue = read_layout(dataset, root, max_unreadable=0.3)
    assert len(catalogue.videos) == 8 and len(catalogue.notes) == 3
    assert catalogue.long_enough(16, 1, "skip").left_out == "3 unreadable and 1 too short left out"


def test_missing_and_unlisted_videos_of_ucf101(tmp_path):
    names = [f"v_Wave_g{n:02d}_c01.avi" for n in range(1, 5)]
    for name in (*names[:3], "v_Wave_g07_c01.avi"):
        write(tmp_path / "data" / "UCF-101" / "Wave" / name, 20)
    write_lists(tmp_path / "data", names[:2], names[2:])
    done = prepare("ucf101", tmp_path / "data")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "expected     4 (trainlist01.txt and testlist01.txt)" in lines and "found        3" in lines
    assert "missing      1" in lines and "  Wave/v_Wave_g04_c01: missing" in lines and "not listed   1" in lines
    stray = rows(tmp_path / "data" / "manifest.csv")["UCF-101/Wave/v_Wave_g07_c01.avi"]
    assert (stray["split"], stray["reason"]) == ("", "stands in neither trainlist01.txt nor testlist01.txt")


def test_a_name_that_is_no_text(tmp_path):
    """Bytes of another encoding, as copies from old file systems have them: written, printed and verified."""
    write(tmp_path / "data" / "test" / "b.mp4", 20)
    write(tmp_path / "data" / "train" / "a.mp4", 20)
    write(tmp_path / "data" / "train" / "short.mp4", 5)
    for name, odd in ((b"a.mp4", b"caf\xe9.mp4"), (b"short.mp4", b"\xfcber.mp4")):
        folder = os.fsencode(tmp_path / "data" / "train")
        os.rename(os.path.join(folder, name), os.path.join(folder, odd))
    done = prepare("faceforensics", tmp_path / "data")
    assert done.returncode == 1 and "train/\\udcfcber.mp4: too_short: 5 frames, wanted at least 16" in done.stdout
    assert b"train/caf\xe9.mp4,caf\xe9," in (tmp_path / "data" / "manifest.csv").read_bytes()
    again = prepare("faceforensics", tmp_path / "data", "--verify")
    assert again.stdout.splitlines()[-1].endswith("manifest.csv: equal")


def test_wrong_arguments_end_with_two_and_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["ufc101", "."], "DATASET: got 'ufc101', allowed"),
        (["ucf101", str(tmp_path / "gone")], "no such folder"),
        (["ucf101", str(tmp_path / "empty")], "the folder is empty"),
        (["taichi", str(tmp_path / "empty"), "--fold", "2"], "data.fold: got 2 for taichi, allowed none"),
        (["ucf101", str(tmp_path / "empty"), "--frames", "0"], "--frames: got 0"),
        (["ucf101", "a", "--verfy"], "did you mean '--verify'"),
    ):
        done = prepare(*arguments[:1], Path(arguments[1]), *arguments[2:])
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_root_that_can_not_be_written(tmp_path):
    """As root nothing is denied by permissions, so the manifest's folder is a file."""
    write(tmp_path / "data" / "train" / "a.mp4", 20)
    write(tmp_path / "data" / "test" / "b.mp4", 20)
    (tmp_path / "file").write_text("")
    done = prepare("faceforensics", tmp_path / "data", "--manifest", str(tmp_path / "file" / "m.csv"))
    assert done.returncode == 2 and "can't be written" in done.stderr and "give --manifest FILE" in done.stderr
    none = prepare("faceforensics", tmp_path / "data", "--verify")
    assert none.returncode == 2 and "no such manifest; prepare.py without --verify writes one" in none.stderr


def test_download_then_check(tmp_path, monkeypatch, capsys):
    """The whole of prepare.py --download against a web server on the loopback address; a second call asks nobody."""
    spec = importlib.util.spec_from_file_location("prepare_script", ROOT / "benchmarks" / "prepare.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for number, split in enumerate(("train", "test")):
        write(tmp_path / "made" / f"sky_{split}" / f"sky{number}" / f"sky{number}_1", 20)
    archive = Path(shutil.make_archive(str(tmp_path / "sky"), "zip", tmp_path / "made")).read_bytes()
    (tmp_path / "sources").mkdir()
    monkeypatch.setattr(sources, "FOLDER", tmp_path / "sources")
    monkeypatch.setenv("no_proxy", "*")
    arguments = ["skytimelapse", str(tmp_path / "data"), "--download", "--cache", str(tmp_path / "cache")]
    with WebServer() as server:
        file = {"name": "sky.zip", "addresses": [server.add("sky.zip", archive, drops=[len(archive) // 2])]}
        file |= {"num_bytes": len(archive), "sha256": hashlib.sha256(archive).hexdigest()}
        part = {"holds": "clips", "tree": ["sky_train", "sky_test"], "other_trees": [], "unpacked_bytes": None}
        values = {"name": "skytimelapse", "terms": "Ask first.", "how_to_get": "By hand."}
        values["parts"] = [part | {"copies": [{"by": "a test", "files": [file]}]}]
        (tmp_path / "sources" / "skytimelapse.yaml").write_text(yaml.safe_dump(values))
        assert script.main(arguments) == 0
        said = capsys.readouterr().out
        # The connection was dropped midway: the second request asked for the rest only.
        assert server.ranges() == [None, f"bytes={len(archive) // 2}-"]
    assert "Ask first." in said and "ok           2" in said and (tmp_path / "data" / "manifest.csv").is_file()
    assert script.main([*arguments, "--verify"]) == 0  # the server is gone


def test_faceforensics_says_how_to_ask(tmp_path):
    done = prepare("faceforensics", tmp_path / "data", "--download")
    assert done.returncode == 1 and "signed form" in done.stdout and not (tmp_path / "data").exists()


def test_the_run_finds_what_was_prepared(tmp_path, monkeypatch):
    """The scan that prepare.py leaves serves run.py: nothing is decoded a second time."""
    for number, folder in enumerate(("train", "test")):
        write(tmp_path / "data" / folder / f"{number}.mp4", 20)
    assert prepare("faceforensics", tmp_path / "data").returncode == 0
    monkeypatch.setattr(scan, "probe", None)
    assert len(read_layout("faceforensics", tmp_path / "data", tmp_path / "cache").videos) == 2


@pytest.mark.parametrize(
    "dataset, folder", [("ucf101", "ucf101"), ("skytimelapse", "sky_timelapse"), ("faceforensics", "faceforensics")]
)
def test_real_data(tmp_path, dataset, folder):
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    arguments = ["--manifest", str(tmp_path / "m.csv")]
    command = [sys.executable, str(ROOT / "benchmarks" / "prepare.py"), dataset, str(SHARED / folder), *arguments]
    for more in ([], ["--verify"]):
        done = subprocess.run([*command, "--cache", str(tmp_path), *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert os.stat(SHARED / folder).st_mtime < (tmp_path / "m.csv").stat().st_mtime
