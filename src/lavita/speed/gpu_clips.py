"""speed.py gpu, the parts that handle clips: autoencoder, feed, features, and a small run from end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lavita.codecs.kl import KLCodec
from lavita.data.ahead import usable_cores
from lavita.data.datamodule import ClipDataModule
from lavita.data.layouts import read_layout
from lavita.diffusion.rng import SampleRNG
from lavita.methods.build import empty_codec
from lavita.metrics.features.base import Extractor
from lavita.metrics.features.i3d import I3D, I3DExtractor
from lavita.metrics.features.torchscript import TorchScriptC3D
from lavita.speed import rehearsal, stand_ins
from lavita.speed.bench import Case, Quantity, Setting, Stopwatch, duration, rate
from lavita.speed.gpu_network import PRECISIONS, arithmetic

# --- autoencoder


def codec_of(setting: Setting) -> KLCodec:
    """Stable Diffusion's autoencoder, or a narrow one, with random weights, on the device."""
    config = stand_ins.published_codec()
    torch.manual_seed(0)
    codec = empty_codec(replace(config, width=32, norm_groups=8) if setting.tiny else config)
    assert isinstance(codec, KLCodec)
    return codec.to(setting.device).eval().requires_grad_(False)


def autoencoder_cases(setting: Setting) -> Iterable[Case]:
    """Encoding and decoding by frames a call, then what changes where a call holds others."""
    for precision, frames in product(PRECISIONS, setting.choose((8, 16, 32, 64, 128), (2,))):
        yield Case(f"{precision}, {frames} frames", partial(coded, setting, precision, frames, False))
    for frames in setting.choose((16, 32, 64), (2,)):
        yield Case(f"bf16, channels last, {frames} frames", partial(coded, setting, "bf16", frames, True))
    for precision in PRECISIONS:
        yield Case(f"{precision}, exactness", partial(exactness, setting, precision))


