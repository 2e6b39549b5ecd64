"""Checkpoints from which a stage resumes bit for bit: weights, EMA, optimiser, RNG states, counters, logs."""

from __future__ import annotations

import pickle
import random
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from lavita.results.resume_store import ResumeStore
from lavita.training.budget import Clock


class Stopped(Exception):
    """The process was asked to end, and its work is saved in a checkpoint."""


class _Asked:
    """Whether a signal has come; one for the process, as signals are."""

    yes = False


def listen() -> None:
    """From now on SIGTERM is remembered for `check`; to be called again where a library has put its own handler."""
    signal.signal(signal.SIGTERM, _remember)


def _remember(*_: Any) -> None:
    _Asked.yes = True


def asked() -> bool:
    """Whether the process was asked to end."""
    return _Asked.yes


def check() -> None:
    """Raise Stopped where the process was asked to end: to be called where everything made so far is saved."""
    if _Asked.yes:
        raise Stopped("asked to stop")


SUFFIX = ".ckpt"
COUNT = re.compile(r"[0-9.]+")
AGREE_EVERY = 5  # steps of several processes
KEPT_AT_ONCE = 2  # the newest, and the one before it in case the disk damages the newest


class StageCheckpoints(CheckpointIO):
    """The checkpoints of one stage in a ResumeStore, by clips seen; what Lightning writes and reads goes through
    here. Read with weights_only=True: tensors and plain values, no code.
    """

    def __init__(self, kept: ResumeStore, stage: str) -> None:
        self.kept, self.start = kept, f"at-{stage}-"

    def names(self) -> list[str]:
        """Oldest first, and none of a stage whose name begins with this one's."""
        return [name for name in self.kept.names(self.start, SUFFIX) if COUNT.fullmatch(name[len(self.start) :])]

    def newest(self) -> Path | None:
        """The newest that is whole; one that is not is passed over and removed."""
        return next((path for name in reversed(self.names()) if (path := self.kept.load(name, SUFFIX))), None)

    def clips_of(self, path: Path) -> float:
        """Clips seen at a checkpoint."""
        return float(path.name[len(self.start) :].rpartition(".")[0].rpartition(".")[0])

    def callback_states(self, path: Path) -> dict[str, Any]:
        """The callbacks' states in a checkpoint, by their classes' names; tensors are not read."""
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["callbacks"]

    def delete(self) -> None:
        """Let go of all: the stage is done."""
        for name in self.names():
            self.kept.delete(name, SUFFIX)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """path: clips seen, as text; Lightning hands it through."""
        name = f"{self.start}{float(Path(path).name):018.3f}"
        self.kept.save(name, SUFFIX, lambda part: torch.save(checkpoint, part))
        for old in self.names()[:-KEPT_AT_ONCE]:
            self.kept.delete(old, SUFFIX)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path}: is no checkpoint of a stage ({str(error).splitlines()[0]})") from None

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(lightning.Callback):
    """Writes a checkpoint every `every_clips` clips, and when the process is asked to end, which it then does.

    Comes last among the callbacks. What it takes is not charged to the stage: the clock stands meanwhile.
    """

    def __init__(self, clock: Clock, every_clips: int) -> None:
        self.clock, self.every_clips = clock, every_clips
        self.next_clips = every_clips

    def on_train_start(self, trainer: Any, module: Any) -> None:
        listen()  # Lightning has put its own handler in place, which would lose the steps since the last checkpoint
        self.next_clips = (self.clock.seen // self.every_clips + 1) * self.every_clips

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches or self.clock.done:
            return  # between two steps, or at the end, which is saved as the stage's result
        # Several processes stop in the same step. They agree on it now and then: it makes each wait for its device.
        agree = trainer.world_size == 1 or self.clock.steps % AGREE_EVERY == 0
        stop_asked = agree and trainer.strategy.reduce_boolean_decision(asked(), all=False)
        # Cut into shards, an optimiser that has not yet made every alternating update can't be put together again.
        whole = trainer.world_size == 1 or self.clock.steps >= module.alternating_updates
        if whole and (stop_asked or self.clock.seen >= self.next_clips):
            began = time.monotonic()
            self.next_clips = (self.clock.seen // self.every_clips + 1) * self.every_clips
            trainer.save_checkpoint(f"{float(self.clock.seen)}")
            self.clock.pause(time.monotonic() - began)
        if stop_asked:
            raise Stopped("asked to stop")


class RNGStates(lightning.Callback):
    """The state of every generator that a method might draw from; those of the suite draw from their own a clip."""

    def state_dict(self) -> dict[str, Any]:
        kind, keys, position, has_gauss, gauss = np.random.get_state()
        state = {"torch": torch.get_rng_state(), "python": random.getstate()}
        state["numpy"] = [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss]
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Late, since what Lightning sets up before the first step may draw as well."""
        state = self.__dict__.pop("state", None)
        if state is None:
            return
        torch.set_rng_state(state["torch"])
        version, values, gauss = state["python"]
        random.setstate((version, tuple(values), gauss))
        kind, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
