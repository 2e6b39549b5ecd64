"""Mixed precision is placed in one way for all methods: what stays float32 does, seen by hooks under CPU autocast."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lavita.baselines.mcvd.layers import Float32Conv2d, Float32Linear, TimeEmbedding
from lavita.codecs.base import PixelCodec
from lavita.config.schema import SamplingConfig
from lavita.diffusion import loss as loss_module
from lavita.diffusion.rng import SampleRNG
from lavita.methods import latent_diffusion
from lavita.methods.base import MethodContext, VideoMethod
from lavita.nn.blocks import FinalLayer, Modulation
from lavita.nn.embeddings import TimestepEmbedder, TimestepFeatures, rotary_table, rotate
from lavita.nn.precision import MIXED, Float32Layers, GroupNorm, LayerNorm, mixed_precision
from lavita.sampling.generate import generate
from lavita.training.distributed import blocks_of, recomputed_blocks
from lavita.training.stage import TrainedStage

spec = importlib.util.spec_from_file_location("golden", Path(__file__).parents[1] / "golden" / "test_golden.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

FLOAT32 = (
    TimestepEmbedder, TimestepFeatures, Modulation, FinalLayer, Float32Layers, TimeEmbedding, Float32Linear,
    Float32Conv2d, LayerNorm, GroupNorm,
)  # fmt: skip
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
EARLIER_STAGES = ("autoencoder", "adversarial", "interpolation", "image", "decoder")
DIFFUSION = [name for name in golden.SYSTEMS if name.split("-")[-1] not in EARLIER_STAGES]


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def dtypes(value: Any) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors(value) if tensor.is_floating_point()}


class Seen:
    """Floating-point types of what every module gave, by its name."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.given = module, {}
        for name, part in module.named_modules():
            part.register_forward_hook(lambda part, _, output, name=name: self.add(name, output))

    def add(self, name: str, output: Any) -> None:
        self.given.setdefault(name, set()).update(dtypes(output))

    def wrong(self) -> list[str]:
        """Parts that must give float32 and did not: those of FLOAT32 and all in them, norms, blocks, networks."""
        networks = self.module.networks()
        islands = [part for part in self.module.modules() if isinstance(part, FLOAT32 + NORMS)]
        inside = {id(part) for island in islands for part in island.modules()}
        inside |= {id(part) for part in (*networks, *blocks_of(self.module))}
        names = {id(part): name for name, part in self.module.named_modules()}
        return sorted(
            names[key] for key in inside if key in names and self.given.get(names[key], set()) - {torch.float32}
        )


def losses(module: TrainedStage, system: str, precision: str, step: int = 0) -> dict[str, Tensor]:
    with mixed_precision(module.networks(), precision):
        return module.loss(golden.batch(step, module, system), golden.FormulaDraws("precision"))


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("system", golden.SYSTEMS)
def test_what_stays_float32(system, step, monkeypatch):
    """Time embedding, modulation, norms, residual stream, last layer and output; the loss gets float32 and gives it."""
    module, arguments = golden.build(system), []
    plain = loss_module.hybrid_loss

    def listening(schedule, *inputs, **options):
        arguments.extend(inputs)
        return plain(schedule, *inputs, **options)

    monkeypatch.setattr(latent_diffusion, "hybrid_loss", listening)
    expected = losses(module, system, "32-true", step)
    seen = Seen(module)
    parts = losses(module, system, MIXED, step)
    assert seen.wrong() == []
    assert any(torch.bfloat16 in found for found in seen.given.values())  # products are in bfloat16
    assert dtypes(arguments) <= {torch.float32} and dtypes(parts) == {torch.float32}
    assert list(parts) == list(expected)
    assert any(not torch.equal(parts[key], expected[key]) for key in parts)
    # 8 bits of a product, and means over many of them: far below a hundredth of the loss.
    assert torch.allclose(parts["loss"], expected["loss"], rtol=0.02)
    parts["loss"].mean().backward()
    gradients = [p.grad for p in module.trained_parameters() if p.grad is not None]
    assert gradients and dtypes(gradients) == {torch.float32}
    assert all("forward" not in vars(network) for network in module.networks())
    assert torch.equal(losses(module, system, "32-true", step)["loss"], expected["loss"])


@pytest.mark.parametrize("part", [TimestepEmbedder, Modulation, FinalLayer])
def test_a_part_under_autocast_is_noticed(part, monkeypatch):
    monkeypatch.setattr(part, "forward", part.forward.__wrapped__)
    module = golden.build("lavita-v1")
    seen = Seen(module)
    losses(module, "lavita-v1", MIXED)
    assert seen.wrong()


