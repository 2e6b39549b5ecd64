"""The audit of a finished run: it passes on the run as it is, and names the culprit after each manipulation.

Manipulations are made as an outsider would, by changing files; where he would carry a change through, hashes and sums
are carried through here with the standard library.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lavita.audit.run import fails_closed
from lavita.results.audit_line import FAIL, AuditLine
from lavita.results.run_folder import Attempt, read_run

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "budget.clips=96", "codec.clips=32", "train.warmup_clips=8", "extractor.steps=4", "sampling.steps=4",
    "protocol.n_real=8", "protocol.n_generated=8",
]  # fmt: skip
CULPRIT, OTHER = "lavita-v1-s0", "pvdm-s0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two methods, and what it printed."""
    base = tmp_path_factory.mktemp("audited")
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--suite", "ucf101-class", "--tier", "demo"]
    command += ["--methods", "lavita-v1,pvdm", "--out", str(base / "out"), "--cache", str(base / "cache"), *TINY]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return base / "out", done.stdout


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def audit(script):
    call = script("audit")
    return lambda folder, *arguments: call(folder, "--clips", 8, *arguments)


def with_identity(one: Attempt, identity: str) -> Attempt:
    """An attempt; the culprit's with another identity."""
    return replace(one, record=replace(one.record, identity=identity)) if one.record.cell == CULPRIT else one


def failures(done) -> list[str]:
    return [line for line in done.out.splitlines() if line.startswith("FAIL")]


def blamed(done, *words: str) -> bool:
    """Whether some failing line holds all of the words."""
    return done.code == 1 and any(all(word in line for word in words) for line in failures(done))


def record(run: Path, cell: str) -> dict:
    return json.loads((run / "cells" / cell / "record.json").read_text())


def write(run: Path, cell: str, values: dict) -> None:
    """A record with the hashes of its files as they are now: the outsider knows how they are made."""
    folder = run / "cells" / cell
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files.pop("record.json")
    values["files"] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (folder / "record.json").write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def change_config(run: Path, cell: str, section: str, key: str, value: object) -> None:
    """A value of a finished run, in its configuration file and in its record alike."""
    path = run / "cells" / cell / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section][key] = value
    path.write_text(yaml.safe_dump(config))
    values = record(run, cell)
    values["config"][section][key] = value
    write(run, cell, values)


def test_a_finished_run_passes_and_prints_its_digest_last(finished, audit):
    folder, said = finished
    digest = re.fullmatch(r"digest ([0-9a-f]{64})", said.splitlines()[-1])[1]
    done = audit(folder, "--digest", digest)
    assert done.code == 0 and not failures(done), done.out
    assert f"pass  digest: run: {digest}" in done.out
    for table in ("table.md", "table.tex", "table.csv", "report.html"):
        assert digest in (folder / table).read_text(), table
    # Plan and records, hashed as the words of the documentation say.
    files = [folder / "run.json", *folder.glob("cells/*/record.json"), *folder.glob("shared/*/record.json")]
    lines = sorted(f"{f.relative_to(folder).as_posix()} {hashlib.sha256(f.read_bytes()).hexdigest()}" for f in files)
    assert digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_changed_score(run, audit):
    values = record(run, CULPRIT)
    score = next(score for score in values["scores"] if score["stage"] == "train")
    score["value"] *= 0.9
    write(run, CULPRIT, values)
    assert blamed(audit(run), "scores from stored features", CULPRIT, score["metric"], "value")


def test_a_changed_score_carried_through_to_the_features(run, audit):
    """Better features, and the scores that they give: only the clips tell."""
    path = run / "cells" / CULPRIT / "samples.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    shared = run / "shared" / record(run, CULPRIT)["shared"]
    with np.load(shared / "real.npz") as file:
        arrays["features"] = file["features"][::-1].copy()
    np.savez(path, **arrays)
    write(run, CULPRIT, record(run, CULPRIT))
    assert blamed(audit(run), "features from stored clips", CULPRIT, "away from the stored ones")


def test_a_swapped_feature_file(run, audit):
    shutil.copy(run / "cells" / OTHER / "samples.npz", run / "cells" / CULPRIT / "samples.npz")
    done = audit(run)
    assert blamed(done, "files as recorded", f"cells/{CULPRIT}/samples.npz", "but recorded")
    write(run, CULPRIT, record(run, CULPRIT))
    assert blamed(audit(run), "scores from stored features", CULPRIT)


