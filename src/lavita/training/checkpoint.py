"""Checkpoints from which a stage resumes bit for bit: weights, EMA, optimiser, RNG states, counters, logs.

Training waits only until its state is copied into the host's memory; a thread writes the copy.
"""

from __future__ import annotations

import pickle
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn

from lavita.results.resume_store import ResumeStore
from lavita.training import distributed
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


class Writer:
    """Calls one function at a time in a thread of its own; what it raises is raised by the next `start` or `wait`."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def start(self, call: Callable[[], Any]) -> None:
        """Begin with a call, once the one before is done."""
        self.wait()
        # Not a daemon: an interpreter that ends waits for it.
        self.thread = threading.Thread(target=self.work, args=(call,), name="checkpoint")
        self.thread.start()

    def work(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:  # raised where the next call looks
            self.error = error

    def check(self) -> None:
        """Raise what the last call raised, without waiting for one that is at work."""
        if self.thread is not None and not self.thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until nothing is at work; raises what it raised."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error


def host_copy(state: Any) -> Any:
    """The same nested dicts, lists and tuples with every tensor copied into the host's memory: what is trained on
    meanwhile does not change it."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: host_copy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(host_copy(value) for value in state)
    return state


def without_unchanged(module: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of a stage without the parts that it uses as they are."""
    starts = tuple(f"{name}." for name in module.unchanged)
    return {key: value for key, value in state.items() if not key.startswith(starts)}


def load_changed(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a stage what `without_unchanged` left of its state. Raises RuntimeError for other names or shapes."""
    own = module.state_dict()
    module.load_state_dict({key: own[key] for key in own.keys() - without_unchanged(module, own)} | dict(state))


class StageCheckpoints(CheckpointIO):
    """The checkpoints of one stage in a ResumeStore, by clips seen; what Lightning writes and reads goes through
    here. Read with weights_only=True: tensors and plain values, no code.

    Of several processes the first one says which there are; each of them makes the same calls.
    """

    def __init__(self, kept: ResumeStore, stage: str) -> None:
        self.kept, self.start = kept, f"at-{stage}-"
        self.writer = Writer()

    def names(self) -> list[str]:
        """Oldest first, and none of a stage whose name begins with this one's."""
        return [name for name in self.kept.names(self.start, SUFFIX) if COUNT.fullmatch(name[len(self.start) :])]

    def newest(self) -> Path | None:
        """The newest that is whole; one that is not is passed over and removed."""
        file = distributed.from_first(self.newest_here)
        return None if file is None else self.kept.named(file)

    def newest_here(self) -> str | None:
        """The name of the newest file that is whole, as this process sees it."""
        found = (path for name in reversed(self.names()) if (path := self.kept.load(name, SUFFIX)))
        return next((path.name for path in found), None)

    def clips_of(self, path: Path) -> float:
        """Clips seen at a checkpoint."""
        return float(path.name[len(self.start) :].rpartition(".")[0].rpartition(".")[0])

    def callback_states(self, path: Path, module: nn.Module) -> dict[str, Any]:
        """The callbacks' states in a checkpoint of a stage, by their classes' names; tensors are not read.

        Raises ValueError where it holds other weights than the stage has.
        """
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = without_unchanged(module, module.state_dict()).keys() ^ content["state_dict"].keys()
        if missing:
            raise ValueError(f"{path}: holds other weights than the stage has, {min(missing)} among them")
        return content["callbacks"]

    def delete(self) -> None:
        """Let go of all: the stage is done."""
        for name in self.names():
            self.kept.delete(name, SUFFIX)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Copy a checkpoint and begin to write it. path: clips seen, as text; Lightning hands it through.

        Raises what went wrong with the one before.
        """
        self.writer.wait()  # before another copy is made: the host's memory holds one
        name, state = f"{self.start}{float(Path(path).name):018.3f}", host_copy(checkpoint)
        self.writer.start(lambda: self.write(name, state))

    def write(self, name: str, state: dict[str, Any]) -> None:
        """Write a copied checkpoint, and let go of those before the last ones."""
        self.kept.save(name, SUFFIX, lambda file: torch.save(state, file))
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
    """Writes a checkpoint every `every_clips` clips, where `every_minutes` have gone by since the last one, and when
    the process is asked to end, which it then does.

    Comes last among the callbacks. What it takes is not charged to the stage: the clock stands meanwhile.
    """

    def __init__(self, clock: Clock, slots: StageCheckpoints, every_clips: int, every_minutes: float) -> None:
        self.clock, self.slots = clock, slots
        self.every_clips, self.every_seconds = every_clips, 60 * every_minutes
        self.next_clips, self.saved_at = every_clips, time.monotonic()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        listen()  # Lightning has put its own handler in place, which would lose the steps since the last checkpoint
        self.next_clips = (self.clock.seen // self.every_clips + 1) * self.every_clips
        self.saved_at = time.monotonic()

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = without_unchanged(module, checkpoint["state_dict"])

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches or self.clock.done:
            return  # between two steps, or at the end, which is saved as the stage's result
        self.slots.writer.check()
        # Clocks of several processes differ: they save, and stop, in the same step, when one of them says so. They
        # agree on it now and then, since it makes each wait for its device.
        due = asked() or time.monotonic() - self.saved_at >= self.every_seconds
        agree = trainer.world_size == 1 or self.clock.steps % AGREE_EVERY == 0
        due = agree and trainer.strategy.reduce_boolean_decision(due, all=False)
        stop_asked = due and trainer.strategy.reduce_boolean_decision(asked(), all=False)
        # Cut into shards, an optimiser that has not yet made every alternating update can't be put together again.
        whole = trainer.world_size == 1 or self.clock.steps >= module.alternating_updates
        if whole and (due or self.clock.seen >= self.next_clips):
            began = time.monotonic()
            self.next_clips = (self.clock.seen // self.every_clips + 1) * self.every_clips
            trainer.save_checkpoint(f"{float(self.clock.seen)}")
            self.saved_at = time.monotonic()
            self.clock.pause(self.saved_at - began)
        if stop_asked:
            self.slots.writer.wait()
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