@contextmanager
def autocast_seen(module: nn.Module) -> Iterator[list[bool]]:
    """Whether autocast was on at every call of a module."""
    found: list[bool] = []
    handle = module.register_forward_pre_hook(lambda *_: found.append(torch.is_autocast_enabled("cpu")))
    yield found
    handle.remove()


@pytest.mark.parametrize("recomputed", [False, True])
def test_blocks_run_in_bfloat16_when_recomputed_too(recomputed):
    module = golden.build("lavita-v1")
    found: list[bool] = []
    module.network.blocks[0].attn.register_forward_hook(
        lambda *_: found.append(torch.is_autocast_enabled("cpu")) or None
    )
    with recomputed_blocks(module.recomputed(), recomputed), mixed_precision(module.networks(), MIXED):
        batch = golden.batch(0, module, "lavita-v1")
        module.loss(batch, golden.FormulaDraws("precision"))["loss"].mean().backward()
    assert found == [True] * (2 if recomputed else 1)


class Watched(PixelCodec):
    """The pixels, and whether autocast was on when they were encoded and decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(4, 4)
        self.autocast: list[bool] = []

    def encode(self, video: Tensor, rng: SampleRNG) -> Tensor:
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return super().encode(video, rng)

    def decode(self, latent: Tensor) -> Tensor:
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return super().decode(latent)


class Plugin(VideoMethod):
    """A method that has never heard of precision: two layers of its own, and a loss that reads them."""

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context, None)
        self.codec = context.codec.requires_grad_(False)
        self.group = nn.ModuleDict({"first": nn.Linear(8, 4)})
        self.last = nn.Linear(4, 8)

    def loss(self, batch: dict[str, Tensor], rng: SampleRNG) -> dict[str, Tensor]:
        x = self.codec.encode(batch["video"], rng)
        y = self.last(self.group["first"](x))
        self.given = y.dtype
        return {"loss": ((y - x) ** 2).flatten(1).mean(1)}


def test_a_method_need_not_know():
    method = Plugin(MethodContext(2, 8, None, Watched(), golden.TRAIN, 0))
    assert method.networks() == [method.group["first"], method.last]  # neither the codec nor the list
    video = torch.rand(2, 2, 3, 8, 8) * 2 - 1
    exact = method.loss({"video": video}, SampleRNG([0, 1]))["loss"]
    with mixed_precision(method.networks(), MIXED), autocast_seen(method.last) as found:
        value = method.loss({"video": video}, SampleRNG([0, 1]))["loss"]
    assert method.given == value.dtype == torch.float32 and method.codec.autocast == [False, False]
    assert found == [False]  # the hook runs before the forward, in which it is on
    assert not torch.equal(value, exact) and torch.allclose(value, exact, rtol=0.02)


SAMPLING = SamplingConfig("ddpm", "4", 0.0, 1.0, None, True, 2, "generation", 1, "32-true")


@pytest.mark.parametrize("system", DIFFUSION)
def test_sampling_keeps_state_and_schedule_in_float32(system, monkeypatch):
    """sampling.precision reaches the network alone; clips differ from float32's by little, and by something."""
    method = golden.build(system).eval()
    if system.startswith("pvdm"):
        sampling = replace(SAMPLING, sampler="ddim")
    else:
        sampling = SAMPLING
        method.codec = Watched()
    inputs: list[Any] = []
    method.network.register_forward_pre_hook(lambda _, given: inputs.append(given))
    seen, clips = Seen(method), {}
    for precision in ("32-true", MIXED):
        made = generate(method, replace(sampling, precision=precision), 3, 0, [0, 1, 2], lambda *_: None)
        clips[precision] = made.clips.array().astype(int)
    assert dtypes(inputs) == {torch.float32} and seen.given["network"] == {torch.float32}
    assert getattr(method, "codec", Watched()).autocast in ([], [False] * 4)
    difference = abs(clips["32-true"] - clips[MIXED])
    assert difference.max() > 0 and difference.mean() < 12


def test_angles_of_rotary_positions_are_not_rounded():
    tables = rotary_table(300, 8)
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    exact, half = rotate(x, tables), rotate(x.bfloat16(), tables)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, rotate(x.bfloat16().float(), tables).bfloat16())  # one rounding, at the end
    assert torch.allclose(exact, half.float(), atol=0.05)


def test_float32_is_left_alone():
    network = nn.Linear(2, 2)
    with mixed_precision([network], "32-true"):
        assert "forward" not in vars(network)
