"""Records that name files elsewhere, and programs: refused in one line that names the file and the entry."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lavita.audit import features
from lavita.audit.scores import of_reconstruction
from lavita.config.plan import make_plan
from lavita.config.registry import load_implementation
from lavita.data.archives import UnpackError, unpack
from lavita.data.clip_folder import read_clips, read_manifest, write_clips
from lavita.data.decoding.containers import UnreadableVideo
from lavita.data.video import read_frames
from lavita.experiment import shared
from lavita.files import require_inside
from lavita.metrics.folder_record import recomputed
from lavita.report.page.clips import read_sprite
from lavita.results.attempts import files_of
from lavita.results.records import AttemptRecord, Record, SharedRecord, read_record, write_record
from lavita.results.rows import Row
from lavita.results.run_folder import read_plan, read_run, write_plan
from lavita.results.shared import read_shared, write_shared
from tests.data.archives import split_zip
from tests.report.folder_of_run import KEY, clips, make_run
from tests.safety.evil import one_line
from tests.safety.test_weights import folder_of_features

ELSEWHERE = ("../secret.npz", "/etc/passwd", "..", ".", "", "a/b.npz", "a\\b.npz", "a\0b", 7, None, ["x"])


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / "secret.npz").write_bytes(b"secret")
    return make_run(tmp_path / "run")


def change(path: Path, **values: object) -> None:
    """Entries of a JSON file, written as an outsider would."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(call, *words: object) -> None:
    """The call raises ValueError with one line that holds the words."""
    with pytest.raises(ValueError) as caught:
        call()
    said = one_line(caught.value)
    assert all(str(word) in said for word in words), said


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_stays_in_its_folder(tmp_path, name):
    refused(lambda: require_inside(tmp_path, name, "record.json: file"), "record.json: file", repr(name)[:20])


def test_a_name_may_be_anything_else(tmp_path):
    for name in ("a.npz", "..a", "a b", "clip..mkv", "ä"):
        assert require_inside(tmp_path, name, "x") == tmp_path / name
    (tmp_path / "away").symlink_to("/etc/passwd")
    (tmp_path / "near").symlink_to("a.npz")
    for name in ("away", "near"):
        refused(
            lambda name=name: require_inside(tmp_path, name, "record.json: file"), "record.json: file", name, "link"
        )


@pytest.mark.parametrize("name", ["../../secret.npz", "/etc/passwd", ".."])
@pytest.mark.parametrize("key", ["real", "extractor", "codec", "splits"])
def test_paths_of_shared_artifacts(run, script, key, name):
    path = run / "shared" / KEY / "shared.json"
    change(path, **{key: {"train": name} if key == "splits" else name})
    refused(lambda: read_shared(path.parent), path, "train" if key == "splits" else key, repr(name))
    done = script("audit")(run, "--clips", 0)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and str(path) in done.err


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp", "..", None, {}])
def test_the_shared_artifacts_that_a_record_names(run, script, name):
    path = run / "cells" / "dit-s0" / "record.json"
    change(path, shared=name)
    refused(lambda: read_run(run), path, "shared")
    done = script("audit")(run, "--clips", 0)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and str(path) in done.err


@pytest.mark.parametrize(
    "place",
    ["cells", "shared", "cells/dit-s0", f"shared/{KEY}", "cells/dit-s0/record.json", f"shared/{KEY}/shared.json"],
)
def test_parts_that_are_links(run, tmp_path, script, place):
    path = run / place
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(lambda: read_run(run), path.name, "link")
    assert script("audit")(run, "--clips", 0).code == 2


def test_a_run_folder_is_no_link_to_another_place(run, tmp_path):
    (tmp_path / "link").symlink_to(run / "cells" / "dit-s0")
    refused(lambda: files_of(tmp_path / "link"), "is a link")


@pytest.mark.parametrize("content", ["[1]", "7", "{", "\udcff"])
def test_records_that_are_none(run, content):
    path = run / "cells" / "dit-s0" / "record.json"
    path.write_text(content, errors="surrogateescape")
    refused(lambda: read_record(path.parent), path)


