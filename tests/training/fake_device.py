"""The process of test_no_waiting.py: a step of each stage on a fake accelerator, and what it made anybody wait for.

Its own process, since a device that torch does not know must be there before the first backward pass of a process.

python tests/training/fake_device.py NAME...
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.data import default_collate

from lavita.training.ahead import WithDraws, requests_of
from tests.training.test_resume import Clips, build

DEVICE = "fakegpu"
SHOULD_WAIT = "what waits"  # a name of its own in the answer: copies to and fro, and a look at a value


class Waiting(TorchDispatchMode):
    """Operations that make the host wait for a device, or a device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        given = {leaf.device.type for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.ndim}
        result = function(*arguments, **(options or {}))
        made = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.ndim}
        if "_local_scalar_dense" in str(function) or len(given | made) > 1:
            self.found.append(str(function))
        return result


def fake(value: Any, mode: FakeTensorMode) -> Any:
    """A tensor, or a list of them, as a shape on the fake device."""
    if not isinstance(value, Tensor):
        return [fake(one, mode) for one in value]
    shape = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return mode.fake_tensor_converter.from_meta_and_device(mode, shape, torch.device(DEVICE, 0))


def on_device(module: Any, batch: dict[str, Any], mode: FakeTensorMode) -> dict[str, Any]:
    """A batch as it arrives; the module's weights, buffers and tables of the schedule are then shapes on the device, as
    after a first step."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(fake(parameter, mode), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake(buffer, mode)
    if hasattr(module, "schedule"):
        tables = module.schedule._placed
        there = torch.device(DEVICE, 0)
        tables |= {(name, there, dtype): fake(tables[name, cpu, dtype], mode) for name, cpu, dtype in tables}
    module.__dict__["_device"] = torch.device(DEVICE, 0)
    return {key: value if key == "clip_index" else fake(value, mode) for key, value in batch.items()}


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: None = None, **options: Any) -> Tensor:
    """Written out: a device that there is not has no kernel of its own for it."""
    assert attn_mask is None and not any(options.values())
    return torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v


def step(name: str) -> list[str]:
    """What the loss and the backward pass of a stage wait for, on a batch as its loader gives it."""
    module, clips = build(name), Clips(name, build(name))
    module.draw_requests = requests_of(module, default_collate([clips[0]]))
    items = WithDraws(clips, 0, module.stage_name, module.draw_requests)
    batch = default_collate([items[10], items[11]])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = on_device(module, batch, mode)
        with Waiting() as waiting:
            module.training_step(batch, 0)["loss"].backward()
    return waiting.found


def should_wait() -> list[str]:
    """A copy to the host, one to the device, and a look at a value, which a fake one refuses."""
    with FakeTensorMode():
        value = torch.zeros(2, device=DEVICE)
        with Waiting() as waiting:
            value.cpu()
            torch.zeros(2).to(DEVICE)
        try:
            bool(value.sum() > 0)
        except Exception as error:  # of torch's own kind, without a public name
            waiting.found.append(str(error))
    return waiting.found


if __name__ == "__main__":
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(DEVICE)
    torch.nn.functional.scaled_dot_product_attention = attention
    print(json.dumps({SHOULD_WAIT: should_wait()} | {name: step(name) for name in sys.argv[1:]}), flush=True)
    os._exit(0)  # autograd's thread of the device holds Python objects; the interpreter's end would sometimes kill it
