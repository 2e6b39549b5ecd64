"""Networks that extract features of single frames, for a Frechet distance of frames: InceptionV3 as in FID, DINOv2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lavita.metrics.features.base import FrameExtractor
from lavita.metrics.features.torchscript import TorchScriptNetwork
from lavita.metrics.features.videomae import folder_hash, import_transformers, read_config
from lavita.metrics.features.weights import INCEPTION

DINOV2_SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchScriptInception(TorchScriptNetwork, FrameExtractor):
    """InceptionV3 of FID as a TorchScript file: 2048 features before the classifier.

    Called on uint8 (F, 3, H, W), 0..255, with return_features on; the file resizes to 299 and scales by itself.
    Source: https://github.com/universome/stylegan-v/blob/1f630af59d8f34a4a70417abc412c1c7c3b0d97c/src/metrics/
    frechet_inception_distance.py, which now names a pickle of the same network: pickles are not read here.
    """

    name, num_features = "inception", 2048
    title, address = "Inception", INCEPTION.addresses[0]
    wanted = "InceptionV3 with arguments (image, return_features) and 2048 features"

    def forward_frames(self, frames: Tensor) -> Tensor:
        images = frames.to(self.device).permute(0, 3, 1, 2).contiguous()  # (F, 3, H, W)
        return self.call(images, True, width=self.num_features)  # (F, 2048)


class Dinov2Extractor(FrameExtractor):
    """DINOv2 from a folder of transformers: the class token after the last layer norm.

    Frames are resized straight to 224 x 224 with Pillow's bicubic filter, which is antialiased, and normalised as
    ImageNet. Source: Stein et al. 2023 (arXiv:2306.04675), and
    https://github.com/layer6ai-labs/dgm-eval/blob/74c79f7527fbf38fdccfbac51f25d759bc02ab07/dgm_eval/models/dinov2.py;
    transformers interpolates the position table a little differently from the hub's code that is used there, so
    distances are near those of that code and not equal.
    """

    name = "dinov2"

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        transformers = import_transformers(self.name)
        read_config(folder, "DINOv2", "dinov2")
        network, report = transformers.Dinov2Model.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        problems = [f"{key}: {', '.join(map(str, sorted(report[key])[:3]))}" for key in sorted(report) if report[key]]
        if problems:
            raise ValueError(f"DINOv2: {folder} is another network: {'; '.join(problems)}")
        self.network, self.device = network.float().eval().to(device), device
        self.num_features, self.weights_hash = network.config.hidden_size, folder_hash(folder)

    def forward_frames(self, frames: Tensor) -> Tensor:
        images = dinov2_images(frames.cpu().numpy()).to(self.device)
        return self.network(pixel_values=images).pooler_output  # (F, num_features)


def dinov2_images(frames: np.ndarray) -> Tensor:
    """uint8 (F, H, W, 3), 0..255 -> float32 (F, 3, 224, 224), ImageNet's mean 0 and deviation 1."""
    size = (DINOV2_SIZE, DINOV2_SIZE)
    small = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]
    images = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255  # (F, 3, 224, 224)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / deviation


def load_frame_encoder(path: Path | str, device: str = "cpu") -> FrameExtractor:
    """The frame encoder of a path: a folder of transformers holds DINOv2, a TorchScript file holds Inception.

    Raises ValueError, one line, for anything else.
    """
    path = Path(path)
    if path.is_dir():
        return Dinov2Extractor(path, device)
    if not path.is_file():
        raise ValueError(
            f"frame encoder: looked for {path}: it is not there; give a TorchScript file or a DINOv2 folder"
        )
    return TorchScriptInception(path, device)