def put(values: object, key: str, value: object) -> None:
    """A value at a dotted key of nested mappings and lists."""
    *above, last = [int(name) if name.isdecimal() else name for name in key.split(".")]
    for name in above:
        values = values[name]
    values[last] = value


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("cells/dit-s0/record.json", "status", 3, "status: got 3, wanted text"),
        ("cells/dit-s0/record.json", "status", "fine", "status: got 'fine', allowed queued"),
        ("cells/dit-s0/record.json", "row.seed", "0", "row.seed: got '0', wanted a whole number"),
        ("cells/dit-s0/record.json", "row.value", True, "row.value: got True, wanted a number"),
        ("cells/dit-s0/record.json", "row.guidance", [], "row.guidance: got [], wanted a number or text or null"),
        ("cells/dit-s0/record.json", "row.opinion", 1, "unknown key 'row.opinion'"),
        ("cells/dit-s0/record.json", "outside", {}, "unknown key 'outside'"),
        ("cells/dit-s0/record.json", "stages.0.clips", "many", "stages[0].clips: got 'many', wanted a number"),
        ("cells/dit-s0/record.json", "stages.1", {"name": "x"}, "'stages[1].clips' is missing"),
        ("cells/dit-s0/record.json", "heldout_losses", [[1]], "heldout_losses[0]: got [1], wanted a list of 2"),
        ("cells/dit-s0/record.json", "files", ["a"], "files: got ['a'], wanted a mapping"),
        ("cells/dit-s0/record.json", "config", "x" * 999, "config: got 'xxx"),
        ("cells/dit-s0/record.json", "kind", "shared artifacts", "kind: got 'shared artifacts', wanted 'run'"),
        ("cells/dit-s0/record.json", "kind", ["run"], "kind: got ['run'], wanted 'run'"),
        (f"shared/{KEY}/record.json", "splits.train", None, "splits.train: got None, wanted a whole number"),
        (f"shared/{KEY}/record.json", "protocol.crop", "off", "protocol.crop: got 'off', allowed: centre, none"),
        (f"shared/{KEY}/shared.json", "num_classes", "two", "num_classes: got 'two', wanted a whole number"),
        (f"shared/{KEY}/shared.json", "sanity.informative", 1, "sanity.informative: got 1, wanted true or false"),
        (f"shared/{KEY}/shared.json", "splits", [], "splits: got [], wanted a mapping"),
        ("run.json", "order", "dit", "order: got 'dit', wanted a list"),
        ("run.json", "cells.dit-s0.identity", None, "cells.dit-s0.identity: got None, wanted text"),
        ("run.json", "published.numbers.0.value", "x", "published.numbers[0].value: got 'x', wanted a number"),
        ("run.json", "not_yet.0", "lvdm", "not_yet[0]: got 'lvdm', wanted a mapping"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_file(run, file, key, value, said):
    values = json.loads((run / file).read_text())
    put(values, key, value)
    (run / file).write_text(json.dumps(values))
    refused(lambda: read_run(run), run / file, said)


def test_a_missing_key_is_named_and_the_audit_ends_with_2(run, script):
    path = run / "cells" / "dit-s0" / "record.json"
    values = json.loads(path.read_text())
    del values["row"]
    path.write_text(json.dumps(values))
    done = script("audit")(run, "--clips", 0)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and f"{path}: key 'row' is missing" in done.err


def test_what_is_written_is_what_is_read(run, tmp_path):
    folder = run / "cells" / "dit-s0"
    record = read_record(folder)
    assert record.stages and record.card and record.files and isinstance(record.row, Row)
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert (tmp_path / "record.json").read_bytes() == (folder / "record.json").read_bytes()
    shared = read_record(run / "shared" / KEY, SharedRecord)
    write_record(tmp_path, shared)
    assert read_record(tmp_path, SharedRecord) == shared == read_record(tmp_path, AttemptRecord)
    write_shared(tmp_path, read_shared(run / "shared" / KEY))
    assert (tmp_path / "shared.json").read_bytes() == (run / "shared" / KEY / "shared.json").read_bytes()
    write_plan(tmp_path, read_plan(run))
    assert (tmp_path / "run.json").read_bytes() == (run / "run.json").read_bytes()


def test_pictures_of_a_page(run):
    folder = run / "shared" / KEY
    for name in ("../../../secret.npz", "/etc/passwd", ".."):
        change(folder / "real.sprite.json", picture=name)
        refused(lambda: read_sprite(folder, "real"), folder / "real.sprite.json", "picture", name)
    (folder / "away.webp").symlink_to("/etc/passwd")
    change(folder / "real.sprite.json", picture="away.webp")
    refused(lambda: read_sprite(folder, "real"), folder / "real.sprite.json", "picture", "link")


def test_lists_of_clips(tmp_path):
    folder = write_clips(tmp_path / "clips", clips(0, count=2))
    given = json.loads((folder / "clips.json").read_text())["clips"]
    (tmp_path / "outside.mkv").write_bytes((folder / "000000.mkv").read_bytes())
    for name in ("../outside.mkv", str(tmp_path / "outside.mkv"), "sub/000000.mkv", 3):
        change(folder / "clips.json", clips=[given[0] | {"file": name}, given[1]])
        for read in (read_manifest, read_clips):
            refused(lambda read=read: read(folder), folder / "clips.json", "file", repr(name))
    change(folder / "clips.json", clips=given)
    read_clips(folder)
    (folder / "000000.mkv").unlink()
    (folder / "000000.mkv").symlink_to("../outside.mkv")
    refused(lambda: read_clips(folder), folder / "clips.json", "000000.mkv", "link")
    for content in ("[]", '{"clips": [{}]}', '{"clips": 3}', "{"):
        (folder / "clips.json").write_text(content)
        refused(lambda: read_manifest(folder), folder / "clips.json")


def test_features_of_a_comparison(tmp_path):
    np.savez(tmp_path / "good.npz", features=np.zeros((4, 2)))
    folder = folder_of_features(tmp_path / "scores", (tmp_path / "good.npz").read_bytes())
    files = json.loads((folder / "record.json").read_text())["files"]
    for name in ("../secret.npz", "/etc/passwd"):
        change(folder / "record.json", files=files | {name: "0"})
        refused(lambda: recomputed(folder), folder / "record.json", name)
    for content in (b"", b"PK", b"\x93NUMPY"):
        folder = folder_of_features(tmp_path / f"bad{len(content)}", content)
        refused(lambda folder=folder: recomputed(folder), folder / "real.npz")


def test_features_of_a_first_stage(tmp_path):
    np.savez(tmp_path / "secret.npz", features=np.zeros((4, 2)))
    (tmp_path / "cell").mkdir()
    refused(lambda: of_reconstruction(None, {}, tmp_path / "cell", "../secret"), "../secret")


def program(folder: Path, marker: Path) -> Path:
    """A folder whose module.py makes a folder when it is imported."""
    folder.mkdir()
    (folder / "module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    return folder


def test_no_record_names_a_program(tmp_path, script):
    marker = tmp_path / "marker"
    evil = program(tmp_path / "evil", marker)
    (experiment,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], ["codec.kind=pixels"])
    up = "../" * 12 + str(evil).lstrip("/")
    for name in (str(evil), up, "../tests", "", ".", None, 3):
        values = {
            "cell": asdict(experiment) | {"implementation": name},
            "num_classes": None,
            "class_names": [],
            "classes": [],
        }
        save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
        (tmp_path / "checkpoint.json").write_text(json.dumps(values))
        refused(lambda name=name: load_implementation(name), "implementation", repr(name)[:60])
        done = script("sample")("--checkpoint", tmp_path, "--out", tmp_path / "out", "--clips", 1)
        assert done.code == 2 and len(done.err.splitlines()) == 1 and "implementation" in done.err, done.err
        assert not marker.exists()


@pytest.mark.parametrize("config", ["[]", "3", "{}", '{"cell": 3}', '{"cell": {"x": 1}}'])
def test_configurations_of_checkpoints_that_are_none(tmp_path, script, config):
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
    if "cell" in config:
        config = json.dumps(json.loads(config) | {"num_classes": None, "class_names": [], "classes": []})
    (tmp_path / "checkpoint.json").write_text(config)
    done = script("sample")("--checkpoint", tmp_path, "--out", tmp_path / "out", "--clips", 1)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and "checkpoint" in done.err, done.err


def test_the_audit_runs_no_network_that_a_record_names(tmp_path, monkeypatch):
    file = tmp_path / "evil.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    (experiment,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], [f"weights.i3d={file}", f"weights.c3d={file}"])
    run = SimpleNamespace(shared={KEY: SimpleNamespace(artifacts=SimpleNamespace(extractor=None))})
    config = json.loads(json.dumps(asdict(experiment)))
    one = SimpleNamespace(record=Record(cell="x-s0", label="x", status="ok", shared=KEY, config=config, row=Row()))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program was loaded"))
    monkeypatch.setattr(
        "lavita.metrics.features.load.find_weights", lambda *_, **__: (_ for _ in ()).throw(ValueError("none"))
    )
    refused(lambda: features.extractor(run, one), "none")


@pytest.mark.parametrize("key", ["cache", "latents"])
def test_parts_that_name_another_cache_are_not_used(tmp_path, monkeypatch, key):
    monkeypatch.setattr(
        shared,
        "load_extractors",
        lambda *_: dict.fromkeys(("distance", "classes"), SimpleNamespace(weights_hash=None)),
    )
    monkeypatch.setattr(shared, "fill_cache", lambda *_: (None, None))
    (experiment,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], [])
    values = {"cache": tmp_path, "latents": None, "extractor": None, "codec": None, "codec_hash": "c"}
    values["protocol_hash"] = experiment.protocol.hash()
    shared.check_weights(experiment, None, SimpleNamespace(**values), tmp_path)
    other = SimpleNamespace(**values | {key: Path("/home/somebody")})
    refused(lambda: shared.check_weights(experiment, None, other, tmp_path), "--cache")


