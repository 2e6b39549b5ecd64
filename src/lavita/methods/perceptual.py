"""Perceptual distance of frames: LPIPS where its weights are given, else a stand-in that needs none."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavita.methods.checkpoints import read_tensors

# VGG16's convolutions up to relu5_3, by their index in torchvision's `features`; the five stages of LPIPS.
STAGES = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)


class LPIPS(nn.Module):
    """Learned perceptual distance of frames (B, 3, H, W) in [-1, 1] -> (B,), 0 for equal frames; frozen.

    Keys are those of the released loss: net.slice<k>.<index>, lin<k>.model.1.weight.
    Source: Zhang et al. 2018, equation 1; github.com/sihyun-yu/PVDM at 793172f, losses/lpips.py.
    """

    name = "lpips-vgg16"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.net = nn.ModuleDict()
        for k, stage in enumerate(STAGES):
            layers = {str(index): nn.Conv2d(inputs, width, 3, padding=1) for index, inputs, width in stage}
            self.net[f"slice{k + 1}"] = nn.ModuleDict(layers)
            weighting = nn.Conv2d(stage[-1][2], 1, 1, bias=False)
            self.add_module(f"lin{k}", nn.ModuleDict({"model": nn.Sequential(nn.Identity(), weighting)}))
        self.requires_grad_(False)

    @classmethod
    def from_files(cls, vgg: str | Path, linear: str | Path) -> LPIPS:
        """Load VGG16 as torchvision saves it (features.<index>), LPIPS's weightings as lin<k>.model.1.weight.

        One file that holds everything may be given twice. Raises ValueError naming the first missing key.
        """
        model = cls()
        given = {**read_tensors(Path(vgg)), **read_tensors(Path(linear))}
        slices = {str(index): k + 1 for k, stage in enumerate(STAGES) for index, _, _ in stage}
        renamed = {}
        for key, value in given.items():
            head, _, rest = key.partition(".")
            index = rest.partition(".")[0]
            of_vgg = head == "features" and index in slices
            renamed[f"net.slice{slices[index]}.{rest}" if of_vgg else key] = value
        wanted = model.state_dict()
        missing = [key for key in wanted if key not in renamed]
        if missing:
            raise ValueError(
                f"model.lpips_vgg, model.lpips_linear: {vgg} and {linear} hold no {missing[0]} "
                f"({len(missing)} of {len(wanted)} tensors missing); give torchvision's VGG16 and LPIPS's "
                "vgg.pth"
            )
        model.load_state_dict({key: renamed[key] for key in wanted})
        return model

    def features(self, x: Tensor) -> list[Tensor]:
        """The five stages' outputs, each normalised over its channels."""
        x, outputs = (x - self.shift) / self.scale, []
        for k, layers in enumerate(self.net.values()):
            x = functional.max_pool2d(x, 2) if k else x
            for layer in layers.values():
                x = functional.relu(layer(x))  # (B, D_k, H / 2^k, W / 2^k)
            # The tiny constant under the root changes no value and keeps dead features' gradient finite.
            length = (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
            outputs.append(x / (length + 1e-10))
        return outputs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for k, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            weighting = self.get_submodule(f"lin{k}")["model"]
            total = total + weighting((a - b) ** 2).mean(dim=(1, 2, 3))  # (B,)
        return total


class GradientPyramid(nn.Module):
    """Stand-in for LPIPS without weights: differences of image gradients, (B, 3, H, W) -> (B,).

    At each of up to four scales (full size, then halved by averaging) the mean absolute difference of
    horizontal and vertical gradients, so that a blurred edge costs more than under the pixel loss alone. It
    has seen no data, so it counts as no external weights; it does not replace LPIPS's judgement of texture.
    Source: ours, after the gradient difference loss of Mathieu et al. 2016, equation 6.
    """

    name = "gradient-pyramid"

    def __init__(self, num_scales: int = 4) -> None:
        super().__init__()
        self.num_scales = num_scales

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        difference = x - y  # gradients and averages are linear, so the pyramid is built once
        total = x.new_zeros(len(x))
        for scale in range(self.num_scales):
            if scale:
                difference = functional.avg_pool2d(difference, 2)  # (B, 3, H / 2^scale, W / 2^scale)
            for axis in (-2, -1):
                total = total + difference.diff(dim=axis).abs().mean(dim=(1, 2, 3))  # (B,)
            if min(difference.shape[-2:]) < 4:
                break
        return total


def perceptual_distance(vgg: str | None, linear: str | None) -> LPIPS | GradientPyramid:
    """LPIPS where both files are given, the stand-in where neither is; its `name` stands with the row."""
    if bool(vgg) != bool(linear):
        raise ValueError(
            f"model.lpips_vgg, model.lpips_linear: got {vgg!r} and {linear!r}; give both files, or neither "
            f"for the stand-in {GradientPyramid.name}"
        )
    return LPIPS.from_files(vgg, linear) if vgg and linear else GradientPyramid()


@torch.no_grad()
def lpips_of_clips(distance: nn.Module, before: Tensor, after: Tensor) -> Tensor | None:
    """LPIPS of each clip (B, F, 3, H, W) in [-1, 1], mean over its frames, (B,); None where distance is another one."""
    if not isinstance(distance, LPIPS):
        return None
    distance.to(before.device)
    # One clip at a time: the first stage of VGG16 alone holds 64 values for every pixel of every frame.
    return torch.stack([distance(a, b).mean() for a, b in zip(before, after, strict=True)])
