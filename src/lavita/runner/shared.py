"""What all cells of a run share, fitted once for each data fingerprint: codec, extractor, real clips, sanity rows."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavita.bench.plan import cell_from_dict
from lavita.bench.shared_parts import read_shared, write_shared
from lavita.bench.suite import CellConfig
from lavita.data.catalogue import SPLITS, Catalogue
from lavita.data.clip import centre_crop_resize
from lavita.data.video import read_frames
from lavita.data.windows import load_window, spread_windows
from lavita.registry import ROOT
from lavita.runner.build import codec_training_config, load_suite_codec
from lavita.runner.check import check_cells, outside_hashes
from lavita.runner.events import emit, progress
from lavita.runner.flops import training_flops_per_clip
from lavita.runner.loading import stage_data
from lavita.runner.scoring import Scorer, load_extractors
from lavita.runner.source import usable_catalogue
from lavita.score.described import save_arrays
from lavita.score.inception import inception_score
from lavita.score.sanity import Sight, sanity_text
from lavita.train.module import TrainedStage

STATISTICS_CLIPS = 64
HELDOUT_CLIPS = 32
GRID_CLIPS = 16
MEMORY_TIMES = 4  # windows of a split that are described, at most so many times those that are scored
STRETCH_SPANS = 4  # of each training video, at most so many clips' spans, so that memory stays bounded


def main(spec_file: Path, folder: Path) -> dict[str, str]:
    """Fit or find every shared part and write shared.json, whose paths are names below folder.

    Returns the sha256 of every outside file that some cell uses. With "reuse" in the specification folder is finished:
    only what must hold for these cells is checked; raises Stale where the parts were made from other weights.
    """
    spec = json.loads(spec_file.read_text())
    cells = [cell_from_dict(values) for values in spec["cells"]]
    cell, cache = cells[0], Path(spec["cache"])
    catalogue = usable_catalogue(cell, cell.data.root, cache)
    num_classes = len(catalogue.class_names) or None
    windows = check_cells(cells, catalogue, num_classes)
    outside = outside_hashes(cells)
    if spec["reuse"]:
        check_weights(cell, read_shared(folder), num_classes)
        return outside
    shared: dict[str, Any] = {"cache": str(cache), "num_classes": num_classes, "class_names": catalogue.class_names}
    shared["classes"] = sorted({v.class_index for v in catalogue.split("train") if v.class_index is not None})
    shared |= fit_codec(cell, catalogue, cache, folder)
    shared |= fill_cache(cell, catalogue, shared, cache)
    shared |= fit_extractor(cell, catalogue, cache, num_classes, folder)
    shared |= real_clips(cell, windows, shared, folder)
    shared |= splits_described(cell, catalogue, shared, folder)
    shared["codec_scores"] = codec_scores(cell, catalogue, windows, shared, folder / "codec.gif")
    keys = ("codec_hash", "extractor_hash", "protocol_hash")
    parts = [catalogue.fingerprint, cell.suite, cell.tier, str(cell.budget), *(str(shared[key]) for key in keys)]
    shared["comparison"] = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    write_shared(folder, shared)
    return outside


class Stale(ValueError):
    """Parts that were fitted before can't serve these cells."""


def check_weights(cell: CellConfig, shared: dict[str, Any], num_classes: int | None) -> None:
    """Raise Stale where a codec or feature network that is given, not fitted, has other weights than then."""
    if cell.codec.kind != "suite" and codec_given(cell)["codec_hash"] != shared["codec_hash"]:
        raise Stale("the codec's weights are others")
    networks = load_extractors(cell, shared["extractor"], "cpu")
    hashes = [networks[use].weights_hash for use in ("distance", "classes")]
    if cell.protocol.with_weights(*hashes).hash() != shared["protocol_hash"]:
        raise Stale("the feature networks' weights are others")
    if shared["latents"] and not Path(shared["latents"]).is_dir():
        raise Stale("the latent cache is gone")


