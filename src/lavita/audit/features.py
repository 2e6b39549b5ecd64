"""Features of some stored clips, recomputed by the stored network, against the stored features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lavita.audit.clips import read_arrays
from lavita.audit.settings import good
from lavita.data.clip_folder import read_manifest
from lavita.data.video import read_frames
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.load import load_extractors
from lavita.results.audit_line import FAIL, NOT_APPLICABLE, PASS, AuditLine
from lavita.results.run_folder import Attempt, RunFolder

CHECK = "features from stored clips"
# Of the largest feature: float32 of another machine or number of threads.
TOLERANCE = 1e-4


def feature_lines(run: RunFolder, count: int) -> list[AuditLine]:
    """One line per completed run, for `count` clips drawn by the digest, so that nobody chose them."""
    wanted = set(good(run))
    return [line for one in run.attempts if one.record.cell in wanted for line in checked(run, one, count)]


def checked(run: RunFolder, one: Attempt, count: int) -> Iterator[AuditLine]:
    """The line of a run."""
    name, wanted = one.record.cell, one.record.row.extractor_hash
    try:
        network = extractor(run, one)
    except (OSError, ValueError) as error:
        # A network given as a file lies outside the folder.
        yield AuditLine(CHECK, name, NOT_APPLICABLE, f"no network at hand: {' '.join(str(error).split())}")
        return
    if network.weights_hash != wanted:
        text = f"the network has sha256 {network.weights_hash[:16]}, but the row {wanted[:16]}"
        yield AuditLine(CHECK, name, FAIL, text)
        return
    try:
        yield compared(run, one, network, count)
    except (OSError, KeyError, ValueError, IndexError) as error:
        yield AuditLine(CHECK, name, FAIL, f"can't be made: {error}")


def extractor(run: RunFolder, one: Attempt) -> Extractor:
    """The network of the shared artifacts, or the known one at hand for the protocol. Raises ValueError, OSError.

    A file that the record names is not taken: it lies outside the folder, and a TorchScript file is a program.
    """
    shared, experiment = run.shared[one.record.shared].artifacts, one.record.experiment()
    weights = replace(experiment.weights, i3d=None, c3d=None)
    return load_extractors(experiment.protocol, weights, shared.extractor, "cpu")["distance"]


def compared(run: RunFolder, one: Attempt, network: Extractor, count: int) -> AuditLine:
    """Whether the clips drawn give their stored features."""
    folder, name = run.folder_of(one), one.record.cell
    manifest = read_manifest(folder / "samples")
    stored = read_arrays(folder / "samples.npz")["features"]
    entries = sorted(manifest["clips"], key=lambda entry: entry["name"])
    draw = np.random.default_rng(int(run.digest[:16], 16))
    chosen = sorted(draw.choice(len(entries), min(count, len(entries)), replace=False))
    for index in chosen:
        clip = read_frames(folder / "samples" / entries[index]["file"], range(manifest["shape"][0]))
        made = network.features(clip[None]).numpy()[0]
        far = float(np.abs(made - stored[index]).max() / max(np.abs(stored[index]).max(), 1e-12))
        if not far <= TOLERANCE:
            text = f"{entries[index]['file']} gives features {far:.2g} of the largest away from the stored ones"
            return AuditLine(CHECK, name, FAIL, text)
    return AuditLine(CHECK, name, PASS, f"{len(chosen)} of {len(entries)} clips, within {TOLERANCE:g}")
