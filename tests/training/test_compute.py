"""How a run uses its machine must not change what it learns: accumulated batches and recomputed blocks."""

import itertools
import os
import time
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from lavita.codecs.base import PixelCodec
from lavita.config.plan import make_plan
from lavita.config.schema import ComputeConfig
from lavita.methods.build import build_method
from lavita.training import distributed, fit
from lavita.training.arithmetic import arithmetic
from lavita.training.budget import Limit
from lavita.training.callbacks import Ema
from lavita.training.distributed import recomputed_blocks
from lavita.training.fit import fit_stage, placement, release

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
    loader = DataLoader(clips, batch_size=4 // compute.passes(4))
    done = fit_stage(module, loader, Limit(24), tmp_path, batch(99, 4), lambda *_: None, compute)
    return module, done.heldout_losses


def test_released_a_stage_keeps_its_weights_alone(tmp_path, monkeypatch):
    """Neither the optimiser with its moments, nor the average, nor gradients."""
    found, own = [], {kind: kind.__init__ for kind in (torch.optim.Optimizer, Ema)}

    def remember(kind):
        def init(self, *args, **kwargs):
            found.append(weakref.ref(self))
            own[kind](self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", init)

    for kind in own:
        remember(kind)
    module, _ = trained(tmp_path, PLAIN)
    assert len(found) == 2 and any(one() is not None for one in found)
    release(module)
    assert [one() for one in found] == [None, None]
    assert all(parameter.grad is None for parameter in module.parameters())


def test_every_step_is_logged_with_its_clips(tmp_path):
    for passes in (1, 2):
        folder = tmp_path / str(passes)
        trained(folder, replace(PLAIN, pass_clips=4 // passes))
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
    module, losses = trained(tmp_path, replace(PLAIN, pass_clips=2))
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

    with recomputed_blocks(module.recomputed(), True) as count:
        assert count == len(module.network.blocks) == 2
        module.loss(batch(0, 2), SampleRNG([0, 1]))["loss"].mean().backward()
    assert all("forward" not in vars(block) for block in module.network.blocks)
    with recomputed_blocks(module.recomputed(), False) as count:
        assert count == 0


def flags() -> tuple:
    """What torch does to float32, and in which order it sums."""
    cudnn = torch.backends.cudnn
    return (
        torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory,
    )  # fmt: skip


@pytest.fixture
def rounded(monkeypatch):
    """A process in which torch rounds all it may, as a GPU's owner may have set it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield flags()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_float32_is_float32_and_the_record_says_so(rounded, tmp_path, monkeypatch):
    with pytest.raises(KeyError), arithmetic() as said:
        assert flags() == ("highest", False, False, False, False, False) and said == "float32 without TF32"
        raise KeyError
    assert flags() == rounded
    found, plain = [], method().loss
    monkeypatch.setattr(type(method()), "loss", lambda self, *rest: found.append(flags()) or plain(*rest))
    clips = [{key: value[i] for key, value in batch(0, 4).items()} for i in range(4)]
    fit_stage(method(), DataLoader(clips, 4), Limit(4), tmp_path, batch(9, 2), lambda *_: None, PLAIN)
    assert set(found) == {("highest", False, False, False, False, False)}
    assert flags() == rounded


def test_deterministic_kernels_are_asked_for(rounded, monkeypatch):
    """An operation that has no other kernel ends the run: what is promised is kept, or it is said that it can't be."""
    with arithmetic(deterministic=True) as said:
        assert flags() == ("highest", False, True, False, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and said.endswith(", deterministic kernels")
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert flags() == rounded
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with arithmetic(deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(
    ("visible", "local", "own", "of_node"),
    [
        (4, 2, "cuda:2", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (1, 2, "cuda:0", ["cuda:0"] * 4),
        (0, 2, "cpu", ["cpu"] * 4),
    ],
)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_each_process_takes_a_gpu_that_it_sees(visible, local, own, of_node, strategy, monkeypatch):
    """All of a node's, or under a scheduler that binds one to a task only one, whose number is 0 for each."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(distributed, "start_group", lambda: None)
    for key, value in {"WORLD_SIZE": 4, "RANK": local, "LOCAL_RANK": local}.items():
        monkeypatch.setenv(key, str(value))
    assert str(distributed.own_device()) == own
    found = placement(replace(PLAIN, devices=4, strategy=strategy), method())
    assert [str(device) for device in found["strategy"].parallel_devices] == of_node
    assert found["strategy"].num_processes == 4 and found["devices"] == "auto"


@pytest.mark.parametrize(("updates", "passes", "static"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_what_ddp_is_told_of_a_stage(updates, passes, static, monkeypatch):
    """Gradients lie in the buckets that are sent; a graph that is the same in every pass is not searched again."""
    monkeypatch.setattr(fit.distributed, "start_group", lambda: None)
    for key, value in {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(key, str(value))
    module = method()
    module.alternating_updates = updates
    compute = replace(PLAIN, devices=2, pass_clips=module.train_config.batch_clips // (2 * passes))
    told = placement(compute, module)["strategy"]._ddp_kwargs
    assert told == {"find_unused_parameters": updates > 1, "static_graph": static, "gradient_as_bucket_view": True}
