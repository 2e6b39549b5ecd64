"""Loaders: pixels become numbers on the device, workers draw a step's random numbers, resuming keeps every option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lavita.data.datamodule import MOST_WORKERS, loader_workers
from lavita.diffusion.rng import SampleRNG
from lavita.training import stage as stage_module
from lavita.training.ahead import WithDraws, changed_loader, requests_of, with_draws
from lavita.training.budget import Limit
from lavita.training.fit import fit_stage, from_batch
from lavita.training.stage import DRAWN, TrainedStage, fuses, inputs_of

from .test_compute import PLAIN, method
from .test_resume import Clips, build

BATCH = 2


class Watched(SampleRNG):
    """Counts the numbers that a step draws itself."""

    drawn_here = 0

    @property
    def generators(self) -> list[torch.Generator]:
        Watched.drawn_here += 1
        return super().generators


def clips_of(name: str) -> tuple[TrainedStage, Clips]:
    module = build(name)
    return module, Clips(name, module)


# What each loss asks for, as one reads it in its source: latent noise is missing, since these are in pixels.
ASKED = {
    "lavita-v1": "integers normal uniform",
    "lavita-v1 with images": "integers normal uniform uniform uniform normal",
    "dit frame": "integers normal uniform",
    "vdt": "integers normal uniform",
    "pvdm autoencoder": "integers",
    "pvdm adversarial": "integers",
    "pvdm diffusion": "uniform integers normal",
    "pvdm after a clip": "uniform integers uniform integers normal",
    "mcvd": "integers uniform integers integers uniform uniform integers integers normal",  # 5 frames: two windows of 2
    "mcvd spatin": "uniform integers integers uniform uniform integers integers normal",
    "lvdm autoencoder": "normal",
    "lvdm adversarial": "normal",
    "lvdm diffusion": "normal uniform integers normal",
    "lvdm interpolation": "normal uniform integers integers normal normal",
    "lvdm prediction": "normal uniform integers integers normal normal",
    "video-ldm image": "integers integers integers integers uniform uniform uniform uniform normal",  # 4 frames
    "video-ldm decoder": "normal",
    "video-ldm temporal": "integers normal uniform",
    "codec": "normal",
    "dropout": "",
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_loss_asks_for_is_found_out_on_shapes(name):
    module, clips = clips_of(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    heldout = default_collate([clips[index] for index in range(3)])
    state = torch.get_rng_state()
    requests = requests_of(module, heldout)
    assert " ".join(request.kind for request in requests) == ASKED[name]
    assert torch.equal(torch.get_rng_state(), state)
    after = module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    rng = SampleRNG(range(3))
    module.loss(heldout, rng)
    assert tuple(rng.asked)[: len(requests)] == requests


@pytest.mark.parametrize("name", ["lavita-v1", "lavita-v1 with images", "vdt", "pvdm after a clip", "mcvd"])
def test_a_step_with_numbers_drawn_by_workers_is_the_same_bit_for_bit(name, monkeypatch):
    monkeypatch.setattr(stage_module, "SampleRNG", Watched)
    module, clips = clips_of(name)
    loader = DataLoader(clips, batch_size=BATCH, sampler=range(6), num_workers=1)
    heldout = default_collate([clips[index] for index in range(3)])
    plain = [{key: float(v.detach()) for key, v in module.training_step(batch, 0).items()} for batch in loader]
    drawn_in_steps = Watched.drawn_here
    ahead = with_draws(loader, module, heldout)
    assert ahead is not loader and isinstance(ahead.dataset, WithDraws)
    batches = list(ahead)
    assert all(len(batch[DRAWN]) == len(module.draw_requests) > 0 for batch in batches)
    again = [{key: float(v.detach()) for key, v in module.training_step(batch, 0).items()} for batch in batches]
    assert again == plain
    assert Watched.drawn_here == drawn_in_steps > 0  # nothing was drawn in these steps


def test_wrong_numbers_are_noticed(monkeypatch):
    """The check above has teeth: numbers of another stage's streams give another loss."""
    module, clips = clips_of("lavita-v1")
    requests = requests_of(module, default_collate([clips[0]]))
    losses = []
    for stage in (module.stage_name, "another"):
        module.draw_requests = requests
        item = WithDraws(clips, module.seed, stage, requests)[4]
        losses.append(float(module.training_step(default_collate([item]), 0)["loss"].detach()))
    assert losses[0] != losses[1]


def test_what_cannot_be_drawn_ahead_is_drawn_in_the_step():
    module, clips = clips_of("lavita-v1")
    heldout = default_collate([clips[0]])
    here = DataLoader(clips, batch_size=BATCH, sampler=range(4))
    assert with_draws(here, module, heldout) is here and module.draw_requests == ()

    class Stream(IterableDataset):
        def __iter__(self):
            yield from ()

    stream = DataLoader(Stream(), num_workers=1)
    assert with_draws(stream, module, heldout) is stream
    other = build("dropout")
    looking = DataLoader(clips, batch_size=BATCH, sampler=range(4), num_workers=1)
    assert with_draws(looking, other, default_collate([Clips("dropout", other)[0]])) is looking


