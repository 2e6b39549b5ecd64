"""compute.compile: blocks are compiled without graph breaks, once a shape, to the same numbers, inside the clock."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lavita.baselines.dit.model import DiT, DiTConfig
from lavita.baselines.pvdm.unet import PlaneUNet, UNetConfig
from lavita.baselines.vdt.model import VDT, VDTConfig
from lavita.diffusion.loss import hybrid_loss
from lavita.diffusion.sampler import ddim_step, ddpm_step
from lavita.diffusion.schedule import Schedule
from lavita.methods.lavita.model import Lavita, LavitaConfig
from lavita.nn.precision import mixed_precision
from lavita.training import budget, compilation
from lavita.training.compilation import compiled_blocks, compiles
from lavita.training.distributed import recomputed_blocks

from .test_compute import PLAIN, trained

X, T = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3])
SIZES = {"depth": 2, "width": 32, "num_heads": 2, "patch_size": 2, "num_frames": 4, "channels": 4, "side": 8}
UNET = UNetConfig(8, 8, 4, 4, 32, (2, 1), 1, (1, 2), 2)
Build = Callable[[], tuple[nn.Module, tuple[Any, ...]]]


def lavita(variant: int, inputs: tuple = (X, T), **changes: Any) -> Build:
    return lambda: (Lavita(LavitaConfig(variant, **SIZES | changes)), inputs)


def dit(mode: str) -> Build:
    sizes = SIZES | {"num_frames": 4 if mode == "joint" else None}
    return lambda: (DiT(DiTConfig(**sizes, mode=mode)), (X, T))


JOINT = (torch.cat([X, X[:, :2]], dim=1), T, torch.tensor([1]), torch.tensor([[1, 2]]), 2)
NETWORKS: dict[str, Build] = {
    **{f"lavita-v{variant}": lavita(variant) for variant in (1, 2, 3, 4)},
    "lavita-v1 with classes and images": lavita(1, JOINT, num_classes=5),
    "lavita-v1 of all tokens": lavita(1, conditioning="all-tokens"),
    "lavita-v1 with rotary positions": lavita(1, time_positions="rotary"),
    "dit": dit("frame"),
    "dit-joint": dit("joint"),
    "vdt": lambda: (VDT(VDTConfig(**SIZES)), (X, T)),
    "pvdm": lambda: (PlaneUNet(UNET), (torch.randn(1, 4, UNET.latent_length), T)),
}


def built(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network without a zero among its weights: nothing is hidden behind a gate."""
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]()
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.05)
    return network, inputs


class Stage(nn.Module):
    """Holds a network as a stage does, and names its blocks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def recomputed(self) -> list[nn.Module]:
        return list(self.network.blocks)


def breaks(call: Callable[..., Any], *inputs: Any) -> list[str]:
    torch._dynamo.reset()
    found = torch._dynamo.explain(call)(*inputs)
    return [str(one.reason) for one in found.break_reasons]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_no_graph_break(name):
    network, inputs = built(name)
    with mixed_precision([network], "bf16-mixed"):
        assert breaks(network, *inputs) == []


def test_neither_have_the_loss_and_a_step_of_sampling():
    schedule = Schedule.linear()
    short = schedule.respace("250")
    assert breaks(lambda *inputs: hybrid_loss(schedule, *inputs)["loss"].mean(), X, T, X, X, X) == []
    assert breaks(lambda *inputs: ddpm_step(short, *inputs, clip=False), X, T, X, X, X) == []
    assert breaks(lambda *inputs: ddim_step(short, *inputs, eta=1.0, clip=True), X, T, X, X) == []


def gradients(network: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The output and all gradients of its mean square."""
    network.zero_grad()
    output = network(*inputs)
    (output**2).mean().backward()
    return [output.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


@pytest.fixture
def whole_graphs(monkeypatch):
    """torch.compile that never falls back and runs the traced operations themselves, in their order."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))


@pytest.mark.parametrize("mixed, recomputed", [("32-true", False), ("bf16-mixed", True)])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "pvdm"])
def test_compiled_is_eager_bit_for_bit(name, mixed, recomputed, whole_graphs):
    network, inputs = built(name)
    names = list(network.state_dict())
    with mixed_precision([network], mixed):
        expected = gradients(network, inputs)
    stage = Stage(network)
    with compiled_blocks(stage, True) as count, recomputed_blocks(stage.recomputed(), recomputed):
        assert count == len(network.blocks) and list(network.state_dict()) == names
        with mixed_precision([network], mixed):
            found = gradients(network, inputs)
    assert len(found) == len(expected) > 10
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all("forward" not in vars(block) for block in network.blocks)
    assert list(network.state_dict()) == names


class Counted:
    """A backend of torch.compile that counts the graphs it is given, and after which it is later."""

    def __init__(self) -> None:
        self.graphs, self.now = 0, 0.0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.graphs += 1
        self.now += 1000.0
        return graph.forward


@pytest.fixture
def counted(monkeypatch):
    torch._dynamo.reset()
    compilation.check_compiler.cache_clear()
    backend = Counted()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield backend
    compilation.check_compiler.cache_clear()


def test_a_graph_a_shape_not_a_block(counted):
    """Spatial and temporal tokens, however many blocks there are."""
    network, inputs = NETWORKS["lavita-v1"]()
    deep = Lavita(LavitaConfig(1, **SIZES | {"depth": 8}))
    for one in (network, deep):
        with compiled_blocks(one, True):
            before = counted.graphs
            one(*inputs).sum().backward()
            one(*inputs)
    assert counted.graphs - before == 0  # those of the shallow one fit
    assert counted.graphs == 2 + 1  # and the line that tries the compiler


def test_compiling_is_inside_the_clock(counted, tmp_path, monkeypatch):
    """A thousand seconds a graph by the clock, that of the compiler's trial excepted."""
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: counted.now))
    module, losses = trained(tmp_path, replace(PLAIN, compile=True))
    lines = (tmp_path / "steps.csv").read_text().splitlines()[1:]
    seconds = [float(line.split(",")[3]) for line in lines]
    assert counted.graphs >= 5  # two to train, two without gradients for the held-out loss, one to try
    assert seconds[-1] == 1000.0 * (counted.graphs - 1)
    assert all("forward" not in vars(block) for block in module.network.blocks)


def test_auto_means_an_accelerator(monkeypatch):
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert [compiles(wanted) for wanted in (True, False, "auto")] == [True, False, there]


def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch):
    network, _ = NETWORKS["dit"]()
    compilation.check_compiler.cache_clear()

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Failed to find C compiler. Please specify via CC\nmore")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ValueError, match="compute.compile: .*find C compiler.*compute.compile=false") as error:
        with compiled_blocks(network, True):
            pass
    assert len(str(error.value).splitlines()) == 1


def test_where_nothing_is_compiled_nothing_changes():
    unet, _ = NETWORKS["pvdm"]()
    network, _ = NETWORKS["dit"]()
    with compiled_blocks(unet, True) as none, compiled_blocks(network, False) as off:
        assert none == off == 0
        assert all("forward" not in vars(block) for block in network.blocks)
