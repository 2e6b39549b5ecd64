"""evaluate.py as a user meets it: any two folders, several protocols at once, features that give the numbers again."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lavita.data.video import write_video
from lavita.metrics.distances import frechet_distance, inception_score, kernel_distance
from lavita.metrics.features.in_domain import InDomainExtractor, InDomainNet, save_in_domain
from lavita.results.rows import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["protocol.resolution=16", "protocol.frames=4", "--no-sanity"]
N = 12


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """12 real videos of 20 frames, 14 generated clips of 4, and an in-domain extractor with three classes."""
    base = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    for number in range(N):
        noise = rng.integers(0, 256, (24, 16, 3), dtype=np.uint8)
        frames = np.stack([np.roll(noise, t, 0) for t in range(20)])
        write_video(base / "real" / f"r{number:02d}.mkv", frames, 8, lossless=True)
    np.savez(base / "generated.npz", clips=rng.integers(0, 256, (14, 4, 16, 16, 3), dtype=np.uint8))
    torch.manual_seed(0)
    save_in_domain(InDomainExtractor(InDomainNet(3), {}), base / "net.safetensors")
    return base


@pytest.fixture
def call(script):
    return script("evaluate")


def sides(base: Path) -> list[object]:
    return [
        "--real",
        base / "real",
        "--generated",
        base / "generated.npz",
        "--extractor",
        f"embedded:{base}/net.safetensors",
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(COLUMNS)
    return found


def test_one_protocol_gives_four_files_that_hold_its_numbers(given, call, tmp_path):
    done = call(*sides(given), "--protocol", "stylegan-v", "--clips", N, "--out", tmp_path / "out", *SMALL)
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "generated.npz", "real.npz", "record.json", "rows.csv",
    ]  # fmt: skip
    name = "stylegan-v[n=12,extractor=embedded,resolution=16,frames=4]"
    assert name in done.out and "resize_filter unspecified (ours: pillow-bicubic-antialiased)" in done.out
    real, generated = (np.load(tmp_path / "out" / f"{side}.npz") for side in ("real", "generated"))
    assert real["features"].dtype == np.float32 and len(real["features"]) == len(generated["features"]) == N
    assert list(generated["names"]) == [f"{number:06d}" for number in range(N)]
    table = {(row["metric"], row["stage"]): row for row in rows(tmp_path / "out" / "rows.csv")}
    # The numbers, computed here from the stored features.
    fvd = float(table["fvd_embedded_n12_f4", "generated"]["value"])
    assert fvd == frechet_distance(real["features"], generated["features"], 0)
    kvd = float(table["kvd_embedded_n12_f4", "generated"]["value"])
    assert kvd == kernel_distance(real["features"], generated["features"])
    for stage, side in (("generated", generated), ("real", real)):
        assert float(table["is_embedded_n12_f4", stage]["value"]) == inception_score(side["probabilities"], 10, 42)[0]
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert {row["protocol_hash"] for row in table.values()} == {record["protocol_hash"]}
    assert {row["protocol"] for row in table.values()} == {name}
    assert str(given) not in json.dumps(record)


def test_several_protocols_decode_once_and_equal_each_alone(given, call, tmp_path, monkeypatch):
    from lavita.metrics import clips

    read, count = clips.read_frames, []
    monkeypatch.setattr(clips, "read_frames", lambda path, frames: (count.append(path.name), read(path, frames))[1])
    names = ["stylegan-v", "latte-2024", "pvdm", "suite"]
    done = call(*sides(given), "--protocol", ",".join(names), "--clips", N, "--out", tmp_path / "all", *SMALL)
    assert done.code == 0, done.err
    assert sorted(count) == [f"r{number:02d}.mkv" for number in range(N)]
    together = {(row["protocol"], row["metric"], row["stage"]): row["value"] for row in rows(tmp_path / "all/rows.csv")}
    alone = {}
    for name in names:
        assert call(*sides(given), "--protocol", name, "--clips", N, "--out", tmp_path / name, *SMALL).code == 0
        alone |= {(r["protocol"], r["metric"], r["stage"]): r["value"] for r in rows(tmp_path / name / "rows.csv")}
    assert together == alone and len({key[0] for key in alone}) == 4
    hashes = {(row["protocol"], row["protocol_hash"]) for row in rows(tmp_path / "all" / "rows.csv")}
    assert len(hashes) == len({mark for _, mark in hashes}) == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(given, call, tmp_path, workers):
    arguments = [*sides(given), "--protocol", "pvdm", "--clips", N, *SMALL, "--workers", workers]
    assert call(*arguments, "--out", tmp_path / "out").code == 0
    kept = given / "workers.npz"
    if kept.exists():
        assert kept.read_bytes() == (tmp_path / "out" / "real.npz").read_bytes()
    shutil.copy(tmp_path / "out" / "real.npz", kept)


def test_numbers_come_again_from_the_features_and_changes_are_found(given, call, tmp_path):
    out = tmp_path / "out"
    first = call(*sides(given), "--protocol", "latte-2024", "--clips", N, "--out", out, *SMALL)
    again = call("--from-features", out)
    assert again.code == 0 and [line for line in first.out.splitlines() if line.startswith("|")] == [
        line for line in again.out.splitlines() if line.startswith("|")
    ]
    record = json.loads((out / "record.json").read_text())
    changed = json.loads(json.dumps(record))
    changed["scores"][0]["value"] *= 1.001
    (out / "record.json").write_text(json.dumps(changed))
    found = call("--from-features", out)
    assert found.code == 1 and "differs from the record: fvd_embedded_n12_f4 (generated)" in found.out
    (out / "record.json").write_text(json.dumps(record))
    with np.load(out / "real.npz") as loaded:
        arrays = {key: loaded[key] for key in loaded.files}
    arrays["features"] = arrays["features"] + 1
    np.savez(out / "real.npz", **arrays)
    swapped = call("--from-features", out)
    assert swapped.code == 2 and "real.npz: has sha256" in swapped.err and "it was changed" in swapped.err


def test_too_few_clips_are_no_score_and_the_others_are_made(given, call):
    done = call(*sides(given), "--protocol", "mcvd,stylegan-v", *SMALL, "protocol.n_real=12", "protocol.n_generated=14")
    assert done.code == 0, done.err  # 12 real ones in sorted order, 14 generated
    few = call(*sides(given), "--protocol", "stylegan-v,pvdm", "--clips", 13, *SMALL)
    assert few.code == 1
    assert few.out.count("scores 13 real clips, there are 12: 1 are missing") == 2 and "--clips 12" in few.out


def test_short_videos_and_wrong_input_end_with_two_and_one_line(given, call, tmp_path):
    wanted = [*sides(given), "--protocol", "latte-2024", "--clips", N]
    for arguments, words in (
        ([*wanted, "protocol.resolution=16", "protocol.frames=8"], "clip r00: 20 frames; protocol latte-2024[n=12"),
        ([*wanted[:1], tmp_path / "gone", *wanted[2:]], "no such file or folder"),
        ([*wanted, "protocol.ddfo=1"], "did you mean 'ddof'"),
        ([*wanted, "frames=8"], "wanted protocol.key=value"),
        ([*wanted[:-3], "sute", "--clips", N], "--protocol: got 'sute', allowed"),
        (["--protocol", "suite"], "--real is missing"),
        ([*wanted, "--metrics", "fdv"], "--metrics: got 'fdv', allowed fvd, kvd, is"),
        (["--from-features", tmp_path], "no such file; give a folder that evaluate.py --out wrote"),
    ):
        done = call(*arguments)
        assert done.code == 2 and words in done.err and "Traceback" not in done.err, (arguments, done.err)
        assert len([line for line in done.err.splitlines() if line.startswith("evaluate.py:")]) == 1


def test_a_missing_network_says_where_it_was_looked_for(given, call):
    arguments = ["--real", given / "real", "--generated", given / "generated.npz", "--clips", N, "--offline", *SMALL]
    done = call(*arguments, "--protocol", "stylegan-v,pvdm")
    assert done.code == 1 and "failed: stylegan-v: I3D: looked for " in done.out
    assert "i3d_torchscript.pt" in done.out and "i3d_pretrained_400.pt" in done.out
    given_path = call(*arguments, "--protocol", "pvdm", "--weights", f"i3d_pretrained_400={given}/gone.pt")
    assert given_path.code == 1 and f"looked for {given}/gone.pt: it is not there" in given_path.out
    named = call(*arguments, "--protocol", "pvdm", "--extractor", "i4d")
    assert named.code == 1 and "which is no name and no file" in named.out


def test_not_finite_features_name_the_clip(given, call, monkeypatch):
    forward = InDomainExtractor.forward_features
    calls = []

    def broken(self, clips):
        calls.append(1)
        return forward(self, clips) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(InDomainExtractor, "forward_features", broken)
    done = call(*sides(given), "--protocol", "stylegan-v", "--clips", N, "--metrics", "fvd", *SMALL)
    assert done.code == 2 and "clip r02: its features by embedded are not finite" in done.err


class FrameNet(torch.nn.Module):
    """A stand-in of Inception's packaging: 2048 numbers a picture, three of which say something."""

    def forward(self, image: torch.Tensor, return_features: bool) -> torch.Tensor:
        x = image.float().mean(dim=(2, 3))
        return torch.cat([x, torch.zeros(len(x), 2045)], dim=1)


