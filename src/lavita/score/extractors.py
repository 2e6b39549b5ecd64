"""Clips -> feature vectors and class probabilities. One small interface; TorchScript I3D and C3D by path."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavita.shape import check

# Git blob name (`git hash-object FILE`) of the I3D that StyleGAN-V, Latte and others score with; nobody
# publishes a sha256. No hash was ever recorded for their C3D.
I3D_TORCHSCRIPT_HASH = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
I3D_ADDRESS = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"
C3D_ADDRESS = "https://www.dropbox.com/s/jxpu7avzdc9n97q/c3d_ucf101.pt?dl=1"


class Extractor(ABC):
    """A network that describes clips.

    name: as in metric names; weights_hash: of exactly these weights; num_features: width of a feature vector,
    0 if it gives none; num_classes: None if it gives no probabilities.
    """

    name: str
    weights_hash: str
    num_features: int
    num_classes: int | None
    # One clip a forward pass: what a clip's neighbours are, and how many, cannot change a bit of its
    # features.
    inner_batch = 1

    @abstractmethod
    def forward_features(self, clips: Tensor) -> Tensor:
        """uint8 (b, F, H, W, 3), 0..255, b <= inner_batch -> (b, num_features)."""

    @abstractmethod
    def forward_probabilities(self, clips: Tensor) -> Tensor:
        """uint8 (b, F, H, W, 3), 0..255, b <= inner_batch -> (b, num_classes), rows summing to 1."""

    def features(self, clips: np.ndarray | Tensor) -> Tensor:
        """Return float32 (B, num_features) on the CPU for clips uint8 (B, F, H, W, 3), 0..255.

        Raises ValueError for clips of another shape or dtype, or an extractor that has no features.
        """
        if not self.num_features:
            raise ValueError(f"extractor {self.name}: gives class probabilities only, no features")
        return self._by_inner_batch(self.forward_features, clips)

    def probabilities(self, clips: np.ndarray | Tensor) -> Tensor | None:
        """Return float32 (B, num_classes), rows summing to 1, for clips as in `features`; None without
        classes.
        """
        return None if self.num_classes is None else self._by_inner_batch(self.forward_probabilities, clips)

    @torch.no_grad()
    def _by_inner_batch(self, forward, clips: np.ndarray | Tensor) -> Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(clips)) if isinstance(clips, np.ndarray) else clips
        check(batch, "B F H W 3", "clips", dtype=torch.uint8)
        if not len(batch):
            raise ValueError("clips: got none, wanted at least one")
        return torch.cat([forward(part).float().cpu() for part in batch.split(self.inner_batch)])


def git_blob_hash(path: Path | str) -> str:
    """Return what `git hash-object FILE` prints: 40 hex digits, the sha1 of "blob <bytes>", a zero, the
    content.
    """
    digest = hashlib.sha1(f"blob {Path(path).stat().st_size}\0".encode())
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def load_torchscript(path: Path | str, title: str, address: str, device: str = "cpu") -> torch.jit.ScriptModule:
    """Return the network of a TorchScript file in evaluation mode.

    Raises ValueError, in one line, for a missing file, a web page saved under the name, or any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{title}: {path} is not there; download it from {address} and give its path")
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<":
        raise ValueError(f"{title}: {path} is a web page, not a network; download the file itself from {address}")
    if start[:2] != b"PK":
        raise ValueError(f"{title}: {path} is no TorchScript archive; wanted the file from {address}")
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1][:120]
        raise ValueError(
            f"{title}: {path} cannot be read as TorchScript ({reason}); it may be cut short or a "
            f"checkpoint: wanted the file from {address}"
        ) from error


class TorchScriptExtractor(Extractor):
    """A TorchScript network read from a file; subclasses say how it is called and what must come back."""

    title: str
    address: str
    wanted: str

    def __init__(self, path: Path | str, device: str = "cpu") -> None:
        self.path, self.device = Path(path), device
        self.network = load_torchscript(path, self.title, self.address, device)
        self.weights_hash = git_blob_hash(path)

    def call(self, *arguments: Tensor | bool, width: int) -> Tensor:
        """Return the output (b, width). Raises ValueError in one line if this is not the network it should
        be.
        """
        try:
            out = self.network(*arguments)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:120]
            raise self.wrong_network(f"calling it failed ({reason})") from error
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if shape != (len(arguments[0]), width):
            raise self.wrong_network(f"got output {shape}, wanted ({len(arguments[0])}, {width})")
        return out

    def wrong_network(self, what: str) -> ValueError:
        """The error that says what came out instead."""
        return ValueError(f"{self.title}: {self.path} is another network: {what}; wanted {self.wanted}")


class TorchScriptI3D(TorchScriptExtractor):
    """I3D trained on Kinetics-400 as the TorchScript file that most video papers score with: 400 logits.

    Called on (b, 3, F, H, W), 0..255, with rescale, resize (to 224 inside the network) and return_features
    on. Source:
    https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/frechet_video_distance.py
    """

    name, num_features, num_classes = "i3d", 400, None
    title, address = "I3D", I3D_ADDRESS
    wanted = "I3D with arguments (video, rescale, resize, return_features) and 400 outputs"

    def forward_features(self, clips: Tensor) -> Tensor:
        video = clips.to(self.device).float().permute(0, 4, 1, 2, 3).contiguous()  # (b, 3, F, H, W)
        return self.call(video, True, True, True, width=self.num_features)  # (b, 400)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor i3d: gives features only, no class probabilities; take c3d or embedded")


class TorchScriptC3D(TorchScriptExtractor):
    """C3D fine-tuned on UCF101 for the inception score: 101 class probabilities, no features.

    Called with nothing but the video, uint8 (b, 3, F, H, W), 0..255; the file scales and resizes by itself
    and ends in a softmax, since StyleGAN-V takes the logarithm of what comes back. Source:
    https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/inception_score.py
    """

    name, num_features, num_classes = "c3d", 0, 101
    title, address = "C3D", C3D_ADDRESS
    wanted = "C3D with one argument (video) and 101 class probabilities"

    def forward_features(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor c3d: gives class probabilities only, no features; take i3d or embedded")

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        video = clips.to(self.device).permute(0, 4, 1, 2, 3).contiguous()  # (b, 3, F, H, W)
        rows = self.call(video, width=self.num_classes).float()  # (b, 101)
        # A float32 softmax sums to 1 within 101 * 6e-8; logits do not.
        if (rows < 0).any() or (rows.sum(dim=1) - 1).abs().max() > 1e-3:
            raise self.wrong_network("its rows are no probabilities")
        return rows