def test_one_more_training_step(run, audit):
    """In the log and, carried through, in every sum: then the budgets of the rows differ."""
    path = run / "cells" / CULPRIT / "steps.csv"
    stage, step, clips, seconds, _ = path.read_text().splitlines()[-1].split(",")
    batch = int(clips) // int(step)
    with path.open("a") as file:
        file.write(f"{stage},{int(step) + 1},{int(clips) + batch},{float(seconds) + 0.1:.3f},\n")
    values = record(run, CULPRIT)
    write(run, CULPRIT, values)
    assert blamed(audit(run), "budget spent as logged", CULPRIT, "9 steps and 72 clips logged")
    last = values["stages"][-1]
    more = {"clips": batch, "flops": batch * last["flops_per_clip"], "seconds": 0.1}
    last["steps"] += 1
    for currency, amount in more.items():
        last[currency] += amount
        values["budget"]["spent"][currency] += amount
    values["row"]["clips_seen"] += batch
    values["row"]["train_flops"] += int(more["flops"])
    write(run, CULPRIT, values)
    done = audit(run)
    assert blamed(done, "budget spent as logged", CULPRIT, "spent 104 clips, but asked were 96")
    assert blamed(done, "same budget", "96 clips, 104 clips spent")


def test_another_split(run, audit):
    shared = run / "shared" / record(run, CULPRIT)["shared"]
    lines = list(csv.DictReader(io.StringIO((shared / "videos.csv").read_text())))
    moved = next(line for line in lines if line["split"] == "heldout")
    moved["split"] = "train"
    with (shared / "videos.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    done = audit(run)
    assert blamed(done, "data behind the fingerprint", f"shared/{shared.name}", "15 videos of heldout, but recorded 16")
    assert blamed(done, "files as recorded", f"shared/{shared.name}/videos.csv")


def test_another_split_of_one_row(run, audit):
    change_config(run, CULPRIT, "data", "fold", 2)
    done = audit(run)
    assert blamed(done, "same frames, stride, resolution, crop, flips", "fold 2")
    assert blamed(done, "configuration as recorded", CULPRIT, "the row's hash")


def test_another_seed(run, audit):
    path = run / "cells" / CULPRIT / "samples" / "clips.json"
    manifest = json.loads(path.read_text())
    for clip in manifest["clips"]:
        clip["seed"] += 100
    path.write_text(json.dumps(manifest))
    write(run, CULPRIT, record(run, CULPRIT))
    assert blamed(audit(run), "same sampling seeds", "100 to 107")
    change_config(run, CULPRIT, "sampling", "eta", 0.5)
    assert blamed(audit(run), "configuration as recorded", CULPRIT)


def test_a_dropped_clip(run, audit):
    samples = run / "cells" / CULPRIT / "samples"
    (samples / "000003.mkv").unlink()
    done = audit(run)
    assert blamed(done, "generated clips, each once", CULPRIT, "000003.mkv")
    assert blamed(done, "files as recorded", f"cells/{CULPRIT}/samples/000003.mkv", "not there")
    manifest = json.loads((samples / "clips.json").read_text())
    manifest["clips"] = [clip for clip in manifest["clips"] if clip["file"] != "000003.mkv"]
    manifest["num_clips"] -= 1
    (samples / "clips.json").write_text(json.dumps(manifest))
    write(run, CULPRIT, record(run, CULPRIT))
    assert blamed(audit(run), "generated clips, each once", CULPRIT, "7 clips are listed, but the row says 8")


def test_a_clip_used_twice(run, audit):
    samples = run / "cells" / CULPRIT / "samples"
    shutil.copy(samples / "000000.mkv", samples / "000003.mkv")
    manifest = json.loads((samples / "clips.json").read_text())
    manifest["clips"][3]["sha256"] = manifest["clips"][0]["sha256"]
    (samples / "clips.json").write_text(json.dumps(manifest))
    write(run, CULPRIT, record(run, CULPRIT))
    assert blamed(audit(run), "generated clips, each once", CULPRIT, "000000.mkv and 000003.mkv are the same clip")


def test_a_different_protocol(run, audit):
    change_config(run, CULPRIT, "protocol", "ddof", 1)
    assert blamed(audit(run), "made with the shared artifacts", CULPRIT, "protocol")
    values = record(run, CULPRIT)
    values["row"]["protocol_hash"] = "0123456789ab"
    write(run, CULPRIT, values)
    assert blamed(audit(run), "same protocol", "0123456789ab")


@pytest.mark.parametrize("name", ["rows.csv", "table.csv", "table.md", "table.tex", "report.html"])
def test_an_edited_table(run, audit, name):
    path = run / name
    text = path.read_text()
    number = re.search(r"\d\.\d", text[text.index("lavita-v1") :])[0]
    at = text.index(number, text.index("lavita-v1"))
    path.write_text(text[:at] + "0.1" + text[at + 3 :])
    assert blamed(audit(run), "tables as the records say", name, "but the records give")


def test_an_undeclared_pretrained_weight(run, audit):
    change_config(run, CULPRIT, "pretraining", "origin", "ImageNet")
    change_config(run, CULPRIT, "pretraining", "checkpoint", "imagenet.safetensors")
    done = audit(run)
    assert blamed(done, "external weights declared", CULPRIT, "imagenet.safetensors", "declares none")


def test_a_row_that_only_calls_itself_open_is_not_out_of_reach(run, audit):
    values = record(run, CULPRIT)
    values["row"]["division"] = "open"
    write(run, CULPRIT, values)
    done = audit(run)
    assert blamed(done, "row as configured", CULPRIT, "division closed, but its row open")


def test_an_open_row_beside_a_closed_one_stands_in_a_table_of_its_own(run, audit):
    change_config(run, CULPRIT, "codec", "kind", "kl")
    change_config(run, CULPRIT, "codec", "path", "somewhere")
    values = record(run, CULPRIT)
    values["row"]["division"], values["external_weights"] = "open", {"codec.path": "somewhere (sha256 0; x)"}
    write(run, CULPRIT, values)
    said = audit(run).out.splitlines()
    assert {line for line in said if "same division" in line} == {
        "pass  same division: all rows: closed", "pass  same division: all rows: open",
    }  # fmt: skip
    assert not [line for line in said if line.startswith("FAIL  external weights declared")]


def test_failures_of_rows_that_are_open_by_their_configuration_alone_are_no_failure_of_the_run(run):
    for kind, row, identity, wanted in (
        ("kl", "open", "x", False), ("suite", "open", "x", True), ("kl", "closed", "x", True),
        ("suite", "open", "", False),
    ):  # fmt: skip
        change_config(run, CULPRIT, "codec", "kind", kind)
        change_config(run, CULPRIT, "codec", "path", "somewhere")
        values = record(run, CULPRIT)
        values["row"]["division"] = row
        write(run, CULPRIT, values)
        read = read_run(run)
        read = replace(read, attempts=[with_identity(one, identity) for one in read.attempts])
        line = AuditLine("a check", CULPRIT, FAIL, "a, but b")
        assert fails_closed(read, [line]) is wanted, (kind, row, identity)
        assert fails_closed(read, [line, AuditLine("a check", "run", FAIL, "a, but b")])


def test_a_dirty_commit(run, audit):
    values = record(run, CULPRIT)
    values["row"] |= {"dirty": "true", "commit": "0" * 40}
    write(run, CULPRIT, values)
    other = record(run, OTHER)
    other["row"] |= {"dirty": "false", "commit": "0" * 40}
    write(run, OTHER, other)
    strict = [line for line in failures(audit(run, "--strict")) if "code is a commit" in line]
    assert len(strict) == 1 and CULPRIT in strict[0] and "uncommitted changes, but wanted a clean one" in strict[0]
    assert not [line for line in failures(audit(run)) if "code is a commit" in line]
    plan = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(plan | {"publishable": True}))
    assert blamed(audit(run), "code is a commit", CULPRIT)