def test_a_frame_encoder_adds_fid(given, call, tmp_path):
    torch.jit.script(FrameNet()).save(str(tmp_path / "frames.pt"))
    wanted = [*sides(given), "--protocol", "stylegan-v", "--clips", N, *SMALL]
    assert call(*wanted, "--frame-encoder", tmp_path / "frames.pt", "--out", tmp_path / "out").code == 0
    table = {row["metric"]: row for row in rows(tmp_path / "out" / "rows.csv")}
    means = [np.load(tmp_path / "out" / f"{side}.npz")["frame_features"][..., :3] for side in ("real", "generated")]
    assert [mean.shape for mean in means] == [(N, 4, 3)] * 2
    by_hand = frechet_distance(*(mean.reshape(-1, 3) for mean in means))
    assert float(table["fid_inception_n12_f4"]["value"]) == pytest.approx(by_hand, rel=1e-9)
    assert table["fid_inception_n12_f4"]["extractor"] == "inception"
    assert call("--from-features", tmp_path / "out").code == 0
    gone = call(*wanted, "--frame-encoder", tmp_path / "gone.pt")
    assert gone.code == 1 and f"looked for {tmp_path}/gone.pt" in gone.out


def test_sanity_rows_and_splits(given, call, tmp_path):
    """Corrupted real clips, the real clips' own IS, distances to both splits, and a copied training clip, named."""
    with np.load(given / "generated.npz") as loaded:
        clips = loaded["clips"][:N]
    np.save(tmp_path / "train.npy", np.concatenate([clips[7:8], 255 - clips]))
    np.save(tmp_path / "heldout.npy", np.roll(clips, 5, axis=2) // 2)
    wanted = [*sides(given), "--protocol", "stylegan-v", "--clips", N, *SMALL[:2], "--out", tmp_path / "out"]
    done = call(*wanted, "--train", tmp_path / "train.npy", "--heldout", tmp_path / "heldout.npy")
    assert done.code == 0, done.err
    for name in ("half B (real vs real)", "half B, shuffled", "half B, swapped", "half B, half frozen"):
        assert f"| {name} |" in done.out
    assert "Inception score of the real clips: " in done.out
    table = {row["metric"]: row for row in rows(tmp_path / "out" / "rows.csv")}
    out = {side: np.load(tmp_path / "out" / f"{side}.npz")["features"] for side in ("train", "heldout", "generated")}
    for split, count in (("train", N + 1), ("heldout", N)):
        row = table[f"fvd-{split}_embedded_n12_f4"]
        assert float(row["value"]) == frechet_distance(out[split], out["generated"], 0) and row["n_real"] == str(count)
    (memory,) = [
        score
        for score in json.loads((tmp_path / "out" / "record.json").read_text())["scores"]
        if score["metric"] == "memorisation_embedded_n12_f4"
    ]
    assert memory["copies"] == 1 and memory["closest"][0]["clip"] == 7 and memory["closest"][0]["ratio"] == 0
    assert memory["closest"][0]["training_clip"] == "000000"
    assert call("--from-features", tmp_path / "out").code == 0
