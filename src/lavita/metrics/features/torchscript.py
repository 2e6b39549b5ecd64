"""Feature networks that come as TorchScript files: I3D for FVD and C3D for IS, as most video papers score with them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lavita.metrics.features.base import I3D_TRANSFORMS, INSIDE, Extractor, transform
from lavita.metrics.features.i3d import SIZE
from lavita.metrics.features.weights import C3D_UCF101, I3D_TORCHSCRIPT, git_blob_hash


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


class TorchScriptNetwork:
    """A TorchScript network read from a file; subclasses say what it should be."""

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


class TorchScriptI3D(TorchScriptNetwork, Extractor):
    """I3D trained on Kinetics-400 as the TorchScript file that most video papers score with: 400 logits.

    Called on (b, 3, F, H, W), 0..255, with rescale, resize (to 224 inside the network) and return_features on. With
    another preprocess than "inside" it is handed (b, 3, F, 224, 224), -1..1, with rescale and resize off, as MCVD does;
    its name then says so. Source:
    https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/frechet_video_distance.py
    """

    name, num_features, num_classes = "i3d", 400, None
    title, address = "I3D", I3D_TORCHSCRIPT.addresses[0]
    wanted = "I3D with arguments (video, rescale, resize, return_features) and 400 outputs"

    def __init__(self, path: Path | str, device: str = "cpu", preprocess: str = INSIDE) -> None:
        self.transform = None if preprocess == INSIDE else transform(preprocess, (INSIDE, *I3D_TRANSFORMS))
        super().__init__(path, device)
        self.preprocess = preprocess
        if preprocess != INSIDE:
            self.name = f"i3d-{preprocess}"

    def forward_features(self, clips: Tensor) -> Tensor:
        clips = clips.to(self.device)
        if self.transform is not None:
            return self.call(self.transform(clips, SIZE), False, False, True, width=self.num_features)  # (b, 400)
        video = clips.float().permute(0, 4, 1, 2, 3).contiguous()  # (b, 3, F, H, W)
        return self.call(video, True, True, True, width=self.num_features)  # (b, 400)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor i3d: gives features only, no class probabilities; take c3d or embedded")


class TorchScriptC3D(TorchScriptNetwork, Extractor):
    """C3D fine-tuned on UCF101 for the inception score: 101 class probabilities, no features.

    Called with nothing but the video, uint8 (b, 3, F, H, W), 0..255; the file scales and resizes by itself and ends in
    a softmax, since StyleGAN-V takes the logarithm of what comes back. Source:
    https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/inception_score.py
    """

    name, num_features, num_classes = "c3d", 0, 101
    title, address = "C3D", C3D_UCF101.addresses[0]
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
