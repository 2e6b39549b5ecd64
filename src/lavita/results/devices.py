"""How fast a stage was trained: clips per second, and the share of what its devices can do (MFU)."""

from __future__ import annotations

import sys
from dataclasses import dataclass

# Dense TFLOP/s by the device's name as torch says it: products of bfloat16 summed in float32, and of float32 without
# TF32. Source: NVIDIA's data sheets, where those of tensor cores with sparsity are twice as high.
PEAKS = {
    "NVIDIA H200": (989.4, 66.9),
    "NVIDIA H100 80GB HBM3": (989.4, 66.9),
    "NVIDIA H100 PCIe": (756.0, 51.2),
    "NVIDIA H100 NVL": (835.5, 60.0),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
    "NVIDIA A100-PCIE-40GB": (312.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 19.5),
    "NVIDIA L40S": (362.0, 91.6),
    "NVIDIA L4": (121.0, 30.3),
}
MIXED = "bf16-mixed"


@dataclass(frozen=True)
class Speed:
    """clips_per_second: of batches, whatever a clip costs of the budget. mfu: counted FLOPs a second over the dense
    peak of all devices in the stage's precision, 0 to 1; None for a device that PEAKS does not know.
    """

    clips_per_second: float
    mfu: float | None


def speed_of(clips: int, flops: float, seconds: float, precision: str, processes: int = 1) -> Speed | None:
    """The speed of a stage that took so many seconds on this machine's device, one a process; None where it took none.

    clips: drawn; flops: counted, forward and backward, encoding included.
    """
    if seconds <= 0:
        return None
    peak = PEAKS.get(device_name())
    if peak is None:
        return Speed(clips / seconds, None)
    dense = peak[0] if precision == MIXED else peak[1]
    return Speed(clips / seconds, flops / seconds / (processes * dense * 1e12))


def device_name() -> str:
    """The accelerator's name as torch says it, "" without one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else ""
