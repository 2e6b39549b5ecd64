"""The held-out loss: a few clips at a time, each with its own draws, in the precision that training has."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from lavita.diffusion.rng import SampleRNG
from lavita.training import stage
from lavita.training.budget import Limit
from lavita.training.fit import fit_stage
from tests.training.test_compute import PLAIN, batch, method


def test_chunks_have_the_draws_of_the_whole_batch(monkeypatch):
    module, heldout, sizes = method(), batch(7, 10), []
    loss = module.loss
    module.loss = lambda own, rng: (sizes.append((len(own["video"]), len(rng))), loss(own, rng))[1]
    whole = module.heldout_loss(heldout)
    assert sizes == [(10, 10)]  # of the demo's size: the same call as ever
    with torch.no_grad():
        module.eval()
        rng = SampleRNG.for_training(0, "heldout", torch.arange(10), "cpu")
        assert whole == float(loss(heldout, rng)["loss"].mean())
        module.train()
    monkeypatch.setattr(stage, "HELDOUT_PIXELS", 3 * 4 * 8 * 8)
    assert module.heldout_loss(heldout) == pytest.approx(whole, rel=1e-6)
    assert sizes[1:] == [(2, 2), (3, 3), (2, 2), (3, 3)] and module.training


def test_images_and_earlier_frames_count_as_pixels(monkeypatch):
    module, sizes = method(), []
    module.loss = lambda own, rng: (sizes.append(len(own["video"])), {"loss": own["video"].mean(dim=(1, 2, 3, 4))})[1]
    more = batch(0, 4) | {"context_frames": torch.zeros(4, 4, 3, 8, 8), "images": torch.zeros(4, 8, 3, 8, 8)}
    monkeypatch.setattr(stage, "HELDOUT_PIXELS", 2 * 4 * 8 * 8)
    module.heldout_loss(batch(0, 4))
    module.heldout_loss(more)
    assert sizes == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("precision, dtype", [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_it_is_measured_in_the_precision_of_training(tmp_path, precision, dtype):
    """What matrix products give, in training and in the held-out loss, told apart by the number of clips."""
    module, seen = method(), {}
    layer = [layer for layer in module.network.blocks[-1].mlp.modules() if isinstance(layer, torch.nn.Linear)][-1]

    def note(layer, given, output) -> None:
        seen.setdefault(torch.is_grad_enabled(), output.dtype)

    layer.register_forward_hook(note)
    whole = batch(0, 8)
    loader = DataLoader([{key: value[i] for key, value in whole.items()} for i in range(8)], batch_size=4)
    compute = replace(PLAIN, precision=precision)
    fit_stage(module, loader, Limit(8), tmp_path, batch(99, 6), lambda *_: None, compute)
    assert seen == {True: dtype, False: dtype}