def test_other_weights_and_an_edit_that_no_check_knows(run, audit, finished):
    digest = finished[1].splitlines()[-1].split()[-1]
    values = record(run, CULPRIT)
    values["row"]["versions"] = values["row"]["versions"].replace("python", "Python")
    write(run, CULPRIT, values)
    assert blamed(audit(run, "--digest", digest), "digest", "run", digest[:16])
    (run / "cells" / CULPRIT / "checkpoint.safetensors").write_bytes(b"other weights")
    write(run, CULPRIT, record(run, CULPRIT))
    assert blamed(audit(run), "last average at budget end", CULPRIT)


def test_a_file_beside_the_recorded_ones_and_a_link(run, audit):
    (run / "cells" / CULPRIT / "better.npz").write_bytes(b"x")
    assert blamed(audit(run), "files as recorded", f"cells/{CULPRIT}/better.npz", "not recorded")
    (run / "cells" / CULPRIT / "better.npz").unlink()
    (run / "cells" / CULPRIT / "away").symlink_to("/etc")
    assert blamed(audit(run), "files as recorded", CULPRIT, "is a link")
    (run / "cells" / "dit-s0").mkdir()
    assert blamed(audit(run), "nothing unrecorded", "cells/dit-s0")


def test_a_damaged_record_is_a_failure_and_no_traceback(run, audit):
    values = record(run, CULPRIT)
    del values["stages"], values["scores"]
    write(run, CULPRIT, values)
    done = audit(run)
    assert done.code in (1, 2) and "Traceback" not in done.out + done.err and (failures(done) or done.err)


def test_wrong_arguments(audit, tmp_path):
    for arguments, words in (([tmp_path], "no run.json"), ([tmp_path, "--digest", "abc"], "wanted the 64 hex digits")):
        done = audit(*arguments)
        assert done.code == 2 and words in done.err
