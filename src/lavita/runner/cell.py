"""One cell in its own process: build, sample untrained, train, save, sample, score, record."""

from __future__ import annotations

import hashlib
import shutil
import sys
import traceback
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lavita.bench.ledger import read_record, write_record
from lavita.bench.plan import read_config
from lavita.bench.seal import PROGRESS
from lavita.bench.shared_parts import read_shared
from lavita.bench.suite import CellConfig
from lavita.checkpoints import read_state, save
from lavita.config import CURRENCIES
from lavita.data.catalogue import Catalogue
from lavita.data.windows import real_windows
from lavita.kept import Kept
from lavita.runner.build import build_method, load_suite_codec
from lavita.runner.child import begin
from lavita.runner.conditions import Conditions, conditions_of
from lavita.runner.events import emit, progress
from lavita.runner.generate import Generated, generate, save_samples
from lavita.runner.in_parts import drop_parts
from lavita.runner.loading import stage_data
from lavita.runner.quality import reconstruction_scores
from lavita.runner.scoring import Scorer
from lavita.runner.sittings import said_once, seconds_of
from lavita.runner.source import usable_catalogue
from lavita.runner.together import together
from lavita.runner.training import HELDOUT_CLIPS, Spent, check_spent, start_network, train
from lavita.runner.unfinished import reason_of, sitting, status_of, tidy
from lavita.train import ranks, stop
from lavita.train.module import TrainedStage, VideoMethod


def main(folder: Path, shared_folder: Path) -> None:
    """Run the cell of a folder, or go on with it, and complete its record."""
    cell = read_config(folder / "config.yaml")
    with together(cell.compute, folder):
        if not ranks.is_first():
            work(cell, folder, shared_folder, Kept(folder / PROGRESS))
            return
        with sitting(folder) as kept:
            work(cell, folder, shared_folder, kept)
        finish(folder, cell)


