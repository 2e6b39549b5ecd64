"""A stage that is stopped or killed and resumed ends as if nothing had happened, bit for bit: every stage of every
method, the suite's autoencoder, and a module that draws from the generators of the process."""

from __future__ import annotations

import copy
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lavita.codecs.base import PixelCodec
from lavita.codecs.training import CodecTraining
from lavita.config.compose import load_yaml
from lavita.config.registry import load_implementation
from lavita.config.schema import CheckpointConfig, CodecConfig, ComputeConfig, TrainConfig, read
from lavita.diffusion.rng import SampleRNG, seed_everything
from lavita.experiment.budget import flops_limits
from lavita.methods.base import MethodContext
from lavita.methods.build import class_of, empty_codec
from lavita.results.resume_store import ResumeStore
from lavita.training import callbacks, checkpoint
from lavita.training.budget import Limit
from lavita.training.checkpoint import StageCheckpoints
from lavita.training.fit import Fitted, fit_stage
from lavita.training.stage import StagePlan, TrainedStage

BATCH, STEPS, EVERY_STEPS = 2, 7, 2
PLAIN_SAVE = torch.save
TRAIN = TrainConfig(
    batch_clips=BATCH,
    learning_rate=1e-3,
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.999,
    warmup_clips=8,
    ema_decay=None,
    ema_halflife_share=0.1,
    grad_clip_norm=0.05,
    grad_clip_start_clips=4,
    class_dropout=0.3,
)
PLAIN = ComputeConfig(
    "32-true",
    compile=False,
    threads=1,
    pass_clips="auto",
    checkpoint_activations=False,
    devices=1,
    nodes=1,
    strategy="auto",
    deterministic=False,
)
LAVITA = {"size": "XS", "depth": 2, "width": 16, "num_heads": 2}
PVDM = {
    "autoencoder_batch_clips": None, "channels": 8, "patch_size": 8, "depth": 1, "num_heads": 2, "head_width": 4,
    "projection_depth": 1, "projection_hidden": 8, "discriminator_width": 4, "discriminator_depth": 2,
    "unet_channels": 32, "unet_multiples": [1, 2], "unet_attention": [2, 1], "unet_blocks": 1, "unet_heads": 2,
}  # fmt: skip
MCVD = {
    "depth": 1, "width": 8, "num_heads": 1, "multiples": [1, 2], "attention": [4], "frames": 1, "past": 1,
    "spatin_channels": 4,
}  # fmt: skip
LVDM = {
    "autoencoder_width": 4, "reductions": [2, 4, 4], "latent_channels": 3, "norm_groups": 4, "discriminator_width": 4,
    "discriminator_depth": 2, "autoencoder_batch_clips": None, "autoencoder_learning_rate": None, "width": 32,
    "multiples": [1, 2], "attention": [1, 2], "depth": 1, "num_heads": 2,
}  # fmt: skip
VIDEO_LDM = {
    "depth": 1, "width": 32, "num_heads": 2, "multiples": [1, 2], "attention": [2], "discriminator_width": 4,
    "discriminator_depth": 2,
}  # fmt: skip
LONG_VIDEO_GAN = {
    "enlargement": 2, "embedding_dim": 8, "latent_dim": 8, "filters": 4, "min_rate": 20.0, "max_rate": 60.0,
    "channel_divisor": 32, "discriminator_width": 8, "pair_frames": 2, "context": 1, "z_dim": 8, "w_dim": 8,
    "channel_base": 64, "channel_max": 4, "low_batch_clips": None,
}  # fmt: skip
LONG = {"long_video": True, "num_keys": 2, "key_stride": 2, "interpolation_share": 0.1}
CODEC = CodecConfig("suite", None, 4, 4, None, 8, 8, 4, 1e-4, 1e-3, BATCH)
# name: (method, changes of its model section, frames, resolution, stage counted from the first)
STAGES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    **{f"lavita-v{variant}": (f"lavita-v{variant}", LAVITA, 4, 8, 0) for variant in (1, 2, 3, 4)},
    "lavita-v1 with images": ("lavita-v1", LAVITA | {"joint_images": 2}, 4, 8, 0),
    "dit frame": ("dit", {"size": "XS", "patch_size": 4, "mode": "frame"}, 2, 8, 0),
    "dit joint": ("dit", {"size": "XS", "patch_size": 4, "mode": "joint"}, 2, 8, 0),
    "vdt": ("vdt", {"size": "XS", "patch_size": 4}, 2, 8, 0),
    "pvdm autoencoder": ("pvdm", PVDM, 4, 32, 0),
    "pvdm adversarial": ("pvdm", PVDM, 4, 32, 1),
    "pvdm diffusion": ("pvdm", PVDM, 4, 32, 2),
    "pvdm after a clip": ("pvdm", PVDM | {"previous_clip": True}, 4, 32, 2),
    "mcvd": ("mcvd", MCVD, 5, 8, 0),
    "mcvd spatin": ("mcvd", MCVD | {"conditioning": "spatin"}, 4, 8, 0),
    "lvdm autoencoder": ("lvdm", LVDM, 4, 32, 0),
    "lvdm adversarial": ("lvdm", LVDM, 4, 32, 1),
    "lvdm diffusion": ("lvdm", LVDM, 4, 32, 2),
    "lvdm interpolation": ("lvdm", LVDM | LONG, 4, 32, 2),
    "lvdm prediction": ("lvdm", LVDM | LONG, 4, 32, 3),
    "video-ldm image": ("video-ldm", VIDEO_LDM, 4, 8, 0),
    "video-ldm decoder": ("video-ldm", VIDEO_LDM, 4, 16, 1),
    "video-ldm temporal": ("video-ldm", VIDEO_LDM, 4, 8, 1),
    "long-video-gan low resolution": ("long-video-gan", LONG_VIDEO_GAN, 4, 16, 0),
    "long-video-gan super-resolution": ("long-video-gan", LONG_VIDEO_GAN, 4, 16, 1),
    "codec": ("", {}, 2, 16, 0),
    "dropout": ("", {}, 2, 8, 0),
}


