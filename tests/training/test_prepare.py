"""What a stage measures on clips before its first step: on which, once, kept in its checkpoint, counted in its cost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lavita.config.schema import CheckpointConfig
from lavita.diffusion.rng import SampleRNG
from lavita.experiment.costs import preparation_flops
from lavita.experiment.stage_data import first_clip
from lavita.results.resume_store import ResumeStore
from lavita.training import checkpoint, fit
from lavita.training.budget import Limit
from lavita.training.fit import fit_stage
from lavita.training.stage import TrainedStage

from .test_resume import PLAIN, TRAIN, ask


class Centred(TrainedStage):
    """Predicts brightness around the mean that it has measured; writes down which clips it was given for that."""

    prepared_clips = 5

    def __init__(self) -> None:
        super().__init__(TRAIN, seed=7)
        self.network = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.calls: list[list[int]] = []
        self.drawn: list[Tensor] = []

    def prepare(self, batches) -> None:
        seen, values = [], []
        for batch, rng in batches:
            assert not torch.is_grad_enabled() and batch["video"].dtype == torch.float32
            seen += batch["clip_index"].tolist()
            self.drawn.append(rng.normal((1,)))
            values.append(self.network(batch["video"].mean(dim=(1, 2, 3, 4))[:, None]))
        self.calls.append(seen)
        self.mean.copy_(torch.cat(values).mean())

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        brightness = batch["video"].mean(dim=(1, 2, 3, 4))[:, None]  # (B, 1)
        return {"loss": (self.network(brightness) - self.mean)[:, 0].square()}


def clip(index: int) -> dict[str, Tensor | int]:
    pixels = torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
    return {"video": pixels, "label": -1, "clip_index": index}


def run(module: Centred, folder: Path, stop_at: int | None = None) -> fit.Fitted:
    """Six steps of two clips, 10 to 21, kept every two steps."""
    loader = torch.utils.data.DataLoader([clip(index) for index in range(10, 22)], batch_size=2)
    heldout = torch.utils.data.default_collate([clip(99)]) | {"video": torch.zeros(1, 2, 3, 4, 4)}
    if stop_at is not None:
        plain, steps = module.training_step, iter(range(1, 99))
        module.training_step = lambda *arguments: (ask(module) if next(steps) == stop_at else None, plain(*arguments))[
            1
        ]
    kept, every = ResumeStore(folder / "kept"), CheckpointConfig(4, 20)
    return fit_stage(module, loader, Limit(12), folder, heldout, lambda *_: None, PLAIN, kept, every)


@pytest.fixture(autouse=True)
def same_start(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(checkpoint._Asked, "yes", False)


def test_it_is_given_its_first_clips_in_whole_passes_with_draws_of_their_own(tmp_path):
    module = Centred()
    weights = module.network.weight.clone()
    run(module, tmp_path)
    assert module.calls == [[10, 11, 12, 13, 14, 15]] and not torch.equal(module.network.weight, weights)
    rng = SampleRNG.for_training(7, "prepare train", torch.tensor([10, 11]), "cpu")
    assert torch.equal(module.drawn[0], rng.normal((1,)))
    assert not module.mean.requires_grad and float(module.mean) != 0


def test_a_resumed_stage_has_it_from_its_checkpoint(tmp_path):
    torch.manual_seed(0)
    whole = Centred()
    run(whole, tmp_path / "whole")
    torch.manual_seed(0)
    first = Centred()
    with pytest.raises(checkpoint.Stopped):
        run(first, tmp_path / "cut", stop_at=3)
    checkpoint._Asked.yes = False
    torch.manual_seed(0)
    second = Centred()
    run(second, tmp_path / "cut")
    assert first.calls and second.calls == []
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in second.state_dict().items())


def test_its_seconds_are_the_stages(tmp_path, monkeypatch):
    module, moment = Centred(), [0.0]
    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: moment[0]))
    plain = module.prepare

    def slow(batches) -> None:
        plain(batches)
        moment[0] += 1000

    module.prepare = slow
    assert 1000 < run(module, tmp_path).seconds < 1100


def test_its_flops_are_counted_for_one_clip():
    module = Centred().to("meta")
    one = {"video": torch.zeros(3, 2, 3, 4, 4, device="meta"), "clip_index": torch.arange(3)}
    assert preparation_flops(module, one) == 2  # a product of 1 by 1
    module.prepared_clips = 0
    assert preparation_flops(module, one) == 0


def test_a_stage_whose_updates_share_clips_begins_with_a_turn():
    module = Centred()
    assert [first_clip(module, seen) for seen in (0, 3, 4, 5)] == [0, 3, 4, 5]
    module.same_clips, module.alternating_updates, module.clip_cost = True, 2, Fraction(1, 2)
    assert [first_clip(module, seen) for seen in (0, 3, 4, 5)] == [0, 4, 4, 8]