class Pixels(Dataset):
    """Clips by number, as the loader gives them: uint8."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        video = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator)
        return {"video": video, "label": -1, "clip_index": index}


class Floats(Pixels):
    """The same as the numbers that a loss reads, made by another formula's hand."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return item | {"video": torch.from_numpy(item["video"].numpy().astype("float32") / 127.5 - 1).float()}


def test_training_from_pixels_is_training_from_floats(tmp_path: Path):
    """Weights, losses and curves, with workers that draw and without; pixels of every level appear."""
    ends = []
    for number, (kind, workers) in enumerate([(Floats, 0), (Pixels, 0), (Pixels, 1)]):
        module, clips = method(), kind()
        loader = DataLoader(clips, batch_size=4, sampler=range(24), num_workers=workers)
        heldout = default_collate([Floats()[index] for index in range(100, 103)])
        done = fit_stage(module, loader, Limit(24), tmp_path / str(number), heldout, lambda *_: None, PLAIN)
        lines = (tmp_path / str(number) / "steps.csv").read_text().splitlines()
        ends.append((done.heldout_losses, [line.split(",")[4] for line in lines], module.state_dict()))
        assert bool(module.draw_requests) == bool(workers)
    for losses, curve, state in ends[1:]:
        assert losses == ends[0][0] and curve == ends[0][1]
        assert all(torch.equal(state[key], value) for key, value in ends[0][2].items())


def test_a_loss_gets_floats_and_the_clips_numbers_stay_on_the_host():
    batch = default_collate([Pixels()[index] for index in range(2)]) | {DRAWN: [torch.zeros(2)]}
    batch["context_frames"] = batch["images"] = batch["video"]
    read = inputs_of(batch)
    assert set(read) == {"video", "context_frames", "images", "label", "clip_index"}
    for key in ("video", "context_frames", "images"):
        assert read[key].dtype == torch.float32 and -1 <= float(read[key].min()) < float(read[key].max()) <= 1
    assert torch.equal(read["label"], batch["label"])
    moved = method().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["clip_index"].device.type == "cpu"
    assert {moved[key].device.type for key in ("video", "context_frames", "images", "label")} == {"meta"}
    assert moved[DRAWN][0].device.type == "meta"


OPTIONS = {
    "num_workers": 1, "prefetch_factor": 3, "persistent_workers": True, "timeout": 7, "worker_init_fn": print,
    "multiprocessing_context": "fork", "collate_fn": list, "in_order": False, "generator": torch.Generator(),
    "pin_memory": True, "pin_memory_device": "",
}  # fmt: skip


def test_a_resumed_loader_has_every_option(recwarn):
    """By the loader's own attributes, so that an option that a later torch brings is kept too."""
    loader = DataLoader(Pixels(), batch_sampler=torch.utils.data.BatchSampler(range(10), 2, False), **OPTIONS)
    for name, value in OPTIONS.items():
        found = getattr(loader, name)
        assert found == value or name == "multiprocessing_context"  # not the default, of which none would be missed
    resumed = from_batch(loader, 3)
    assert vars(resumed).keys() == vars(loader).keys()
    different = {key for key, value in vars(loader).items() if vars(resumed)[key] is not value}
    assert different - {"_DataLoader__multiprocessing_context"} == {"batch_sampler"}
    assert list(resumed.batch_sampler) == [[6, 7], [8, 9]] and len(resumed) == len(loader) == 5
    assert list(loader.batch_sampler)[0] == [0, 1]
    changed = changed_loader(loader, dataset=Floats())
    assert isinstance(changed.dataset, Floats) and isinstance(loader.dataset, Pixels)


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(96)), raising=False)
    assert [loader_workers(devices) for devices in (8, 96, 200)] == [12, 1, 1]
    assert loader_workers(1) == loader_workers(0) == MOST_WORKERS


def test_adamw_is_fused_on_a_gpu_only(monkeypatch):
    assert [fuses(kinds) for kinds in ({"cuda"}, {"cpu"}, {"meta"}, {"cuda", "cpu"})] == [True, None, None, None]
    module = method()
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is None
    monkeypatch.setattr(stage_module, "fuses", lambda kinds: True if kinds == {"cpu"} else None)
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is True


def test_gradients_are_let_go_of_between_steps(tmp_path: Path):
    """Set to None, not to zero: memory, and what alternating updates rest on."""
    seen: list[bool] = []

    class Watching(type(method())):
        def loss(self, batch, rng):
            if torch.is_grad_enabled():
                seen.append(all(parameter.grad is None for parameter in self.parameters()))
            return super().loss(batch, rng)

    module = method()
    module.__class__ = Watching
    loader = DataLoader(Floats(), batch_size=4, sampler=range(12))
    heldout = default_collate([Floats()[100]])
    fit_stage(module, loader, Limit(12), tmp_path, heldout, lambda *_: None, PLAIN)
    assert seen == [True] * 3
    assert all(parameter.grad is None for parameter in module.parameters())
