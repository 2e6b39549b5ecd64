"""The in-domain extractor (its name in scores is `embedded`): a small network that needs no download.

An untrained network is nearly blind to motion, so this one looks at how much neighbouring frames differ, on a
logarithmic scale (ratios of such energies tell smooth from jerky motion whatever its size), beside what
convolutions over three frames see; and it is trained to tell real clips from corrupted ones. What a clip shows is
seen by a second network, which is trained to tell videos from each other: see content.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from lavita.metrics.features.base import Extractor
from lavita.metrics.features.content import ContentNet, content_statistics
from lavita.shapes import check

# What a training clip can be; the network learns to say which.
KINDS = ("real", "shuffled", "static", "slow", "fast", "blurred", "noisy", "blocky")
NUM_SCALES, NUM_ENERGIES = 3, 7
# (half a grey level)^2 / 15 in units of -1..1: below it a difference is rounding.
ENERGY_FLOOR = 1e-6
# What a clip shows adds less to the real-vs-real baseline than how it moves, and more to the distance of other data.
CONTENT_WEIGHT = 2.5
MIN_FRAMES, MIN_SIZE = 4, 16


def log_energy(values: Tensor) -> Tensor:
    """Half the logarithm of the mean square over the last three axes: the log of an amplitude."""
    return 0.5 * torch.log(ENERGY_FLOOR + values.square().mean(dim=(-3, -2, -1)))


def difference_energies(video: Tensor) -> Tensor:
    """Return (B, 21, F - 2): at three scales, seven log energies of derivatives around each inner frame of
    video (B, F, 3, H, W): difference to the frame before and after, between those two, second difference
    in time, first and second differences in space, and the second difference in time of the first in
    space.
    """
    rows, frames = [], video.shape[1]
    for _ in range(NUM_SCALES):
        step = video[:, 1:] - video[:, :-1]  # (B, F - 1, 3, h, w)
        bend = step[:, 1:] - step[:, :-1]  # (B, F - 2, 3, h, w)
        inner = video[:, 1:-1]
        across, down = inner.diff(dim=-1), inner.diff(dim=-2)
        change = log_energy(step)  # (B, F - 1)
        rows += [change[:, :-1], change[:, 1:], log_energy(video[:, 2:] - video[:, :-2]), log_energy(bend)]
        rows += [torch.logaddexp(2 * log_energy(across), 2 * log_energy(down)) / 2]
        rows += [torch.logaddexp(2 * log_energy(across.diff(dim=-1)), 2 * log_energy(down.diff(dim=-2))) / 2]
        rows += [log_energy(bend.diff(dim=-1))]
        video = functional.avg_pool2d(video.flatten(0, 1), 2).unflatten(0, (-1, frames))  # (B, F, 3, h/2, w/2)
    return torch.stack(rows, dim=1)  # (B, 21, F - 2)


def mean_and_deviation(values: Tensor, axes: tuple[int, ...] | int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over axes; the small constant keeps the gradient of the root finite."""
    variance, mean = torch.var_mean(values, dim=axes, correction=0)
    return mean, torch.sqrt(variance + 1e-3)