def frames_and_latents(setting: Setting, count: int) -> tuple[Tensor, Tensor]:
    """Frames (n, 3, H, W) in [-1, 1], and latents (1, n, 4, h, w)."""
    side = setting.choose(256, 32)
    generator = torch.Generator().manual_seed(count)
    frames = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    latents = torch.randn(1, count, 4, side // 8, side // 8, generator=generator)
    return frames.to(setting.device), latents.to(setting.device)


@torch.no_grad()
def coded(setting: Setting, precision: str, count: int, last: bool, stopwatch: Stopwatch) -> list[Quantity]:
    """Frames a second of the autoencoder itself, all in one call, whatever chunks the codec would cut them into."""
    network = codec_of(setting).autoencoder
    frames, latents = frames_and_latents(setting, count)
    if last:
        network = network.to(memory_format=torch.channels_last)
        frames = frames.contiguous(memory_format=torch.channels_last)
    with arithmetic(precision, setting.device):
        there = stopwatch.repeat(lambda: network.encode(frames).latent_dist.mean)
        back = stopwatch.repeat(lambda: network.decode(latents[0]).sample)
    return [rate(count, there, "encoding", "frames/s"), rate(count, back, "decoding", "frames/s")]


@torch.no_grad()
def exactness(setting: Setting, precision: str, stopwatch: Stopwatch) -> list[Quantity]:
    """How far moments and pixels move: of one frame alone and of half the frames, against all at once; and in this
    precision against float32. Moments relative to the largest one, pixels in levels of 255."""
    codec, count = codec_of(setting), setting.choose(16, 4)
    frames, latents = frames_and_latents(setting, count)
    with arithmetic("32", setting.device):
        exact, pixels = moments_of(codec, frames), codec.decode(latents).float()
    with arithmetic(precision, setting.device):
        whole, alone, half = (moments_of(codec, frames[:n]) for n in (count, 1, count // 2))
        decoded, few = codec.decode(latents).float(), codec.decode(latents[:, : count // 2]).float()
    largest = exact.abs().max()
    return [
        Quantity("moments: 1 frame against all", float((alone - whole[:1]).abs().max() / largest), ""),
        Quantity("moments: half against all", float((half - whole[: count // 2]).abs().max() / largest), ""),
        Quantity("moments: against float32", float((whole - exact).abs().max() / largest), ""),
        Quantity("pixels: half against all", float((few - decoded[:, : count // 2]).abs().max() * 127.5), "levels"),
        Quantity("pixels: against float32", float((decoded - pixels).abs().max() * 127.5), "levels"),
    ]


def moments_of(codec: KLCodec, frames: Tensor) -> Tensor:
    """Moments float32 (n, 2 C, h, w), computed in one call of the autoencoder."""
    posterior = codec.autoencoder.encode(frames).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1).float()


# --- feed


def feed_cases(setting: Setting) -> Iterable[Case]:
    """What stands between the videos and the device."""
    for workers in sorted({0, *setting.choose((4, min(usable_cores(), 16)), (1,))}):
        yield Case(f"loader, {workers} workers", partial(loaded, setting, workers))
    clips, side = setting.choose((40, 256), (2, 32))
    for dtype, pinned in product((torch.float32, torch.uint8), (False, True)):
        name = f"{clips} clips to the device, {str(dtype).removeprefix('torch.')}, {'pinned' if pinned else 'pageable'}"
        yield Case(name, partial(copied, setting, (clips, 16, 3, side, side), dtype, pinned))
    yield Case(f"noise of {clips} clips, a latent each", partial(noise, setting, clips))


def loaded(setting: Setting, workers: int, stopwatch: Stopwatch) -> list[Quantity]:
    """Clips a second that the loader of training gives, from drawn videos of UCF101's size."""
    side, clips, batch = setting.choose((256, 96, 8), (32, 4, 2))
    with tempfile.TemporaryDirectory() as folder:
        root = stand_ins.write_ucf101(
            Path(folder) / "videos", 8, 2, setting.choose(180, 50), side=setting.choose(240, 48)
        )
        module = ClipDataModule(
            read_layout("ucf101", root), frames=16, interval=3, resolution=side, flip=True, seed=0, batch=batch,
            start=0, stop=clips, num_workers=workers, cache_bytes=0,
        )  # fmt: skip

        def read() -> None:
            for _ in module.train_dataloader():
                pass

        seconds = stopwatch.repeat(read, warm_up=0)
    return [rate(clips, seconds, "loading", "clips/s")]


def copied(
    setting: Setting, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool, stopwatch: Stopwatch
) -> list[Quantity]:
    """A batch of pixels from the host to the device."""
    batch = torch.zeros(shape, dtype=dtype)
    batch = batch.pin_memory() if pinned else batch
    seconds = stopwatch.repeat(lambda: batch.to(setting.device, non_blocking=True, copy=True))
    return [duration(seconds), rate(batch.nbytes / 1e9, seconds, "copied", "GB/s")]


def noise(setting: Setting, clips: int, stopwatch: Stopwatch) -> list[Quantity]:
    """Normal values from per-sample generators, moved to the device."""
    shape = setting.choose((16, 4, 32, 32), (4, 4, 8, 8))
    rng = SampleRNG(range(clips), setting.device)
    return [duration(stopwatch.repeat(lambda: rng.normal(shape)))]


# --- features


def features_cases(setting: Setting) -> Iterable[Case]:
    """The two networks of the protocol, with as many clips a call as scores have (1) and with 16."""
    clips = setting.choose(16, 2)
    for name, each in product(("I3D", "C3D"), (1, clips)):
        yield Case(f"{name}, {each} a call", partial(described, setting, name, each, clips))


def described(setting: Setting, name: str, each: int, clips: int, stopwatch: Stopwatch) -> list[Quantity]:
    """Clips a second of a feature network, and how far a clip's row moves when it has company."""
    side, frames = setting.choose((256, 16), (32, 9))
    video = np.random.default_rng(0).integers(0, 256, (clips, frames, side, side, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        network = extractor_of(setting, name, Path(folder))
    call: Callable[[Any], Any] = network.features if name == "I3D" else network.probabilities
    alone = call(video[:1])
    network.inner_batch = each
    rows = call(video)
    far = float((rows[:1] - alone).abs().max() / alone.abs().max())
    seconds = stopwatch.repeat(lambda: call(video), warm_up=0)
    return [rate(clips, seconds, "features", "clips/s"), Quantity("a clip alone against in company", far, "")]


def extractor_of(setting: Setting, name: str, folder: Path) -> Extractor:
    """Our I3D, or a TorchScript file in C3D's place, with random weights."""
    if name == "I3D":
        torch.manual_seed(1)
        return I3DExtractor(I3D().eval(), "random weights", str(setting.device))
    network = stand_ins.C3D((4,) * 8, 16) if setting.tiny else stand_ins.C3D()
    return TorchScriptC3D(stand_ins.write_c3d(folder / "c3d.pt", network), str(setting.device))


# --- end-to-end


def end_to_end_cases(setting: Setting) -> Iterable[Case]:
    """One small run of the published setting. Raises ValueError on a CPU, where it would take its hour."""
    if setting.device.type == "cpu":
        raise ValueError("a run of tier paper wants an accelerator; on a CPU tests/soak/test_full_size.py has it")
    yield Case("run.py --suite ucf101 --methods lavita-v1", partial(end_to_end, setting))


def end_to_end(setting: Setting, stopwatch: Stopwatch) -> list[Quantity]:
    """Seconds of the whole command, and what its record says of its stages. Raises ValueError where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = rehearsal.write_inputs(folder / "inputs", train=64, heldout=32, frames=60)
        overrides = ["budget.clips=400", "protocol.n_real=64", "protocol.n_generated=64", "sampling.steps=10"]
        words = rehearsal.command(inputs, folder / "out", folder / "cache", overrides)
        whole = stopwatch.once(lambda: rehearsal.run(words, stopwatch.left))
        return [Quantity("whole command", whole, "s"), *rehearsal.stages(folder / "out")]


PARTS: dict[str, Callable[[Setting], Iterable[Case]]] = {
    "autoencoder": autoencoder_cases,
    "feed": feed_cases,
    "features": features_cases,
    "end-to-end": end_to_end_cases,
}
