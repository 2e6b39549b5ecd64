"""How a run uses its machine must not change what it learns: accumulated batches and recomputed blocks."""

import itertools
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from lavita.codecs.base import PixelCodec
from lavita.config.plan import make_plan
from lavita.config.schema import ComputeConfig
from lavita.methods.build import build_method
from lavita.training.budget import Limit
from lavita.training.distributed import recomputed_blocks
from lavita.training.fit import fit_stage

PLAIN = ComputeConfig(
    "32-true",
    compile=False,
    threads=1,
    accumulate_batches=1,
    checkpoint_activations=False,
    devices=1,
    nodes=1,
    strategy="auto",
)


def method():
    """A small LAVITA in pixels, 4 frames of 8 x 8."""
    overrides = ["model.patch_size=4", "model.depth=2", "model.width=16", "model.num_heads=2"]
    (experiment,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], overrides)
    data = replace(experiment.data, frames=4, resolution=8)
    return build_method(
        replace(experiment, data=data, train=replace(experiment.train, batch_clips=4, warmup_clips=0)),
        None,
        PixelCodec(),
    )


def batch(first: int, count: int) -> dict[str, torch.Tensor]:
    video = torch.rand(count, 4, 3, 8, 8, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return {"video": video, "label": torch.full((count,), -1), "clip_index": first + torch.arange(count)}


def trained(tmp_path, compute: ComputeConfig) -> tuple[torch.nn.Module, list]:
    """24 clips in batches of 4: six updates, and the held-out losses."""
    whole = batch(0, 24)
    clips = [{key: value[i] for key, value in whole.items()} for i in range(24)]
    module = method()
    loader = DataLoader(clips, batch_size=4 // compute.accumulate_batches)
    done = fit_stage(module, loader, Limit(24), tmp_path, batch(99, 4), lambda *_: None, compute)
    return module, done.heldout_losses


def test_every_step_is_logged_with_its_clips(tmp_path):
    for passes in (1, 2):
        folder = tmp_path / str(passes)
        trained(folder, replace(PLAIN, accumulate_batches=passes))
        header, *lines = (folder / "steps.csv").read_text().splitlines()
        assert header == "stage,step,clips_seen,seconds,loss"
        found = [line.split(",") for line in lines]
        assert [(int(step), int(clips)) for _, step, clips, _, _ in found] == [(n, 4 * n) for n in range(1, 7)]
        seconds = [float(line[3]) for line in found]
        assert seconds == sorted(seconds) and seconds[0] >= 0


def test_a_stage_of_seconds_ends_with_the_step_in_which_they_are_over(tmp_path):
    """Clips without end; each step is slowed to a known time by what the loader waits."""

    class Slow(torch.utils.data.IterableDataset):
        def __iter__(self):
            for first in itertools.count():
                time.sleep(0.05)
                yield {key: value[0] for key, value in batch(first, 1).items()}

    done = fit_stage(
        method(), DataLoader(Slow(), batch_size=4), Limit(None, 1.0), tmp_path, batch(99, 4), lambda *_: None, PLAIN
    )
    last, before = [float(line.split(",")[3]) for line in (tmp_path / "steps.csv").read_text().splitlines()[:-3:-1]]
    assert before < 1.0 <= last and done.seconds == pytest.approx(last, abs=1e-3)
    assert done.steps <= 5 and done.clips == 4 * done.steps  # four clips of a batch take 0.2 s to come
    assert len(done.heldout_losses) <= 5 and done.heldout_losses[-1][0] == done.clips


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), PLAIN)


def test_recomputed_blocks_give_the_same_weights_bit_for_bit(plain, tmp_path):
    module, losses = trained(tmp_path, replace(PLAIN, checkpoint_activations=True))
    assert losses == plain[1]
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain[0].parameters(), strict=True))


def test_an_accumulated_batch_is_one_update(plain, tmp_path):
    module, losses = trained(tmp_path, replace(PLAIN, accumulate_batches=2))
    assert [clips for clips, _ in losses] == [clips for clips, _ in plain[1]]
    # The mean of two halves is the mean of all up to float32 rounding of a loss of about 1: 24 x 2^-24.
    for (_, ours), (_, theirs) in zip(losses, plain[1], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6)
    assert losses[0][1] - losses[-1][1] > 0.01  # a twin that updates after every half would be elsewhere


def test_blocks_run_again_in_the_backward_pass_and_are_left_as_they_were():
    module, calls = method(), []
    for block in module.network.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    from lavita.diffusion.rng import SampleRNG

    with recomputed_blocks(module, True) as count:
        assert count == len(module.network.blocks) == 2
        module.loss(batch(0, 2), SampleRNG([0, 1]))["loss"].mean().backward()
    assert all("forward" not in vars(block) for block in module.network.blocks)
    with recomputed_blocks(module, False) as count:
        assert count == 0