class InDomainNet(nn.Module):
    """video float32 (B, F, 3, H, W), -1..1, F >= 4, H and W >= 16 -> penultimate features (B, width)."""

    def __init__(self, num_classes: int | None, width: int = 64, channels: int = 24, hidden: int = 96) -> None:
        super().__init__()
        self.stem = nn.Conv2d(9, channels, 4, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.down = nn.Conv2d(channels, 32, 3, stride=2, padding=1)
        self.down_norm = nn.BatchNorm2d(32)
        self.deep = nn.Conv2d(32, 48, 3, padding=1)
        self.deep_norm = nn.BatchNorm2d(48)
        num_features = NUM_SCALES * NUM_ENERGIES + channels + 2 * 48
        self.describe_norm = nn.BatchNorm1d(num_features, momentum=0.05)
        self.mix = nn.Conv1d(num_features, hidden, 3, padding=1)
        self.mix_norm = nn.BatchNorm1d(hidden, momentum=0.05)
        self.pool_norm = nn.BatchNorm1d(2 * hidden + 2 * num_features, momentum=0.05)
        self.penultimate = nn.Linear(2 * hidden + 2 * num_features, width)
        self.dropout = nn.Dropout(0.2)
        self.kind_head = nn.Linear(width, len(KINDS))
        self.class_head = nn.Linear(width, num_classes) if num_classes else None
        # Filled after training: see in_domain_training.whiten.
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("projection", torch.eye(width, len(KINDS) - 1))
        self.content = ContentNet()

    def frame_features(self, video: Tensor) -> Tensor:
        """Features of each inner frame with its two neighbours: (B, num_features, F - 2)."""
        inner = video.shape[1] - 2
        triples = torch.cat([video[:, :-2], video[:, 1:-1], video[:, 2:]], dim=2)  # (B, F - 2, 9, H, W)
        hidden = self.stem(
            triples.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        )  # (B (F-2), 24, H/2, W/2)
        columns = [log_energy(hidden.unsqueeze(2))]  # (B (F-2), 24)
        hidden = functional.relu(self.stem_norm(hidden))  # (B (F-2), 24, H/2, W/2)
        hidden = functional.relu(self.down_norm(self.down(hidden)))  # (B (F-2), 32, H/4, W/4)
        hidden = functional.relu(self.deep_norm(self.deep(hidden)))  # (B (F-2), 48, H/4, W/4)
        columns += mean_and_deviation(hidden, (2, 3))
        seen = torch.cat(columns, dim=1).unflatten(0, (-1, inner)).transpose(1, 2)  # (B, 120, F - 2)
        return torch.cat([difference_energies(video), seen], dim=1)  # (B, num_features, F - 2)

    def forward(self, video: Tensor) -> Tensor:
        features = self.describe_norm(self.frame_features(video))  # (B, num_features, F - 2)
        mixed = functional.relu(self.mix_norm(self.mix(features)))  # (B, hidden, F - 2)
        pooled = torch.cat([*mean_and_deviation(mixed, 2), *mean_and_deviation(features, 2)], dim=1)
        return self.penultimate(self.pool_norm(pooled))  # (B, width)

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the kind (B, 8) and of the class (B, K) or None, from penultimate features (B, width)."""
        features = self.dropout(features)
        return self.kind_head(features), self.class_head(features) if self.class_head is not None else None


def video_from_clips(clips: Tensor) -> Tensor:
    """uint8 (B, F, H, W, 3), 0..255 -> float32 (B, F, 3, H, W), -1..1."""
    return clips.permute(0, 1, 4, 2, 3).contiguous().float() / 127.5 - 1


class InDomainExtractor(Extractor):
    """The trained network behind the extractor interface; facts is what its training was told and reached.

    Features: of the penultimate layer the seven directions that separate corrupted clips from real training clips, and
    of the content network 32; in both real clips are white, and the directions that separate most weigh most.
    """

    name = "embedded"

    def __init__(self, network: InDomainNet, facts: dict, device: str = "cpu") -> None:
        self.network, self.facts, self.device = network.eval().to(device), facts, device
        self.num_features = network.projection.shape[1] + network.content.projection.shape[1]
        self.num_classes = network.class_head.out_features if network.class_head is not None else None
        self.weights_hash = hashlib.sha256(self.weights()).hexdigest()

    def weights(self) -> bytes:
        """The content of the weights file; equal weights give equal bytes."""
        return save({key: value.detach().cpu().contiguous() for key, value in self.network.state_dict().items()})

    def video(self, clips: Tensor) -> Tensor:
        """float32 (b, F, 3, H, W), -1..1. Raises ValueError for clips that are too short or too small."""
        sizes = check(clips, "B F H W 3", "clips", dtype=torch.uint8)
        if sizes["F"] < MIN_FRAMES or min(sizes["H"], sizes["W"]) < MIN_SIZE:
            raise ValueError(
                f"extractor embedded: got {sizes['F']} frames of {sizes['W']}x{sizes['H']}, wanted at least "
                f"{MIN_FRAMES} frames of {MIN_SIZE}x{MIN_SIZE}"
            )
        return video_from_clips(clips.to(self.device))

    def forward_features(self, clips: Tensor) -> Tensor:
        video, net = self.video(clips), self.network
        motion = (net(video) - net.centre) @ net.projection  # (b, 7)
        content = (net.content(content_statistics(video)) - net.content.centre) @ net.content.projection  # (b, 32)
        return torch.cat([motion, CONTENT_WEIGHT * content], dim=1)  # (b, 39)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        return self.network.heads(self.network(self.video(clips)))[1].softmax(dim=1)  # (b, K)


def save_in_domain(extractor: InDomainExtractor, path: Path | str) -> None:
    """Write path (.safetensors), then the .json beside it that names its hash; each whole or not at all."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: got suffix '{path.suffix}', wanted .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = extractor.facts | {"num_classes": extractor.num_classes, "weights_sha256": extractor.weights_hash}
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    for target, content in ((path, extractor.weights()), (path.with_suffix(".json"), text.encode())):
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.write_bytes(content)
        os.replace(part, target)


def load_in_domain(path: Path | str, device: str = "cpu") -> InDomainExtractor:
    """Return the extractor saved at path (.safetensors). Raises ValueError for a missing, cut or changed
    file.
    """
    path = Path(path)
    missing = [file for file in (path, path.with_suffix(".json")) if not file.is_file()]
    if missing:
        raise ValueError(f"extractor embedded: {missing[0]} is not there; run the suite once, it trains and keeps one")
    try:
        facts, content = dict(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))), path.read_bytes()
    except (TypeError, ValueError) as error:
        raise ValueError(f"extractor embedded: {path.with_suffix('.json')} can't be read ({error})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != facts.get("weights_sha256"):
        raise ValueError(
            f"extractor embedded: {path} has sha256 {found[:12]}, its .json says "
            f"{str(facts.get('weights_sha256'))[:12]}; delete both files and let the suite train it again"
        )
    try:
        network = InDomainNet(facts["num_classes"])
        network.load_state_dict(load(content))
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"extractor embedded: {path} is no network of this kind ({reason})") from None
    return InDomainExtractor(network, facts, device)
