"""What a full-size run reads from outside, in the published shapes with random weights: no number made from it means
anything, but its time and memory are those of the published files.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.config.plan import make_plan
from lavita.config.schema import CodecConfig
from lavita.data.video import write_video
from lavita.metrics.features.i3d import I3D, SIZE, FoldedI3D

C3D_SIZE = 112


def published_codec() -> CodecConfig:
    """The autoencoder that tier paper names: Stable Diffusion's."""
    return make_plan("ucf101", "paper", ["lavita-v1"], None, [])[0].codec


def write_autoencoder(folder: Path) -> Path:
    """An AutoencoderKL in the shape of Stable Diffusion's, for codec.path; 335 MB."""
    from lavita.codecs.kl import published_autoencoder

    torch.manual_seed(0)
    published_autoencoder(published_codec()).save_pretrained(folder)
    return folder


class PackagedI3D(nn.Module):
    """I3D with the arguments of the published TorchScript file; network takes (b, 3, F, 224, 224) in -1..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        """video float32 (b, 3, F, H, W), 0..255 where rescale; -> (b, 400)."""
        if resize:
            b, c, f, h, w = video.shape
            frames = video.transpose(1, 2).reshape(b * f, c, h, w)
            frames = functional.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
            video = frames.reshape(b, f, c, 224, 224).transpose(1, 2).contiguous()
        if rescale:
            video = 2.0 * video / 255.0 - 1.0
        return self.network(video)


def write_i3d(path: Path, frames: int = 16) -> Path:
    """A TorchScript file in place of i3d_torchscript.pt, for clips of so many frames (at least 9); 51 MB."""
    torch.manual_seed(1)
    network = FoldedI3D(I3D().eval())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # its paddings are for these sizes, as they should be
        traced = torch.jit.trace(network, torch.zeros(1, 3, frames, SIZE, SIZE), check_trace=False)
    torch.jit.script(PackagedI3D(traced)).save(str(path))
    return path


class C3D(nn.Module):
    """C3D with 101 classes, called as the published TorchScript file is; clips of 16 frames, shorter ones repeated.

    Source: Tran et al. 2015, arXiv:1412.0767, section 3.3.
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 256, 512, 512, 512, 512), hidden: int = 4096) -> None:
        super().__init__()
        pools = {0: (1, 2, 2), 1: (2, 2, 2), 3: (2, 2, 2), 5: (2, 2, 2)}
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise((3, *widths))):
            layers += [nn.Conv3d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
            if number in pools:
                layers.append(nn.MaxPool3d(pools[number]))
        layers.append(nn.MaxPool3d((2, 2, 2), padding=(0, 1, 1)))
        self.features = nn.Sequential(*layers)
        self.classes = nn.Sequential(
            nn.Linear(widths[-1] * 16, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 101)
        )

    def forward(self, video: Tensor) -> Tensor:
        """uint8 (b, 3, F, H, W), 0..255 -> class probabilities (b, 101)."""
        video = functional.interpolate(video.float(), size=(16, 112, 112), mode="nearest") / 127.5 - 1.0
        return self.classes(self.features(video).flatten(1)).softmax(dim=1)


def write_c3d(path: Path, network: C3D | None = None) -> Path:
    """A TorchScript file in place of c3d_ucf101.pt; 313 MB, or as a smaller network has it."""
    torch.manual_seed(2)
    torch.jit.script((network or C3D()).eval()).save(str(path))
    return path


def write_ucf101(root: Path, train: int, heldout: int, frames: int, files: int | None = None, side: int = 240) -> Path:
    """A tree of UCF101 with so many videos a split, 4/3 as wide as high, 101 classes, 10 videos a performer.

    files: how many different videos of a split are encoded, the others being those with some bytes added, since no two
    videos of a data set may be equal; None: all.
    """
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    names = [f"Class{number:03d}" for number in range(1, 102)]
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, start=1)))
    number = 0
    for split, count, first_group in (("train", train, 8), ("test", heldout, 1)):
        lines = []
        made: list[bytes] = []
        for position in range(count):
            name = names[position % len(names)]
            group, clip = divmod(position // len(names), 10)
            video = f"{name}/v_{name}_g{first_group + group:02d}_c{clip + 1:02d}.avi"
            path = root / "UCF-101" / video
            path.parent.mkdir(parents=True, exist_ok=True)
            if files is None or position < files:
                write_video(path, drawn(number, frames, side), 25, lossless=False)
                made.append(path.read_bytes() if files is not None else b"")
            else:
                path.write_bytes(made[position % len(made)] + number.to_bytes(8, "big"))
            number += 1
            lines.append(video + (f" {names.index(name) + 1}" if split == "train" else "") + "\n")
        (lists / f"{split}list01.txt").write_text("".join(lines))
    return root


def drawn(seed: int, frames: int, side: int) -> np.ndarray:
    """A video, uint8 (frames, side, 4 side / 3, 3): coarse noise that moves sideways."""
    rng = np.random.default_rng(seed)
    width, cells = side * 4 // 3, max(1, side // 16)
    coarse = rng.integers(0, 256, (cells, 2 * cells, 3), dtype=np.uint8)
    picture = coarse.repeat(-(-side // cells), axis=0).repeat(-(-width // (2 * cells)), axis=1)[:side, :width]
    return np.stack([np.roll(picture, (seed % 3 + 1) * t, axis=1) for t in range(frames)])
