"""I3D from a file in the format of `i3d_pretrained_400.pt`, behind the extractor interface."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lavita.score.extractors import Extractor
from lavita.score.i3d import I3D, NUM_CLASSES, SIZE
from lavita.score.i3d_folded import FoldedI3D
from lavita.score.preprocess import I3D_TRANSFORMS, transform
from lavita.score.state_dicts import load_strictly, read_state_dict
from lavita.score.weights import git_blob_hash

# What the TorchScript packaging does inside, up to rounding.
USUAL = "straight"


def read_i3d(path: Path | str) -> I3D:
    """Return the network of a file, in evaluation mode. Raises ValueError for any other file or network, naming what
    is missing, unknown or of another shape.
    """
    network = I3D()
    state = read_state_dict(Path(path), "I3D")
    load_strictly(network, state, "I3D", path)
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise ValueError(f"I3D: {path} holds weights that are not finite")
    return network.eval()


class I3DExtractor(Extractor):
    """Our I3D: 400 logits averaged over time, of clips of at least 9 frames of any size.

    preprocess: a name of `preprocess.I3D_TRANSFORMS`; the name of the extractor says so unless it is "straight".
    Source: `lavita.score.i3d`.
    """

    num_features, num_classes = NUM_CLASSES, None

    def __init__(self, network: I3D, weights_hash: str, device: str = "cpu", preprocess: str = USUAL) -> None:
        self.transform = transform(preprocess, I3D_TRANSFORMS)
        self.network = FoldedI3D(network).to(device)
        self.weights_hash, self.device, self.preprocess = weights_hash, device, preprocess
        self.name = "i3d" if preprocess == USUAL else f"i3d-{preprocess}"

    def forward_features(self, clips: Tensor) -> Tensor:
        return self.network(self.transform(clips.to(self.device), SIZE))  # (b, 400)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor i3d: gives features only, no class probabilities; take c3d or embedded")


def load_i3d(path: Path | str, device: str = "cpu", preprocess: str = USUAL) -> I3DExtractor:
    """The extractor of a file; its weights_hash is the file's git blob name. Raises ValueError as `read_i3d`."""
    return I3DExtractor(read_i3d(path), git_blob_hash(path), device, preprocess)