class Drawing(TrainedStage):
    """What a plugin may do: dropout, and draws from every generator of the process."""

    def __init__(self, train: TrainConfig, seed: int) -> None:
        super().__init__(train, seed)
        self.network = nn.Sequential(nn.Flatten(1), nn.Linear(2 * 3 * 64, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        noise = random.random() + np.random.standard_normal() + torch.rand(())
        return {"loss": (self.network(batch["video"])[:, 0] - noise) ** 2}


def build(name: str) -> TrainedStage:
    """The stage of a name, always from the same weights; three classes where it has any."""
    method, changes, frames, resolution, stage = STAGES[name]
    seed_everything(5)
    if not method:
        return CodecTraining(CODEC, TRAIN, 0) if name == "codec" else Drawing(TRAIN, 0)
    configuration = load_yaml("methods", method)
    implementation = load_implementation(configuration["implementation"])
    config = read(implementation.Config, configuration["model"] | changes, "model")
    codec = empty_codec(replace(CODEC, width=32)) if name == "video-ldm decoder" else PixelCodec()
    context = MethodContext(frames, resolution, None if changes.get("long_video") else 3, codec, TRAIN, 0)
    return class_of(implementation, config)(context, config).stages()[stage].module


class Clips(Dataset):
    """Clips by their number, without end."""

    def __init__(self, name: str, module: TrainedStage) -> None:
        _, _, self.frames, self.side, _ = STAGES[name]
        self.images, self.past = module.joint_images, module.context_frames

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)

        def frames(count: int) -> Tensor:
            return torch.rand(count, 3, self.side, self.side, generator=generator) * 2 - 1

        item = {"video": frames(self.frames), "label": index % 3, "clip_index": index}
        if self.past:
            item["context_frames"] = frames(self.past)
        if self.images:
            item |= {"images": frames(self.images), "image_labels": torch.arange(self.images) % 3}
        return item


@dataclass
class Session:
    """One process's turn at a stage: what becomes of it at the start of its n-th pass, and the clips it has seen."""

    at: dict[int, Callable[[TrainedStage], None]] = field(default_factory=dict)
    clips: list[int] = field(default_factory=list)
    passes: int = 0

    def watch(self, module: TrainedStage) -> None:
        plain = module.training_step

        def training_step(module: TrainedStage, batch: dict[str, Tensor], batch_index: int) -> dict[str, Tensor]:
            self.passes += 1
            self.at.get(self.passes, lambda _: None)(module)
            self.clips += batch["clip_index"].tolist()
            return plain(batch, batch_index)

        module.training_step = MethodType(training_step, module)


class Killed(Exception):
    """Stands in for SIGKILL: what lies in the folders then was copied before."""


@dataclass(frozen=True)
class Case:
    """A stage in a folder, with what it is trained by."""

    name: str
    folder: Path
    compute: ComputeConfig = PLAIN
    limit: Limit | None = None

    def fit(self, session: Session, every: CheckpointConfig | None = None) -> tuple[TrainedStage, Fitted]:
        """Begin the stage, or resume it, from a module of its own as another process has it."""
        module = build(self.name)
        limit = self.limit or Limit(module.clip_cost * BATCH * STEPS)
        clips, drawn = Clips(self.name, module), int(limit.clips / module.clip_cost)
        first = 10  # as a stage that comes after another
        loader = DataLoader(
            clips,
            batch_size=BATCH // self.compute.passes(BATCH),
            sampler=range(first, first + drawn),
            generator=torch.Generator().manual_seed(0),
        )
        heldout = torch.utils.data.default_collate([clips[index] for index in range(1000, 1003)])
        every = every or CheckpointConfig(int(module.clip_cost * BATCH * EVERY_STEPS), every_minutes=20)
        session.watch(module)
        seed_everything(3)
        logs, kept = self.folder / "logs", ResumeStore(self.folder / "kept")
        done = fit_stage(module, loader, limit, logs, heldout, lambda *_: None, self.compute, kept, every)
        return module, done

    @property
    def kept(self) -> ResumeStore:
        return ResumeStore(self.folder / "kept")

    def copied_to(self, folder: Path) -> Callable[[TrainedStage], None]:
        """What is done where the process is killed: the folder is kept as it is then, with all that was logged."""

        def kill(module: TrainedStage) -> None:
            module.trainer.logger.experiment.flush()
            wait_for_writer()
            shutil.copytree(self.folder, folder)
            raise Killed

        return kill


def wait_for_writer() -> None:
    """Until the checkpoint that was begun is written: which one a killed stage resumes from is then certain."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def ask(module: TrainedStage) -> None:
    """What a run does that is to end."""
    os.kill(os.getpid(), signal.SIGTERM)


def scalars_in(folder: Path) -> list[tuple[str, int, float]]:
    """Every scalar of the event files as it was written, repeats and all."""
    events = [
        Event.FromString(raw) for path in folder.rglob("events.*") for raw in RawEventFileLoader(str(path)).Load()
    ]
    values = [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value]
    return sorted(values)


def steps_in(folder: Path) -> list[list[str]]:
    """steps.csv without its seconds."""
    lines = [line.split(",") for line in (folder / "steps.csv").read_text().splitlines()]
    return [line[:3] + line[4:] for line in lines]


def last_kept(case: Case, stage: str) -> dict[str, Any]:
    """What the newest checkpoint holds, but for seconds and the lengths of logs, which hold seconds."""
    path = StageCheckpoints(ResumeStore(case.folder / "kept"), stage).newest()
    content = torch.load(path, weights_only=True)
    content["callbacks"]["Clock"].pop("seconds")
    content["callbacks"].pop("AppendedFiles")
    return content


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal in every bit, tensors in type too."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}/{number}")
    else:
        assert a == b, where


@dataclass(frozen=True)
class Outcome:
    """All that a stage leaves, but for times."""

    weights: dict[str, Tensor]
    kept: dict[str, Any]
    fitted: tuple[Any, ...]
    steps: list[list[str]]
    scalars: list[tuple[str, int, float]]


def outcome(case: Case, ended: tuple[TrainedStage, Fitted]) -> Outcome:
    module, done = ended
    logs = case.folder / "logs"
    weights = copy.deepcopy(dict(module.state_dict()))
    found = scalars_in(logs)
    assert len({(tag, step) for tag, step, _ in found}) == len(found) > 0
    fitted = (done.clips, done.steps, done.heldout_losses)
    return Outcome(weights, last_kept(case, module.stage_name), fitted, steps_in(logs), found)


def assert_same_outcome(a: Outcome, b: Outcome) -> None:
    for part in ("weights", "kept", "fitted", "steps", "scalars"):
        assert_same(getattr(a, part), getattr(b, part), part)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Logs that are written at once and hold a loss every second step; SIGTERM as it was before, whatever comes."""
    for module in (callbacks,):
        monkeypatch.setattr(module, "LOSS_EVERY", 2)
    monkeypatch.setattr(callbacks, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint._Asked, "yes", False)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug here, and a busy disk takes seconds
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """How a stage ends that nothing happens to, and the clips it has seen; made once for each name and compute."""
    made: dict[Any, tuple[Outcome, list[int]]] = {}

    def of(case: Case) -> tuple[Outcome, list[int]]:
        key = (case.name, case.compute.passes(BATCH), case.limit)
        if key not in made:
            alone, session = replace(case, folder=tmp_path_factory.mktemp("undisturbed")), Session()
            made[key] = outcome(alone, alone.fit(session)), session.clips
        return made[key]

    return of


def stopped(case: Case, stops: list[int]) -> tuple[Outcome, list[int]]:
    """The outcome of a stage that is asked to stop in these steps, each counted from the start of its session."""
    clips: list[int] = []
    for step in stops:
        session = Session({step * case.compute.passes(BATCH): ask})
        with pytest.raises(checkpoint.Stopped):
            case.fit(session)
        checkpoint._Asked.yes = False
        assert session.passes == step * case.compute.passes(BATCH)
        clips += session.clips
    session = Session()
    return outcome(case, case.fit(session)), clips + session.clips


def killed(case: Case, step: int, damage: Callable[[Path], None] = lambda _: None) -> tuple[Outcome, list[int]]:
    """The outcome of a stage that is killed in a step, and the clips that were seen after."""
    copied = case.folder.with_name(case.folder.name + "-killed")
    with pytest.raises(Killed):
        case.fit(Session({step * case.compute.passes(BATCH): case.copied_to(copied)}))
    damage(copied)
    after, session = replace(case, folder=copied), Session()
    return outcome(after, after.fit(session)), session.clips


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_is_stopped_resumes_bit_for_bit(name, passes, tmp_path, undisturbed):
    """Stopped once or twice, the first step included: no step is taken twice, and none is missing."""
    case = Case(name, tmp_path / "stage", replace(PLAIN, pass_clips=BATCH // passes))
    expected, clips = undisturbed(case)
    found, seen = stopped(case, [1, 3] if passes == 1 else [4])
    assert_same_outcome(found, expected)
    assert seen == clips == list(range(10, 10 + BATCH * STEPS))


@pytest.mark.parametrize(("passes", "step"), [(1, 6), (2, 4)])
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_is_killed_resumes_from_its_last_checkpoint(name, passes, step, tmp_path, undisturbed):
    """The logs are ahead of the checkpoint then, by one step; what is taken again stands there once."""
    case = Case(name, tmp_path / "stage", replace(PLAIN, pass_clips=BATCH // passes))
    expected, clips = undisturbed(case)
    found, seen = killed(case, step)
    assert_same_outcome(found, expected)
    kept_at = (step - 1) // EVERY_STEPS * EVERY_STEPS
    assert seen == clips[kept_at * BATCH :]


def test_killed_before_its_first_checkpoint_it_begins_again(tmp_path, undisturbed):
    case = Case("dropout", tmp_path / "stage")
    expected, clips = undisturbed(case)
    found, seen = killed(case, 2)
    assert_same_outcome(found, expected)
    assert seen == clips


@pytest.mark.parametrize("step", range(1, STEPS))
def test_stopped_anywhere(step, tmp_path, undisturbed):
    case = Case("dropout", tmp_path / "stage")
    found, seen = stopped(case, [step])
    expected, clips = undisturbed(case)
    assert_same_outcome(found, expected)
    assert seen == clips


def test_asked_in_its_last_step_a_stage_ends_as_ever(tmp_path, undisturbed):
    case = Case("dropout", tmp_path / "stage")
    found = outcome(case, case.fit(Session({STEPS: ask})))
    assert_same_outcome(found, undisturbed(case)[0])
    with pytest.raises(checkpoint.Stopped):
        checkpoint.check()


@pytest.mark.parametrize("name", ["lavita-v1 with images", "pvdm after a clip", "dit joint", "lvdm adversarial"])
def test_in_flops(name, tmp_path, undisturbed):
    """A limit as a budget of FLOPs gives it: in clips that may be a fraction."""
    per_clip = 1000
    stage = StagePlan("train", 1.0, build(name))
    (limit,) = flops_limits([stage], 5.5 * per_clip * BATCH, lambda _: per_clip)
    assert limit.clips == 6 * BATCH * stage.module.clip_cost and isinstance(limit.clips, Fraction)
    case = Case(name, tmp_path / "stage", limit=limit)
    expected, clips = undisturbed(case)
    assert len(clips) == 6 * BATCH
    assert_same_outcome(stopped(case, [3])[0], expected)
    other = replace(case, folder=tmp_path / "other")
    assert_same_outcome(killed(other, 4)[0], expected)


@pytest.mark.parametrize("how", ["cut", "emptied", "another byte", "renamed"])
def test_a_damaged_checkpoint_is_passed_over(how, tmp_path, undisturbed):
    """The one before is taken, and the same comes out."""
    case = Case("dropout", tmp_path / "stage")

    def damage(folder: Path) -> None:
        *_, newest = sorted((folder / "kept").glob("at-*.ckpt"))
        content = newest.read_bytes()
        half = len(content) // 2
        if how == "renamed":
            newest.rename(newest.with_name(newest.name.replace(newest.name.split(".")[-2], "0" * 16)))
        else:
            changed = {"cut": content[:half], "emptied": b""}
            newest.write_bytes(changed.get(how, content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]))

    expected, clips = undisturbed(case)
    found, seen = killed(case, 6, damage)
    assert_same_outcome(found, expected)
    assert seen == clips[2 * BATCH :]  # kept at 2 and at 4 steps


def test_a_log_that_was_cut_from_outside_is_refused(tmp_path):
    """Steps that nothing can bring back are not invented."""
    case = Case("dropout", tmp_path / "stage")
    with pytest.raises(checkpoint.Stopped):
        case.fit(Session({4: ask}))
    checkpoint._Asked.yes = False
    (tmp_path / "stage" / "logs" / "steps.csv").write_text("stage\n")
    with pytest.raises(ValueError, match=r"steps.csv: 6 bytes, but \d+ were written"):
        case.fit(Session())


def test_the_checkpoints_of_a_stage_are_not_those_of_one_with_a_longer_name(tmp_path):
    """pvdm's autoencoder and autoencoder-gan keep theirs in one folder."""
    kept = ResumeStore(tmp_path)
    for stage in ("autoencoder", "autoencoder-gan"):
        slots = StageCheckpoints(kept, stage)
        slots.save_checkpoint({"stage": stage}, "8.0")
        slots.writer.wait()
    for stage in ("autoencoder", "autoencoder-gan"):
        slots = StageCheckpoints(kept, stage)
        assert slots.load_checkpoint(slots.newest()) == {"stage": stage}
    StageCheckpoints(kept, "autoencoder").delete()
    assert StageCheckpoints(kept, "autoencoder-gan").newest() is not None


def written_at(monkeypatch) -> list[float]:
    """Clips seen at each checkpoint that is written from now on."""
    found, plain = [], StageCheckpoints.write
    monkeypatch.setattr(
        StageCheckpoints, "write", lambda self, name, state: (found.append(float(name[9:])), plain(self, name, state))
    )
    return found


def test_checkpoints_are_also_written_by_the_clock_on_the_wall(tmp_path, monkeypatch):
    """A step takes a minute here: every 2.5 minutes is after the third step, and then three steps later; every_clips
    counts as before, and begins the minutes anew."""
    written, moment = written_at(monkeypatch), [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: moment[0]))

    def pass_a_minute(module: TrainedStage) -> None:
        moment[0] += 60

    def fit(name: str, clips: int, minutes: float) -> list[float]:
        written.clear()
        session = Session({step: pass_a_minute for step in range(1, STEPS + 1)})
        Case("dropout", tmp_path / name).fit(session, CheckpointConfig(clips, minutes))
        return list(written)

    assert fit("minutes", 10**6, 2.5) == [3 * BATCH, 6 * BATCH]
    assert fit("both", 4 * BATCH, 2.5) == [3 * BATCH, 4 * BATCH]
    assert fit("rarely", 10**6, 100) == []


@pytest.mark.parametrize("name", ["pvdm diffusion", "lvdm diffusion", "lavita-v1", "codec"])
def test_a_checkpoint_is_weights_average_and_moments_of_what_is_trained(name, tmp_path, monkeypatch):
    """Not the frozen autoencoder, nor an earlier stage's, which the next process has anyway."""
    plain = PixelCodec.__init__

    def heavy(self: PixelCodec) -> None:
        plain(self)
        self.weight = nn.Parameter(torch.ones(10**4), requires_grad=False)

    monkeypatch.setattr(PixelCodec, "__init__", heavy)
    case, module = Case(name, tmp_path / name), build(name)
    with pytest.raises(checkpoint.Stopped):
        case.fit(Session({3: ask}))
    content = torch.load(StageCheckpoints(case.kept, module.stage_name).newest(), weights_only=True)
    names = {id(parameter): key for key, parameter in module.named_parameters()}
    trained = {names[id(parameter)]: parameter.numel() for parameter in module.trained_parameters()}
    left_out = module.state_dict().keys() - content["state_dict"].keys()
    assert {key.split(".")[0] for key in left_out} == set(module.unchanged) and not left_out & trained.keys()
    tables = bytes_of({key: value for key, value in content["state_dict"].items() if key not in trained})
    content["callbacks"].pop("RNGStates")
    counts = 4 * len(trained)  # AdamW's count of steps, one of each weight
    assert bytes_of(content) - tables - counts == 4 * (4 if module.uses_ema else 3) * sum(trained.values())
    assert tables < 10**4


def bytes_of(content: Any) -> int:
    """Bytes of all tensors."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(bytes_of, parts))


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    case = Case("dropout", tmp_path / "stage")
    with pytest.raises(checkpoint.Stopped):
        case.fit(Session({4: ask}))
    checkpoint._Asked.yes = False
    path = StageCheckpoints(case.kept, "train").newest()
    content = torch.load(path, weights_only=True)
    content["state_dict"].pop("network.1.weight")
    case.kept.save("at-train-00000000000010.000", ".ckpt", lambda file: torch.save(content, file))
    with pytest.raises(ValueError, match="holds other weights than the stage has, network.1.weight among them"):
        case.fit(Session())


def slowed(monkeypatch, begun: threading.Event, go_on: threading.Event) -> None:
    """The write of a checkpoint has begun, with some bytes on the disk, and takes until somebody lets it go on."""
    plain = torch.save

    def save(state: Any, file: Any) -> None:
        if isinstance(state, dict) and "optimizer_states" in state:
            file.write(b"")
            file.flush()
            begun.set()
            assert go_on.wait(60)
        plain(state, file)

    monkeypatch.setattr(torch, "save", save)


def test_training_goes_on_beside_a_write_which_holds_the_step_it_was_begun_at(tmp_path, undisturbed, monkeypatch):
    """Steps 3 and 4 are taken while what step 2 left is written; a kill meanwhile leaves no half checkpoint."""
    case, begun, go_on = Case("dropout", tmp_path / "stage"), threading.Event(), threading.Event()
    expected, clips = undisturbed(case)
    slowed(monkeypatch, begun, go_on)
    copied = tmp_path / "killed"

    def copy_and_release(module: TrainedStage) -> None:
        assert begun.wait(60) and threading.active_count() > 1
        module.trainer.logger.experiment.flush()
        shutil.copytree(case.folder, copied)
        go_on.set()

    assert_same_outcome(outcome(case, case.fit(Session({4: copy_and_release}))), expected)
    assert not list((copied / "kept").glob("at-*")) and len(list((copied / "kept").glob(".at-*.part"))) == 1
    monkeypatch.setattr(torch, "save", PLAIN_SAVE)
    again, session = replace(case, folder=copied), Session()
    assert_same_outcome(outcome(again, again.fit(session)), expected)
    assert session.clips == clips  # begun anew: what was half written counts for nothing


def test_a_kill_in_a_write_leaves_the_checkpoint_before(tmp_path, undisturbed, monkeypatch):
    case, begun, go_on = Case("dropout", tmp_path / "stage"), threading.Event(), threading.Event()
    expected, clips = undisturbed(case)
    copied = tmp_path / "killed"

    def slow_from_now(module: TrainedStage) -> None:
        wait_for_writer()
        slowed(monkeypatch, begun, go_on)

    def copy_and_release(module: TrainedStage) -> None:
        assert begun.wait(60)
        module.trainer.logger.experiment.flush()
        shutil.copytree(case.folder, copied)
        go_on.set()
        raise Killed

    with pytest.raises(Killed):
        case.fit(Session({3: slow_from_now, 5: copy_and_release}))
    monkeypatch.setattr(torch, "save", PLAIN_SAVE)
    after, session = replace(case, folder=copied), Session()
    assert_same_outcome(outcome(after, after.fit(session)), expected)
    assert session.clips == clips[2 * BATCH :]


def test_what_goes_wrong_with_a_write_ends_the_stage_and_says_why(tmp_path, monkeypatch):
    case = Case("dropout", tmp_path / "stage")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def wait(module: TrainedStage) -> None:
        wait_for_writer()

    monkeypatch.setattr(torch, "save", full)
    session = Session({3: wait})
    with pytest.raises(OSError, match=r"No space left on device: '.*/at-train-.*\.ckpt'"):
        case.fit(session)
    assert session.passes == 3
    last = Case("dropout", tmp_path / "last")
    with pytest.raises(OSError, match="No space left on device"):
        last.fit(Session(), CheckpointConfig(BATCH * (STEPS - 1), 20))  # the last write: after it no step looks
    assert not list(last.folder.rglob("at-*"))


def test_asked_to_stop_it_waits_for_the_write(tmp_path, monkeypatch):
    plain = StageCheckpoints.write
    monkeypatch.setattr(StageCheckpoints, "write", lambda *arguments: (time.sleep(0.5), plain(*arguments)))
    case = Case("dropout", tmp_path / "stage")
    with pytest.raises(checkpoint.Stopped):
        case.fit(Session({5: ask}))
    assert StageCheckpoints(case.kept, "train").newest().name.startswith("at-train-00000000000010.000.")
