"""What a clip shows, whatever moves in it: colours, layout and texture, and a small network over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

GRID, NUM_SCALES, EVERY = 4, 3, 2  # cells a side; halvings of the size; of the frames every second
# Luminance and two colour differences (ITU-R BT.601) of red, green and blue.
LUMA = ((0.299, 0.587, 0.114), (0.5, -0.419, -0.081), (-0.169, -0.331, 0.5))
PER_SCALE = 2 * 3 + 2 + 2 + GRID**2  # amplitudes across and down of each plane, two diagonals, two tails, edges
NUM_CONTENTS = 3 * 3 + 3 * GRID**2 + NUM_SCALES * PER_SCALE
CONTENT_WIDTH = 32


def log_amplitude(values: Tensor) -> Tensor:
    """Half the logarithm of the mean square over the last two axes, floored at about half a grey level."""
    return 0.5 * torch.log(1e-5 + values.square().mean(dim=(-2, -1)))


def content_statistics(video: Tensor) -> Tensor:
    """Return (B, 135), means over time, for video float32 (B, F, 3, H, W), -1..1, H and W >= 16.

    Of luminance and two colour differences: mean, log deviation, third moment; means of a 4x4 grid of cells, less the
    mean and in units of luminance's deviation; at three scales log amplitudes of first differences across, down and
    along the diagonals, how heavy their tails are, and their log amplitude in each cell of the grid.
    """
    planes = torch.einsum("cd,bfdhw->bfchw", video.new_tensor(LUMA), video[:, ::EVERY])
    clips, frames = planes.shape[:2]
    plane = planes.flatten(0, 1)  # (B F/2, 3, H, W)
    deviation, mean = torch.std_mean(plane, dim=(2, 3), keepdim=True, correction=0)  # (B F/2, 3, 1, 1)
    cells = (functional.adaptive_avg_pool2d(plane, GRID) - mean) / (deviation[:, :1] + 0.05)
    columns = [mean.flatten(1), torch.log(deviation + 0.02).flatten(1), cells.flatten(1)]
    columns.append(((plane - mean) / (deviation + 0.03)).pow(3).mean(dim=(2, 3)))
    for _ in range(NUM_SCALES):
        across, down = plane.diff(dim=3)[:, :, 1:], plane.diff(dim=2)[:, :, :, 1:]  # (B F/2, 3, h - 1, w - 1)
        columns += [log_amplitude(across), log_amplitude(down)]
        across, down = across[:, :1], down[:, :1]
        columns += [log_amplitude(across + down), log_amplitude(across - down)]
        for edge in (across, down):
            size = torch.sqrt(edge.square().mean(dim=(2, 3)) + 1e-5)
            columns.append(torch.log((edge.abs().mean(dim=(2, 3)) + 3e-3) / size))
        edges = functional.adaptive_avg_pool2d(across.square() + down.square(), GRID)
        columns.append(0.5 * torch.log(1e-5 + edges).flatten(1))
        plane = functional.avg_pool2d(plane, 2)
    return torch.cat(columns, dim=1).unflatten(0, (clips, frames)).mean(dim=1)  # (B, 135)


class ContentNet(nn.Module):
    """content_statistics (B, 135) -> an embedding (B, 32) that contrastive training fills: see content_training."""

    def __init__(self, width: int = CONTENT_WIDTH, hidden: int = 88) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(NUM_CONTENTS, affine=False)
        self.dropout = nn.Dropout(0.5)
        self.widen = nn.Linear(NUM_CONTENTS, hidden)
        self.hidden_norm = nn.BatchNorm1d(hidden)
        self.embed = nn.Linear(hidden, width)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("projection", torch.eye(width))

    def forward(self, statistics: Tensor) -> Tensor:
        hidden = self.widen(self.dropout(self.norm(statistics)))  # (B, hidden)
        return self.embed(functional.relu(self.hidden_norm(hidden)))  # (B, width)
