"""A small results folder written by hand: two finished rows, a failed one, real clips, an autoencoder, step logs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from lavita.config.plan import deviations, make_plan
from lavita.config.protocol import Protocol
from lavita.data.clip_folder import write_sprite
from lavita.report.reproduction import published_facts
from lavita.results.attempts import finalize_record
from lavita.results.records import Record, SharedRecord, StageRecord, write_record
from lavita.results.rows import Row
from lavita.results.run_folder import AbsentSystem, PlannedRun, RunPlan, write_plan
from lavita.results.scores import Score
from lavita.results.shared import Sensitivity, SharedArtifacts, write_shared
from lavita.suite.record import card_of

HOSTILE = "<script>alert('x')</script> & \"quoted\" | *"
KEY = "abc123"
ROOT_OF_DATA = "/somewhere/on/a/machine"
PROTOCOL = "demo[n=8,real_interval=1,generated_interval=1] (8 windows of 8 videos)"  # a long word


def clips(seed: int, count: int = 16, frames: int = 8, side: int = 32) -> np.ndarray:
    """Squares that move, each in a colour of its own: uint8 (N, F, H, W, 3)."""
    rng = np.random.default_rng(seed)
    made = np.full((count, frames, side, side, 3), 60, np.uint8)
    for clip, colour in zip(made, rng.integers(100, 256, (count, 3)), strict=True):
        for number, frame in enumerate(clip):
            frame[8:20, 2 + 2 * number : 12 + 2 * number] = colour
    return made


def make_run(folder: Path, seeds: tuple[int, ...] = (0,)) -> Path:
    """The folder; dit and pvdm completed for each seed, vdt failed with a hostile reason, the others were not run."""
    overrides = [f"data.root={ROOT_OF_DATA}", "budget.clips=2048"]
    experiments = make_plan("ucf101-class", "demo", ["dit", "vdt", "pvdm"], list(seeds), overrides)
    plan = RunPlan(
        suite="ucf101-class",
        tier="demo",
        title="UCF101 & more",
        order=("lavita-v1", "dit", "vdt", "pvdm"),
        compares_rows=False,
        cells={
            experiment.cell: PlannedRun(experiment.label, f"identity of {experiment.cell}")
            for experiment in experiments
        },
        comparisons=("same",),
        not_yet=(
            AbsentSystem("lvdm", "LVDM: a title (He et al.)", "https://example.org/lvdm"),
            AbsentSystem("diffpose", "DiffPose", "", "estimates poses"),
        ),
        published=published_facts({experiment.method for experiment in experiments}, "ucf101"),
    )
    write_plan(folder, plan)
    make_shared(folder / "shared" / KEY, experiments[0].protocol)
    for number, experiment in enumerate(experiments):
        make_attempt(folder / "cells" / experiment.cell, experiment, number)
    return folder


def make_shared(folder: Path, protocol: Protocol) -> None:
    """What the runs share."""
    (folder / "codec").mkdir(parents=True)
    names = ("halves", "shuffled", "static")
    text = (
        "| half A against | Frechet distance | times the floor |\n| --- | --- | --- |\n"
        "| half B (real vs real) | 4 | 1.0 |\n| half B, still | 40 | 10.0 |\n\nNot sensitive at this size to shuffled."
    )
    rows = dict.fromkeys(names, 4.0)
    verdict = "sensitive to static 10.0; not sensitive at this size to shuffled 1.00, wanted at least 3"
    shared = SharedArtifacts(
        cache=Path("cache"),
        num_classes=2,
        class_names=("A", "B"),
        classes=(0, 1),
        codec=folder / "codec",
        codec_hash="c" * 64,
        extractor=folder / "e.safetensors",
        extractor_name="embedded",
        extractor_hash="e" * 64,
        protocol_used=protocol,
        protocol_name=PROTOCOL,
        protocol_hash="p" * 12,
        real=folder / "r.npz",
        real_videos=8,
        sanity=Sensitivity(rows, rows, rows, 4, informative=False, verdict=verdict, inception=(3.0, 0.1)),
        sanity_text=text,
        splits={},
        comparison="same",
    )
    write_shared(folder, shared)
    write_sprite(folder, "real", clips(99))
    write_sprite(folder, "codec", clips(98, count=12), columns=3)
    (folder / "codec" / "steps.csv").write_text(
        "stage,step,clips_seen,seconds,loss\n" + "".join(f"codec,{i},{8 * i},{i}.0,{1 / i}\n" for i in range(1, 65))
    )
    record = SharedRecord(
        cell="shared artifacts",
        status="ok",
        identity="i",
        dataset="ucf101 (hand-made)",
        fingerprint="f" * 64,
        left_out=(f"v_{HOSTILE}.avi: empty",),
        protocol=protocol,
        splits={"heldout": 4, "train": 8},
    )
    write_record(folder, record)
    finalize_record(folder)


def make_attempt(folder: Path, experiment, number: int) -> None:
    """One run: vdt fails, the others complete."""
    folder.mkdir(parents=True)
    failed = experiment.method == "vdt"
    record = Record(
        cell=experiment.cell,
        label=experiment.label,
        status="failed" if failed else "ok",
        reason=HOSTILE if failed else "",
        identity=f"identity of {experiment.cell}",
        code_hash="0" * 16,
        comparison="same",
        shared=KEY,
        config=asdict(experiment),
        deviations=tuple(deviations(experiment)),
        card=card_of(experiment),
        row=row_of(experiment),
    )
    log = ["stage,step,clips_seen,seconds,loss"]
    stages = {"vdt": ["train"], "dit": ["train"], "pvdm": ["autoencoder", "autoencoder-gan", "train"]}[
        experiment.method
    ]
    for stage in stages:
        log += [f"{stage},{i},{8 * i},{i}.5,{2 / i + number if i % 10 == 0 else ''}" for i in range(1, 65)]
    (folder / "steps.csv").write_text("\n".join(log) + ("\ntrain,65,5" if failed else "\n"))
    if not failed:
        record = finished(record, number, stages)
        write_sprite(folder, "samples", clips(number))
        (folder / "samples").mkdir()
        listed = [{"name": f"{i:06d}", "file": f"{i:06d}.mkv", "seed": i} for i in range(20)]
        (folder / "samples" / "clips.json").write_text(json.dumps({"num_clips": 20, "clips": listed}))
    write_record(folder, record)
    finalize_record(folder)


def finished(record: Record, number: int, stages: list[str]) -> Record:
    """The record with what that of a completed run says besides: stages, losses, scores."""
    clips_of = (
        {"codec": 512, "train": 1536} if stages == ["train"] else dict(zip(stages, (800, 104, 1144), strict=True))
    )
    entries = [
        StageRecord(name, count, 10.0 + number, 10**12, charged=name == "codec") for name, count in clips_of.items()
    ]
    value = 100 / 3 + 50 * number
    scores = []
    for stage, factor in (("untrained", 10.0), ("train", 1.0)):
        ends = {"ci_low": factor * value - 5, "ci_high": factor * value + 5, "ci_kind": "95 %, halves"}
        ends |= {"extrapolated": value, "extrapolated_low": value - 5, "extrapolated_high": value + 5}
        common = {"stage": stage, "extractor": "embedded", "extractor_hash": "e" * 64, "unit": "u"}
        scores += [
            common | {"metric": "fvd_embedded_n8_f8", "value": factor * value, "lower_is_better": True} | ends,
            common | {"metric": "is_embedded_n8_f8", "value": 1 + 1 / factor, "lower_is_better": False},
        ]  # fmt: skip
    more = ("kvd", "fvd-train", "fvd-heldout", "memorisation")  # as wide a table as a real run's
    scores += [common | {"metric": f"{one}_embedded_n8_f8", "value": value, "lower_is_better": True} for one in more]
    first = {"stage": "codec" if "codec" in clips_of else "autoencoder", "lower_is_better": False, "unit": "dB"}
    scores.append(first | {"metric": "psnr_n32_f8", "value": 24.8, "n_real": 32, "n_generated": 32})
    losses = ((0, 1.0), (clips_of["train"] / 2, 0.5), (clips_of["train"], 0.25))
    return replace(record, scores=tuple(Score(**one) for one in scores), stages=tuple(entries), heldout_losses=losses)


def row_of(experiment) -> Row:
    """The columns that all scores of a run share."""
    values = {
        "suite": experiment.suite, "tier": experiment.tier, "cell": experiment.cell,
        "method": experiment.method, "seed": experiment.seed,
        "dataset": "ucf101 (hand-made)", "data_fingerprint": "f" * 64, "division": "closed", "conditioning": "class",
        "guidance": 2.0, "protocol": PROTOCOL, "protocol_hash": "p" * 12, "extractor": "embedded",
        "extractor_hash": "e" * 64, "n_real": 8, "n_generated": 8, "sampler": "ddim", "nfe": 25, "commit": "d" * 40,
        "dirty": "true", "hardware": "a machine", "versions": "python 3", "started_at": "2026-01-01T00:00:00+00:00",
        "config_hash": "0" * 16,
    }  # fmt: skip
    spent = {
        "clips_seen": 2048, "train_flops": 2 * 10**12, "wall_seconds": 30.0, "accelerator_seconds": 0.0,
        "peak_bytes": 2**29, "params_trained": 10**6, "params_total": 10**6, "external_bytes": 0,
        "sampling_seconds_per_clip": 0.1, "weights_hash": "b" * 64,
    }  # fmt: skip
    return Row(**values if experiment.method == "vdt" else values | spent)
