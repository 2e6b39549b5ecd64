"""Stages of GANs whose discriminator has a regulariser (R1) that is updated alone, once in many steps."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from lavita.methods.adversarial import Adam, make_finite
from lavita.methods.discriminators import AlternatingStage
from lavita.training.stage import fuses

GENERATOR, DISCRIMINATOR, R1 = "generator", "discriminator", "r1"
R1_INTERVAL = 16  # steps


def turns(interval: int) -> tuple[tuple[str, int], ...]:
    """The updates of a cycle, (whose, number of its step): generator, discriminator, in the first step also R1.

    Source: Karras et al. 2020 (StyleGAN2, arXiv:1912.04958), appendix B ("lazy regularization").
    """
    steps = [[(GENERATOR, step), (DISCRIMINATOR, step)] for step in range(interval)]
    steps[0].append((R1, 0))
    return tuple(turn for step in steps for turn in step)


TURNS = turns(R1_INTERVAL)


class LazyUpdates(AlternatingStage):
    """Mixed into a stage that updates a generator, its discriminator, and every R1_INTERVAL steps R1, on one batch of
    clips in each step. A clip of the budget is one that the discriminator sees, so a cycle costs as many batches as it
    has steps.

    The stage sets `generator`, `discriminator` and `average`, a copy of the generator, and says in `adams` what each
    network's Adam is. The average, buffers included, moves after every step and takes the generator's place at the end;
    it lies in the stage's state, so that a resumed run continues with it.
    """

    generator: nn.Module
    discriminator: nn.Module
    average: nn.Module
    alternating_updates = len(TURNS)
    same_clips = True
    clip_cost = Fraction(R1_INTERVAL, len(TURNS))
    uses_ema = False  # of the suite: the stage has its own

    @property
    def batch_of_update(self) -> tuple[int, ...]:
        return tuple(step for _, step in TURNS)

    def update_shares(self) -> dict[int, int]:
        """One update of each kind, and how often a cycle has it."""
        kinds = [whose for whose, _ in TURNS]
        return {kinds.index(kind): kinds.count(kind) for kind in (GENERATOR, DISCRIMINATOR, R1)}

    def adams(self) -> tuple[Adam, Adam]:
        """Of the generator, and of the discriminator before the correction for lazy regularisation."""
        raise NotImplementedError("a stage with lazy updates says what its optimisers are")

    def average_decay(self, step: int) -> float:
        """How much of the average stays in a step, counted from 0."""
        raise NotImplementedError("a stage with lazy updates says how fast its average moves")

    def whose(self, batch: dict[str, Tensor]) -> str:
        """Whose update a batch is for. It follows from the clips' running number, as does a resumed run's."""
        return TURNS[batch["clip_index"].tolist()[0] // self.train_config.batch_clips % len(TURNS)][0]

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.generator.parameters(), *self.discriminator.parameters()]

    def configure_optimizers(self) -> dict[str, Any]:
        """The suite's optimiser and warm-up, with each network's own learning rate and moments."""
        of_generator, of_discriminator = self.adams()
        groups = []
        for network, adam in (
            (self.generator, of_generator),
            (self.discriminator, of_discriminator.lazy(R1_INTERVAL)),
        ):
            betas = (adam.beta1, adam.beta2)
            groups.append({"params": list(network.parameters()), "lr": adam.learning_rate, "betas": betas})
        fused = fuses({parameter.device.type for parameter in self.trained_parameters()})
        optimiser = torch.optim.AdamW(groups, weight_decay=self.train_config.weight_decay, fused=fused)
        steps = self.train_config.warmup_clips / self.train_config.batch_clips
        # A learning rate grows with the clips that were seen, not with the updates.
        cost = float(self.clip_cost)
        ramp = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda update: min(1.0, (update * cost + 1) / max(steps, 1))
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        make_finite(self.trained_parameters())
        super().configure_gradient_clipping(optimizer)

    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """An update; the last of a step moves the average too, before anything is saved."""
        number = self.trainer.global_step  # of updates before this one
        super().optimizer_step(epoch, batch, optimizer, optimizer_closure)
        self.end_update(number)

    def end_update(self, number: int) -> None:
        """What follows update `number`, counted from 0 over the stage."""
        cycle, turn = divmod(number, len(TURNS))
        if turn + 1 == len(TURNS) or TURNS[turn + 1][0] == GENERATOR:
            move_average(self.average, self.generator, self.average_decay(cycle * R1_INTERVAL + TURNS[turn][1]))

    def on_train_end(self) -> None:
        super().on_train_end()
        self.generator.load_state_dict(self.average.state_dict())


def copied(network: nn.Module) -> nn.Module:
    """A copy that is not trained, for the average."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def move_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move a copy of a network, parameters and buffers, towards the network; counters are copied."""
    for ours, theirs in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        ours.copy_(theirs.lerp(ours, decay) if ours.is_floating_point() else theirs)
