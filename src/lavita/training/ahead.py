"""Random numbers of a training step, drawn by the loader's processes while the steps before are taken.

They are functions of seed, stage and clip number alone, so whoever draws them draws the same bits. Which ones a loss
asks for is found out once, by running it on shapes; a method need not know of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lavita.diffusion.rng import Request, SampleRNG, derive_seed
from lavita.training.stage import DRAWN, TrainedStage


class Asked(SampleRNG):
    """Writes down what is asked of it; its values have the right shapes only."""

    @property
    def generators(self) -> list[torch.Generator]:
        raise ValueError("draws of other kinds can't be made ahead")

    def _values(self, request: Request) -> Tensor:
        self.asked.append(request)
        value = request.draw(torch.Generator())
        return value.expand(len(self), *value.shape).to(self.device)


def requests_of(module: TrainedStage, batch: dict[str, Tensor]) -> tuple[Request, ...]:
    """What the stage's loss asks of its random numbers for one clip, in order; nothing is computed for it.

    Empty where that can't be known ahead: a loss that looks at values, or draws from the generators itself.
    """
    rng = Asked([0], module.device)
    one = {key: value[:1].to("cpu" if key == "clip_index" else module.device) for key, value in batch.items()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]  # a batch norm counts its calls in one
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            # The clips' numbers are on the host, where a loss may read them.
            shapes = {key: value if key == "clip_index" else mode.from_tensor(value) for key, value in one.items()}
            module.loss(shapes, rng)
    except Exception:  # whatever a method does with values that are not there, it draws in its steps as ever
        return ()
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
    return tuple(rng.asked)


class WithDraws(Dataset):
    """A data set's items with the random numbers of their step under DRAWN."""

    def __init__(self, items: Dataset, seed: int, stage: str, draw_requests: Iterable[Request]) -> None:
        self.items, self.seed, self.stage, self.draw_requests = items, seed, stage, tuple(draw_requests)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.stage, int(item["clip_index"])))
        return item | {DRAWN: [request.draw(generator) for request in self.draw_requests]}


def changed_loader(loader: DataLoader, **attributes: Any) -> DataLoader:
    """The same loader with other attributes and every option that it has.

    Not built anew: what is not named would then fall back to its default, unnoticed.
    """
    other = copy.copy(loader)
    other.__dict__.update(attributes)  # a DataLoader refuses to have its attributes set
    return other


def with_draws(loader: DataLoader, module: TrainedStage, heldout: dict[str, Tensor]) -> DataLoader:
    """A loader whose processes draw the random numbers of the stage's steps, of which the stage is told.

    heldout: any clips as the stage's loss reads them. A loader without processes stays as it is: nothing would be
    drawn any sooner.
    """
    if not loader.num_workers or isinstance(loader.dataset, IterableDataset):
        return loader
    module.draw_requests = requests_of(module, heldout)
    if not module.draw_requests:
        return loader
    items = WithDraws(loader.dataset, module.seed, module.stage_name, module.draw_requests)
    return changed_loader(loader, dataset=items)
