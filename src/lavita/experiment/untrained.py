"""The clips of untrained networks: those whose output is still exactly 0 all give the same ones, which one run of them
makes and scores for all.

What such a network makes depends on seeds, sampler and autoencoder alone: networks that end in a layer of zeros, as
most transformers of the suite do. Whether one is of that kind is seen, and never believed of a method's name: a clip
is sampled, every call of the network must give zeros, and this clip is part of the name under which the result is kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from lavita.config.schema import GENERATION
from lavita.executors.heartbeat import Note, emit, progress
from lavita.experiment.setup import Setup
from lavita.files import sha256_of
from lavita.lock import acquire
from lavita.methods.build import build_method
from lavita.nn.precision import replaced_forwards
from lavita.results.identity import hash_of_sources, package_files
from lavita.results.provenance import versions
from lavita.results.resume_store import ResumeStore
from lavita.results.scores import Score
from lavita.sampling.generate import drop_parts, generate
from lavita.training import checkpoint, distributed

STAGE, NAME = "untrained", "sample untrained"
SCORES = f"scores of {NAME}"
PROBE_CLIPS = 1
ENDINGS = (".npz", ".gif")  # of what a run keeps of its untrained clips: features, and a grid to look at
LIST = "scores.json"
WAIT_SECONDS = 2.0
THERE, MINE, HELD = "there", "mine", "held"
ScoreMethod = Callable[[Setup], list[Score]]


def untrained_scores(
    setup: Setup, out: Path, store: ResumeStore, score: ScoreMethod, key: str | None, wait: bool
) -> list[Score] | None:
    """The scores of the untrained method, whose files lie at out (a path without ending) afterwards; made by
    score(setup), or taken from a run that has made the same. Called by all processes of a run.

    key: of `shared_key`, None where nobody else makes the same. wait: where another run is just making it, until that
    has; else None is given, and this run may train meanwhile.
    """
    if key is None or distributed.from_first(lambda: store.load_value(SCORES) is not None):
        return score(setup)
    place = SharedPlace(setup.shared.cache, key)
    try:
        while (state := distributed.from_first(place.look)) == HELD:
            if not wait:
                return None
            progress(NAME, 0, setup.experiment.protocol.n_generated)  # the run that makes it is watched itself
            checkpoint.check()
            time.sleep(WAIT_SECONDS)
        if state == MINE:
            scores = score(setup)
            distributed.from_first(lambda: place.put(out, [one.to_json() for one in scores]))
            return scores
        distributed.from_first(lambda: store.save_value(SCORES, place.take(out)))
        if distributed.is_first():
            for parts in (NAME, f"score of {NAME}"):
                drop_parts(store, parts)
            emit(Note(f"untrained clips: those of every network whose output is 0, made once ({place.folder.name})"))
        return score(setup)
    finally:
        place.release()


def at_its_start(setup: Setup) -> Setup:
    """The same run with its method as it was before training."""
    e, num_classes = setup.experiment, setup.shared.num_classes
    method = build_method(e, num_classes, setup.method.context.codec)
    return replace(setup, method=method.to(setup.device).eval())


@dataclass
class SharedPlace:
    """The folder untrained-<key> of the cache, there or not; whoever makes it holds a lock, which ends with him."""

    cache: Path
    key: str
    lock: FileLock | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        return self.cache / f"untrained-{self.key}"

    def look(self) -> str:
        """THERE, HELD by another run that makes it, or MINE to make from now on."""
        if self.folder.is_dir():
            return THERE
        path = self.cache / f".untrained-{self.key}.lock"
        lock = FileLock(path, fallback_to_soft=False)
        try:
            acquire(lock, path, timeout=0)
        except Timeout:
            return HELD
        if self.folder.is_dir():  # made meanwhile
            lock.release()
            return THERE
        self.lock = lock
        return MINE

    def put(self, out: Path, scores: list[dict[str, Any]]) -> None:
        """Keep what a run has made; whole or not at all."""
        part = self.cache / f".untrained-{self.key}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for ending in ENDINGS:
            shutil.copyfile(out.with_suffix(ending), part / f"{STAGE}{ending}")
        (part / LIST).write_text(json.dumps(scores) + "\n", encoding="utf-8")
        try:
            part.rename(self.folder)
        except OSError as error:
            shutil.rmtree(part)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def take(self, out: Path) -> list[dict[str, Any]]:
        """Copy what was kept, and give its scores."""
        for ending in ENDINGS:
            shutil.copyfile(self.folder / f"{STAGE}{ending}", out.with_suffix(ending))
        return json.loads((self.folder / LIST).read_text(encoding="utf-8"))

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def shared_key(setup: Setup) -> str | None:
    """A hash of all that decides the untrained clips and their scores; None for a network whose output is not 0, and
    for clips that are made from real ones. Called by all processes of a run."""
    if setup.experiment.sampling.task != GENERATION or setup.conditions is not None:
        return None
    clips = probe(setup)
    return distributed.from_first(lambda: None if clips is None else key_of(setup, clips))


def key_of(setup: Setup, clips: str) -> str:
    """The hash; clips: that of the probe's."""
    e, shared = setup.experiment, setup.shared
    weights = hashlib.sha256()
    for name, value in sorted(setup.method.state_dict().items()):
        if not name.startswith("network."):  # the autoencoder, the suite's or the method's own
            weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    code = hash_of_sources(package_files("codecs", "data", "diffusion", "methods", "metrics", "nn", "sampling"))
    parts = [
        clips, json.dumps(asdict(e.sampling), sort_keys=True), shared.protocol_hash, shared.extractor_hash,
        sha256_of(shared.real), weights.hexdigest(), str(shared.num_classes), e.conditioning, code, versions(),
        setup.device.type, str(e.compute.threads),
    ]  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def probe(setup: Setup) -> str | None:
    """sha256 of a sampled clip where every output of the network on the way was exactly 0; else None."""
    method, protocol = setup.method, setup.experiment.protocol
    network = getattr(method, "network", None)
    if not isinstance(network, nn.Module):
        return None
    outputs = Outputs()
    hook = network.register_forward_hook(outputs)
    count = min(PROBE_CLIPS, protocol.n_generated)
    sampling = replace(setup.experiment.sampling, batch_clips=count)
    try:
        made = generate(method, sampling, count, 0, setup.shared.classes, lambda *_: None)
    except NotZero:
        return None
    finally:
        hook.remove()
    return hashlib.sha256(made.clips.array().tobytes()).hexdigest() if outputs.calls else None


@contextmanager
def known_zeros(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, a network that `probe` found to give 0 is computed in its first call alone, whose zeros give the shape of
    all others: the same numbers in a fraction of the time. Raises NotZero where that call gives anything else.
    """
    if not wanted:
        yield
        return
    seen: list[Tensor] = []

    def zeros(forward: Callable[..., Tensor], x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if not seen:
            first = forward(x, *arguments, **options)
            if bool((first != 0).any()):
                raise NotZero("a network that gave 0 gives something else")
            seen.append(first[:1])
        return seen[0].new_zeros(len(x), *seen[0].shape[1:])

    with replaced_forwards([network], partial(partial, zeros)):
        yield


class NotZero(Exception):
    """A network gave something other than 0."""


@dataclass
class Outputs:
    """A forward hook that lets only zeros pass."""

    calls: int = 0

    def __call__(self, network: nn.Module, inputs: Any, output: Any) -> None:
        self.calls += 1
        if not isinstance(output, torch.Tensor) or bool((output != 0).any()):
            raise NotZero