def work(cell: CellConfig, folder: Path, shared_folder: Path, kept: Kept) -> None:
    """What is done in one sitting, by every process of the cell: build, sample untrained, train, sample, score."""
    shared = read_shared(shared_folder)
    ranks.start_group()
    device = torch.device("cuda", ranks.local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    catalogue = usable_catalogue(cell, cell.data.root, Path(shared["cache"]))
    codec = load_suite_codec(cell.codec, shared["codec"])
    method = build_method(cell, shared["num_classes"], codec).to(device).eval()
    if cell.pretraining.checkpoint:
        source = read_record(folder)["outside"]["pretraining.checkpoint"]
        start_network(method, read_state(cell.pretraining.checkpoint), source, folder)
    scorer = Scorer(shared, cell, str(device)) if ranks.is_first() else None

    given = conditions_of(cell, catalogue)
    scores = score_method(method, cell, scorer, shared["classes"], "untrained", folder / "untrained", given, kept)
    spent = train(method, cell, catalogue, shared, folder, kept)
    method.to(device)  # the trainer leaves a module on the CPU
    scores += score_method(method, cell, scorer, shared["classes"], "train", folder / "samples", given, kept)
    if ranks.is_first():
        weights_hash = save_method(method, cell, shared, folder)
        scores += first_stage_scores(method, cell, catalogue, scorer, shared, folder / "autoencoder.gif", kept)
        complete(folder, method, cell, spent, scores, weights_hash, "" if given is None else given.remark)


def score_method(
    method: VideoMethod,
    cell: CellConfig,
    scorer: Scorer | None,
    classes: list[int],
    stage: str,
    out: Path,
    given: Conditions | None,
    kept: Kept,
) -> list[dict[str, Any]]:
    """Sample the protocol's clips, keep them without loss, and score them; one entry a metric.

    Every process samples its part; scorer None: another one scores.
    """
    name = "sample" if stage == "train" else "sample untrained"
    remark = None if given is None else given.remark

    def sample() -> Generated:
        report = partial(progress, name)
        return generate(method, cell.sampling, cell.protocol.n_generated, 0, classes, report, given, kept, name)

    def make() -> list[dict[str, Any]]:
        made = sample()
        if out.is_dir():
            shutil.rmtree(out)  # of a process that was killed while it wrote them
        save_samples(out, made.clips, made.seeds, made.labels, cell, keep_clips=stage == "train", condition=remark)
        common = {"stage": stage, "sampling_seconds_per_clip": made.seconds / len(made.clips)}
        scored = scorer.score(made.clips, out.with_suffix(".npz"), stage == "train", kept, f"score of {name}")
        return [score | common for score in scored]

    if scorer is None:
        if kept.value(f"scores of {name}") is None:
            sample()
        return []
    scores = kept.once(f"scores of {name}", make)
    for parts in (name, f"score of {name}"):
        drop_parts(kept, parts)
    return scores


def first_stage_scores(
    method: VideoMethod,
    cell: CellConfig,
    catalogue: Catalogue,
    scorer: Scorer,
    shared: dict[str, Any],
    picture: Path,
    kept: Kept,
) -> list[dict[str, Any]]:
    """What the method's own first stage loses, or else (measured once a run) what the suite's codec loses."""
    codec = method.first_stage()
    if codec is None:
        return shared["codec_scores"]
    p = cell.protocol
    windows = real_windows(catalogue, p.split, p.frames, p.real_interval, p.windows_per_video, p.n_real, p.clip_seed)
    heldout = stage_data(cell, catalogue, cell.seed, TrainedStage(cell.train, 0), 0, 0).heldout_batch(HELDOUT_CLIPS)
    video = heldout["video"].to(method.device)
    return kept.once(
        "scores of the first stage",
        lambda: reconstruction_scores(codec, "autoencoder", video, windows, scorer, method.perceptual_score, picture),
    )


def save_method(method: VideoMethod, cell: CellConfig, shared: dict[str, Any], folder: Path) -> str:
    """The method's weights (averaged) with all that rebuilds it; returns the file's sha256."""
    external = cell.codec.kind == "kl"
    state = {key: value for key, value in method.state_dict().items() if not (external and key.startswith("codec."))}
    # Sampling needs no file that only training read.
    model = cell.model | dict.fromkeys(cell.weight_files)
    config = {
        "cell": asdict(cell) | {"data": asdict(cell.data) | {"root": None}, "model": model},
        "num_classes": shared["num_classes"],
        "class_names": shared["class_names"],
        "classes": shared["classes"],
    }
    path = folder / "checkpoint.safetensors"
    save(path, state, config)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def complete(
    folder: Path,
    method: VideoMethod,
    cell: CellConfig,
    spent: Spent,
    scores: list[dict[str, Any]],
    weights_hash: str,
    remark: str,
) -> None:
    """Put into the record what was spent and what came out; it is finished by `finish`."""
    record = read_record(folder)
    trainable = {id(p): p for stage in method.stages() for p in stage.module.trained_parameters()}
    # Fixed tables are parameters without gradient; a frozen codec has weights too, and they count.
    fixed = {id(p) for name, p in method.named_parameters() if name.rpartition(".")[2] in FIXED_TABLES}
    # A discriminator is trained but no part of what samples: it counts too.
    everything = trainable | {id(p): p for p in method.parameters() if id(p) not in fixed}
    record["row"] |= {
        "clips_seen": int(spent.total("clips")),
        "train_flops": int(spent.total("flops")),
        "params_trained": count(trainable.values()),
        "params_total": count(everything.values()),
        "external_bytes": external_bytes(cell, method),
        "weights_hash": weights_hash,
    }
    declared = dict(method.declared) | record["outside"]
    said = [record["flag"], remark, *(f"{name}: {text}" for name, text in declared.items())]
    record |= {"declared": declared, "remark": "; ".join(part for part in said if part)}
    record |= {"scores": scores, "stages": spent.stages, "heldout_losses": spent.heldout_losses}
    totals = {currency: spent.total(currency) for currency in CURRENCIES}
    record["budget"] = {"currency": cell.budget.currency, "asked": cell.budget.asked, "spent": totals}
    write_record(folder, record)
    check_spent(cell, totals, spent)


def finish(folder: Path, cell: CellConfig) -> None:
    """Mark the record ok, with what all sittings took together."""
    record = read_record(folder)
    sittings = record["sittings"]
    seconds = seconds_of(sittings)
    record["row"] |= {
        "wall_seconds": seconds,
        "accelerator_seconds": seconds * cell.compute.processes if torch.cuda.is_available() else 0.0,
        "peak_bytes": max(one["peak_bytes"] for one in sittings),
        "hardware": said_once(sittings, "hardware"),
        "versions": said_once(sittings, "versions"),
    }
    write_record(folder, record | {"status": "ok", "reason": record.pop("remark")})
    tidy(folder)


def external_bytes(cell: CellConfig, method: VideoMethod) -> int:
    """Size of the weights that came from outside the run: the given codec, and every file that a cell names."""
    codec = count(method.codec.parameters()) * 4 if cell.codec.kind == "kl" and not method.owns_first_stage else 0
    return codec + sum(Path(path).stat().st_size for path in set(cell.outside.values()))


FIXED_TABLES = {"pos_embed", "temp_embed", "time_embed"}


if __name__ == "__main__":
    begin()
    stop.listen()
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
        emit("result", status="ok", reason="")
    except Exception as error:  # whatever it is, the record must say so and the other cells must run
        traceback.print_exc()
        emit("result", status=status_of(error), reason=reason_of(error))
        raise SystemExit(1) from None
