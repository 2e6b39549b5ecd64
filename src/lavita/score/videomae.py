"""VideoMAE, the network of the content-debiased FVD, through the package transformers where that is installed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lavita.score.extractors import Extractor
from lavita.score.preprocess import transform
from lavita.score.state_dicts import load_strictly, read_state_dict
from lavita.score.transformers_folder import WEIGHTS, folder_hash, import_transformers, read_config
from lavita.score.videomae_names import is_official, official_sizes, to_installed
from lavita.score.weights import git_blob_hash
from lavita.shape import check

# Of the last layer norm: transformers takes 1e-5 there, the authors' code 1e-6.
EPSILON = 1e-6


class VideoMAENet(nn.Module):
    """video float32 (b, 3, F, size, size), 0..1 -> (b, width): the mean over all tokens, then a layer norm."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.videomae = import_transformers("videomae").VideoMAEModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=EPSILON)

    def forward(self, video: Tensor) -> Tensor:
        tokens = self.videomae(pixel_values=video.transpose(1, 2)).last_hidden_state  # (b, N, width)
        return self.fc_norm(tokens.mean(dim=1))  # (b, width)


class VideoMAEExtractor(Extractor):
    """VideoMAE fine-tuned for classification, without its classifier; clips have as many frames as it was made for.

    Clips are resized straight to the size of the network and scaled to 0..1; no mean is taken off. Source: Ge et al.
    2024 (arXiv:2404.12391), and what is fed and returned in
    https://github.com/songweige/content-debiased-fvd/blob/a1e037ab7cb087debd2221d14ae4a001ec054201/cdfvd/fvd.py
    """

    name, num_classes, preprocess = "videomae", None, "unit"

    def __init__(self, network: VideoMAENet, weights_hash: str, device: str = "cpu") -> None:
        self.network, self.weights_hash, self.device = network.eval().to(device), weights_hash, device
        self.config = network.videomae.config
        self.num_features = self.config.hidden_size
        self.transform = transform(self.preprocess, (self.preprocess,))

    def forward_features(self, clips: Tensor) -> Tensor:
        frames = check(clips, "B F H W 3", "clips")["F"]
        if frames != self.config.num_frames:
            raise ValueError(f"extractor videomae: got clips of {frames} frames, wanted {self.config.num_frames}")
        return self.network(self.transform(clips.to(self.device), self.config.image_size))  # (b, width)

    def forward_probabilities(self, clips: Tensor) -> Tensor:
        raise ValueError("extractor videomae: gives features only, no class probabilities; take c3d or embedded")


def load_videomae(path: Path | str, device: str = "cpu") -> VideoMAEExtractor:
    """The extractor of a folder of transformers (config.json, model.safetensors) or of a file of the authors' code.

    Raises ValueError for anything else, for a network that is not fine-tuned (without fc_norm), and where transformers
    is not installed. weights_hash is `folder_hash`, or the file's git blob name.
    """
    path, transformers = Path(path), import_transformers("videomae")
    if path.is_dir():
        config = read_config(path, "VideoMAE", "videomae")
        state, weights_hash = read_state_dict(path / WEIGHTS, "VideoMAE"), folder_hash(path)
    else:
        state = read_state_dict(path, "VideoMAE")
        if not is_official(state):
            raise ValueError(f"VideoMAE: {path} is another network: {len(state)} names, first {next(iter(state))}")
        config, weights_hash = official_sizes(state), git_blob_hash(path)
    config = {key: value for key, value in config.items() if not key.startswith(("_", "architectures"))}
    network = VideoMAENet(transformers.VideoMAEConfig(**config | {"use_mean_pooling": True}))
    load_strictly(network, to_installed(state, network.state_dict()), "VideoMAE", path)
    return VideoMAEExtractor(network, weights_hash, device)