@pytest.mark.parametrize("name", ["../x.avi", "/x.avi", "UCF-101/../../x.avi"])
def test_a_split_archive_that_leads_out(tmp_path, name):
    volumes = split_zip({"UCF-101/a.avi": b"a" * 90, name: b"evil" * 30}, 200)
    folder = tmp_path / "download"
    folder.mkdir()
    for number, content in enumerate(volumes, start=1):
        last = number == len(volumes)
        (folder / ("data.zip" if last else f"data.z{number:02d}")).write_bytes(content)
    with pytest.raises(UnpackError) as caught:
        unpack(folder / "data.zip", tmp_path / "root")
    assert repr(name) in one_line(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [p.name for p in folder.iterdir()]


@pytest.mark.parametrize("plan", [{"base": "../..", "names": ["victim"]}, {"base": "content", "names": ["../victim"]}])
def test_a_plan_in_a_copy_of_a_data_set_moves_nothing_elsewhere(tmp_path, plan):
    root, victim = tmp_path / "root", tmp_path / "victim"
    hidden = root / ".evil.unpacking"
    (hidden / "content").mkdir(parents=True)
    victim.write_text("mine")
    (hidden / "plan.json").write_text(json.dumps({"archive": "evil"} | plan))
    (root / "a.zip").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        unpack(root / "a.zip", root)
    assert "plan.json" in one_line(caught.value) and victim.read_text() == "mine"


def test_a_playlist_named_as_a_video_opens_nothing(tmp_path):
    (tmp_path / "other.ts").write_bytes(b"x")
    texts = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {tmp_path}/other.ts\n",
        "concat of the web": "ffconcat version 1.0\nfile http://127.0.0.1:9/a.ts\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.mkv"
        path.write_text(text)
        with pytest.raises(UnreadableVideo) as caught:
            read_frames(path, range(2))
        one_line(caught.value)