def source_hash(*packages: str) -> str:
    """sha256 over the source of packages of ours: what was fitted by other code is fitted again."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((ROOT / "src" / "lavita" / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def fitted(cache: Path, name: str, fit: Callable[[Path], None]) -> Path:
    """The folder cache/name, made by fit where it is not there; it appears whole or not at all."""
    folder = cache / name
    if folder.is_dir():
        return folder
    part = cache / f".{name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    fit(part)
    try:
        part.rename(folder)
    except OSError:
        # Another run put its equal result there meanwhile.
        shutil.rmtree(part)
    return folder


def codec_given(cell: CellConfig) -> dict[str, Any]:
    """A codec that is not trained here: loaded once, so that a missing one ends the run before its first cell."""
    digest = hashlib.sha256(cell.codec.kind.encode())
    for name, value in sorted(load_suite_codec(cell.codec, None).state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return {"codec": None, "codec_hash": digest.hexdigest(), "codec_stage": None}


def fit_codec(cell: CellConfig, catalogue: Catalogue, cache: Path, out: Path) -> dict[str, Any]:
    """The suite's codec: a copy of it, its hash, and what it cost, which each latent method is charged."""
    if cell.codec.kind != "suite":
        return codec_given(cell)
    d = cell.data
    key = key_of(
        catalogue.fingerprint, cell.codec, codec_training_config(cell), d.frames, d.interval, d.resolution, d.flip,
        source_hash("codec", "train", "data", "diffusion"),
    )  # fmt: skip
    found = (cache / f"codec-{key}").is_dir()
    folder = fitted(cache, f"codec-{key}", lambda part: train_codec(cell, catalogue, part))
    stage = json.loads((folder / "stage.json").read_text())
    how = "taken from the cache" if found else "trained"
    emit("note", text=f"codec {how}: {stage['clips']} clips, {stage['seconds']:.0f} s, PSNR {stage['psnr']:.1f} dB")
    weights = hashlib.sha256((folder / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    shutil.copytree(folder, out / "codec")
    return {"codec": str(out / "codec"), "codec_hash": weights, "codec_stage": stage}


def fill_cache(cell: CellConfig, catalogue: Catalogue, shared: dict[str, Any], cache: Path) -> dict[str, Any]:
    """The stored moments of the training videos, where the configuration asks for them."""
    if not cell.data.latent_cache:
        return {"latents": None, "latents_stage": None}
    from lavita.runner.latents import fill

    return fill(cell, catalogue, load_suite_codec(cell.codec, shared["codec"]), shared["codec_hash"], cache)


def train_codec(cell: CellConfig, catalogue: Catalogue, folder: Path) -> None:
    """Train the suite's codec on the training split and save it with what it cost and how well it does."""
    from lavita.codec.kl import save_codec
    from lavita.codec.training import CodecTraining, measured_codec
    from lavita.runner.quality import reconstruction
    from lavita.train.fit import fit_stage

    clips, train = cell.codec.clips, codec_training_config(cell)
    torch.manual_seed(0)
    module = CodecTraining(cell.codec, train, seed=0)
    data = stage_data(cell, catalogue, 0, module, 0, clips)
    module.start(next(iter(data.train_dataloader()))["video"])
    heldout = data.heldout_batch(HELDOUT_CLIPS)
    started = time.monotonic()
    fit_stage(module, data.train_dataloader(), clips, folder, heldout, progress, cell.compute)
    seconds = time.monotonic() - started
    batch = STATISTICS_CLIPS - STATISTICS_CLIPS % train.batch_clips or train.batch_clips
    statistics = stage_data(cell, catalogue, 0, module, 0, batch).train_dataloader()
    codec = measured_codec(module.autoencoder, statistics, "suite", clips)
    before, after = reconstruction(codec, heldout["video"])
    psnr = 10 * np.log10(255**2 / np.mean((before.astype(float) - after.astype(float)) ** 2))
    flops = training_flops_per_clip(module, heldout) * clips
    save_codec(codec, folder)
    stage = {"name": "codec", "clips": clips, "seconds": seconds, "flops": flops, "psnr": float(psnr)}
    (folder / "stage.json").write_text(json.dumps(stage) + "\n")


def fit_extractor(
    cell: CellConfig, catalogue: Catalogue, cache: Path, num_classes: int | None, out: Path
) -> dict[str, Any]:
    """The feature networks of the protocol; the embedded one is trained here where it is wanted and not cached."""
    p, path = cell.protocol, None
    if "embedded" in (p.extractor, p.is_extractor):
        key = key_of(
            catalogue.fingerprint, p.frames, p.real_interval, p.resolution, num_classes, cell.data.flip,
            cell.extractor.steps, source_hash("score", "data"),
        )  # fmt: skip
        found = (cache / f"extractor-{key}").is_dir()
        folder = fitted(cache, f"extractor-{key}", lambda part: train_extractor(cell, catalogue, part, num_classes))
        shutil.copytree(folder, out, dirs_exist_ok=True)
        path = str(out / "extractor.safetensors")
        emit("note", text=f"extractor {'taken from the cache' if found else 'trained'}")
    extractors = load_extractors(cell, path, "cpu")
    distance, classes = extractors["distance"], extractors["classes"]
    protocol = p.with_weights(distance.weights_hash, classes.weights_hash)
    return {
        "extractor": path,
        "extractor_name": distance.name,
        "extractor_hash": distance.weights_hash,
        "protocol_hash": protocol.hash(),
    }


def train_extractor(cell: CellConfig, catalogue: Catalogue, folder: Path, num_classes: int | None) -> None:
    """Train the embedded feature network on stretches of the training videos."""
    from lavita.score.embedded import save_embedded
    from lavita.score.embedded_fit import fit_embedded

    p, videos = cell.protocol, catalogue.split("train")
    longest = STRETCH_SPANS * ((p.frames - 1) * p.real_interval + 1)
    stretches = [
        centre_crop_resize(read_frames(video.path, range(min(video.frames, longest))), p.resolution) for video in videos
    ]
    labels = [video.class_index for video in videos] if num_classes else None
    extractor = fit_embedded(
        stretches, p.frames, p.real_interval, labels, num_classes, flip=cell.data.flip, seed=0,
        steps=cell.extractor.steps,
        report=lambda step, steps, loss: (
            progress("extractor", step, steps, loss) if step % 20 == 0 or step == steps else None
        ),
    )  # fmt: skip
    save_embedded(extractor, folder / "extractor.safetensors")


def real_clips(
    cell: CellConfig, windows: list[tuple[Any, int]], shared: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Features of the protocol's real clips, a grid of the first of them, and what the metric can see of changes."""
    from lavita.score.grid import write_grid
    from lavita.score.sprite import write_sprite

    p, networks = cell.protocol, load_extractors(cell, shared["extractor"], "cpu")
    classes = networks["classes"] if shared["num_classes"] and networks["classes"].num_classes else None
    sight, first, probabilities = Sight(networks["distance"]), [], []
    for number, (video, start) in enumerate(windows, start=1):
        clip = load_window(video, start, p.frames, p.real_interval, p.resolution)
        sight.add(clip)
        if classes:
            probabilities.append(classes.probabilities(clip[None]).numpy()[0])
        if len(first) < GRID_CLIPS:
            first.append(clip)
        if number % 100 == 0 or number == len(windows):
            progress("real clips", number, len(windows))
    kept = {"features": np.stack(sight.real), "names": np.array([f"{v.video_id}@{start}" for v, start in windows])}
    save_arrays(folder / "real.npz", kept | ({"probabilities": np.stack(probabilities)} if classes else {}))
    write_grid(folder / "real.gif", np.stack(first), columns=4)
    write_sprite(folder, "real", np.stack(first))
    score = inception_score(np.stack(probabilities), p.is_splits, p.is_shuffle_seed) if classes else None
    report = sight.report(ddof=p.ddof, inception=score)
    videos = len({video.video_id for video, _ in windows})
    return {
        "real": str(folder / "real.npz"),
        "real_videos": videos,
        "protocol_name": f"{p.name} ({len(windows)} windows of {videos} videos)",
        "sanity": asdict(report),
        "sanity_text": sanity_text(report),
    }


def splits_described(cell: CellConfig, catalogue: Catalogue, shared: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Features of windows of each split, spread evenly over its videos: what distances to train and to held-out clips
    are made from, and what a generated clip is held against to see whether it was copied."""
    p = cell.protocol
    extractor = load_extractors(cell, shared["extractor"], "cpu")["distance"]
    for split in SPLITS:
        windows = spread_windows(catalogue, split, p.frames, p.real_interval, MEMORY_TIMES * p.n_real, p.clip_seed)
        rows = [
            extractor.features(load_window(video, start, p.frames, p.real_interval, p.resolution)[None]).numpy()
            for video, start in windows
        ]
        names = [f"{video.video_id}@{start}" for video, start in windows]
        features = np.concatenate(rows) if rows else np.zeros((0, extractor.num_features), np.float32)
        save_arrays(folder / f"{split}.npz", {"features": features, "names": np.array(names, dtype=str)})
    return {"splits": {split: str(folder / f"{split}.npz") for split in SPLITS}}


def codec_scores(
    cell: CellConfig, catalogue: Catalogue, windows: list[tuple[Any, int]], shared: dict[str, Any], picture: Path
) -> list[dict[str, Any]]:
    """What the codec loses by itself, which is the same for every method on its latents; nothing is lost in pixels."""
    if cell.codec.kind == "pixels":
        return []
    from lavita.runner.quality import reconstruction_scores

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec = load_suite_codec(cell.codec, shared["codec"]).to(device)
    heldout = stage_data(cell, catalogue, 0, TrainedStage(cell.train, 0), 0, 0).heldout_batch(HELDOUT_CLIPS)
    scorer = Scorer(shared, cell, str(device))
    video = heldout["video"].to(device)
    return reconstruction_scores(codec, "codec", video, windows, scorer, lambda *_: None, picture)


if __name__ == "__main__":
    try:
        emit("result", status="ok", reason="", outside=main(Path(sys.argv[1]), Path(sys.argv[2])))
    except Stale as error:
        emit("result", status="stale", reason=str(error))
    except Exception as error:  # the starting process prints the one line; the log has the rest
        traceback.print_exc()
        emit("result", status="failed", reason=str(error).strip() or type(error).__name__)
        raise SystemExit(1) from None
