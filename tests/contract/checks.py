"""What the suite asks of a method, each check with a message that says what to do. See lavita.training.stage."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lavita.config.compose import TIERS, load_yaml
from lavita.config.plan import deviations
from lavita.config.registry import load_implementation
from lavita.config.schema import ConfigError, read
from lavita.data.clips import to_uint8
from lavita.experiment.budget import planned_shared_cost, shares_codec, split_budget
from lavita.methods.base import VideoMethod
from lavita.methods.build import build_method, empty_codec
from lavita.training.stage import StagePlan

from .subject import Subject, batch_of, draws_of, experiment_of, suite_named, suites_of

SEEDS = [3, 11, 4]
# Losses are means of thousands of float32 values behind some tens of layers; another batch size takes other matrix
# kernels. Rounding is 6e-8 a sum, so 1e-4 leaves three orders of magnitude, and a leak is far above it.
LOSS_TOLERANCE = 1e-4
# Beyond the margin of a hinge loss, 1, from any logit of a start with small weights.
FAR = 8.0


def require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def check_composes(name: str) -> None:
    """The configuration is complete at every tier of every suite, and what deviates from the authors' can be listed."""
    require(
        bool(suites_of(name)), f"{name}: `suites` of its YAML names no suite; write [all] or names of configs/suites"
    )
    for suite in suites_of(name):
        for tier in TIERS:
            try:
                experiment = experiment_of(name, suite, tier)
                read(load_implementation(experiment.implementation).Config, experiment.model, "model")
            except ConfigError as error:
                raise AssertionError(f"{name}, suite {suite}, tier {tier}: {error}; complete its YAML") from None
            require(all(isinstance(line, str) for line in deviations(experiment)), f"{name}: deviations are not text")


def check_config_class(config_class: type) -> None:
    """Config is a frozen dataclass."""
    frozen = dataclasses.is_dataclass(config_class) and config_class.__dataclass_params__.frozen
    require(frozen, "module.py: Config must be a frozen dataclass; write @dataclass(frozen=True) above it")


def check_budget(name: str) -> None:
    """At every tier the method builds (without memory), and its stages share out the budget exactly."""
    for suite in {suite_named(suite).conditioning: suite for suite in suites_of(name)}.values():
        for tier in TIERS:
            experiment = experiment_of(name, suite, tier)
            classes = (
                load_yaml("datasets", experiment.data.dataset)["num_classes"]
                if experiment.conditioning == "class"
                else None
            )
            with torch.device("meta"):
                method = build_method(experiment, classes, empty_codec(experiment.codec))
                check_shares(method.stages())
                try:
                    shared = planned_shared_cost(experiment, method)
                    limits = split_budget(experiment.label, experiment.budget, method.stages(), shared)
                    clips = sum(limit.clips for _, limit in limits)
                except ValueError as error:
                    raise AssertionError(f"{name}, tier {tier}: {error}; change batch_clips or the shares") from None
            own = experiment.budget.clips - (experiment.codec.clips if shares_codec(experiment.codec, method) else 0)
            require(clips == own, f"{name}, tier {tier}: stages spend {clips} clips, not the budget")


def check_shares(stages: list[StagePlan]) -> None:
    """Shares of the stages are positive and sum to 1, and no two have one name."""
    shares, names = [stage.share for stage in stages], [stage.name for stage in stages]
    right = abs(sum(shares) - 1) < 1e-9 and all(share > 0 for share in shares)
    require(right, f"stages(): shares {shares} must be above 0 and sum to 1; a stage without a share is left out")
    require(len(set(names)) == len(names), f"stages(): names {names} must differ; they name logs and rows")


def check_loss(subject: Subject) -> None:
    """Every stage's loss gives finite float32 parts of each clip, with "loss" among them."""
    for stage in subject.build(0).stages():
        parts, where = loss_parts(subject, stage, 2), f"loss of stage {stage.name}"
        require(isinstance(parts, Mapping) and "loss" in parts, f'{where}: give a mapping with the key "loss"')
        for key, value in parts.items():
            require(
                tuple(value.shape) == (2,),
                f"{where}: {key} has shape {tuple(value.shape)}, wanted (B,): a mean for each clip",
            )
            require(
                value.dtype == torch.float32, f"{where}: {key} is {value.dtype}, wanted float32; convert it at the end"
            )
            require(bool(value.isfinite().all()), f"{where}: {key} is not finite at the starting weights")


def loss_parts(subject: Subject, stage: StagePlan, size: int, start: int = 0) -> dict[str, Tensor]:
    batch = batch_of(subject, stage.module, size, start)
    return stage.module.train().loss(batch, draws_of(batch))


def check_gradients(subject: Subject) -> None:
    """After a few updates every trained parameter of every stage has had a gradient."""
    for stage in subject.build(0).stages():
        module, without = stage.module.train(), {}
        optimiser = module.configure_optimizers()["optimizer"]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        without = {id(parameter): parameter for parameter in module.trained_parameters()}
        require(bool(without), f"stage {stage.name}: trained_parameters() is empty; nothing would be trained")
        for step in list(module.update_shares()) * 4:  # one update of each kind
            module.num_clips_seen = step * module.train_config.batch_clips
            optimiser.zero_grad()
            loss_parts(subject, stage, 2, module.num_clips_seen)["loss"].mean().backward()
            without = {key: p for key, p in without.items() if p.grad is None or not p.grad.any()}
            module.configure_gradient_clipping(optimiser)
            optimiser.step()
        without = {key: p for key, p in without.items() if not has_gradient_far_away(subject, stage, p)}
        first = ", ".join([names.get(key, "one that is not registered") for key in without][:3])
        require(
            not without,
            f"stage {stage.name}: {len(without)} trained parameters never have a gradient ({first}, ...); use them in "
            "the loss, set requires_grad_(False), or leave them out of trained_parameters()",
        )


def has_gradient_far_away(subject: Subject, stage: StagePlan, parameter: Tensor) -> bool:
    """Whether a parameter gets a gradient FAR from where it is, in some update.

    Near its start it may get none although the loss depends on it: within the margin of a hinge loss a discriminator's
    last bias is pushed up by the generated clips exactly as much as it is pushed down by the real ones.
    """
    module = stage.module
    with torch.no_grad():
        parameter += FAR
    found = False
    for turn in module.update_shares():
        module.zero_grad()
        loss_parts(subject, stage, 2, turn * module.train_config.batch_clips)["loss"].mean().backward()
        found |= parameter.grad is not None and bool(parameter.grad.any())
    with torch.no_grad():
        parameter -= FAR
    return found


def check_own_draws(subject: Subject) -> None:
    """loss and sample take all randomness from the draws and seeds that are handed in."""
    method = subject.shaken()
    calls: dict[str, Callable[[], Tensor]] = {
        f"loss of stage {stage.name}": lambda stage=stage: loss_parts(subject, stage, 2)["loss"].detach()
        for stage in method.stages()
    }
    calls["sample"] = lambda: subject.clips(method, SEEDS[:2])
    for where, call in calls.items():
        before = global_state(7)
        first = call()
        require(
            global_state() == before,
            f"{where}: draws from the global random state of torch, numpy or random (torch.randn, dropout, ...); take "
            "draws.normal, draws.uniform or draws.integers",
        )
        global_state(8)
        require(
            torch.equal(first, call()), f"{where}: gives another result the second time; keep no state between calls"
        )


def global_state(seed: int | None = None) -> tuple[bytes, bytes, int, object]:
    """The random states that code may fall back on, after setting them where a seed is given."""
    if seed is not None:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
    _, keys, position, *_ = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), keys.tobytes(), position, random.getstate()


def check_loss_of_a_clip_alone(subject: Subject) -> None:
    """The loss of a clip is the same alone and beside others.

    Only an earlier stage may normalise over its batch, as published discriminators do; no clip is sampled from it.
    """
    for stage in subject.shaken().stages():
        module = stage.module.train()
        if not isinstance(module, VideoMethod) and any(isinstance(part, _BatchNorm) for part in module.modules()):
            continue
        for turn in module.update_shares():
            batch = batch_of(subject, module, 3, turn * module.train_config.batch_clips)
            together = module.loss(batch, draws_of(batch))["loss"].detach()
            for k in range(3):
                own = {key: value[k : k + 1] for key, value in batch.items()}
                alone = float(module.loss(own, draws_of(own))["loss"].detach())
                require(
                    abs(alone - float(together[k])) <= LOSS_TOLERANCE * max(1.0, abs(alone)),
                    f"loss of stage {stage.name}: clip {k} has {float(together[k]):.6f} in a batch, {alone:.6f} alone; "
                    "normalise and average within each clip only (no batch norm), with one draw a clip",
                )


def check_sample(subject: Subject) -> None:
    """Clips have the right shape and range, and each follows from its own seed."""
    method, d = subject.shaken(), subject.experiment.data
    clips, wanted = subject.clips(method, SEEDS), (len(SEEDS), d.frames, 3, d.resolution, d.resolution)
    require(tuple(clips.shape) == wanted, f"sample: got {tuple(clips.shape)}, wanted (n, F, 3, H, W) = {wanted}")
    require(clips.dtype == torch.float32, f"sample: got {clips.dtype}, wanted float32")
    require(
        bool(clips.isfinite().all()),
        "sample: values that are not finite; set sampling.clip_denoised or check the scale",
    )
    require(float(clips.abs().max()) <= 1, f"sample: values up to {float(clips.abs().max()):.3f}; clamp to [-1, 1]")
    grey = [to_uint8(clip).astype(int) for clip in clips]
    require((grey[0] != grey[1]).any(), "sample: seeds 3 and 11 give one clip; draw noise from ClipDraws(seeds)")
    away = np.stack([np.abs(to_uint8(subject.clips(method, [s])[0]) - grey[k]) for k, s in enumerate(SEEDS)])
    # Rounding may lift a value over the edge between two grey levels, rarely; anything more is a neighbour's doing.
    require(
        away.max() <= 1 and (away > 0).mean() <= 1e-3,
        f"sample: a seed alone differs from itself in a batch, by up to {away.max()} grey levels in "
        f"{100 * (away > 0).mean():.2f} % of values; clip k may depend on seeds[k], classes[k] and condition[k] only",
    )


def check_refusals(subject: Subject) -> None:
    """A task, chain or condition that the method does not have is a ValueError; a chain it has is as long as asked."""
    method, d, sampling = subject.build(0).eval(), subject.experiment.data, subject.sampling
    clip, classes = torch.zeros(1, d.frames, 3, d.resolution, d.resolution), subject.classes(1)
    chained = outcome(lambda: method.sample([0], classes, replace(sampling, num_clips_chained=2)))
    right = chained is ValueError or (isinstance(chained, Tensor) and chained.shape[1] == 2 * d.frames)
    require(right, "sample: num_clips_chained=2 must give 2 F frames or a ValueError; see VideoMethod.check_generation")
    wrong = {"a task it does not have": ("no-such-task", None), "a condition for task generation": ("generation", clip)}
    wrong |= {f"task {task} without a condition": (task, None) for task in method.tasks if task != "generation"}
    for what, (task, condition) in wrong.items():
        got = outcome(lambda t=task, c=condition: method.sample([0], classes, replace(sampling, task=t), c))
        require(
            got is ValueError,
            f"sample: {what} must be a ValueError, got {'clips' if isinstance(got, Tensor) else got.__name__}; call "
            "self.check_generation(sampling, condition) first, or check it yourself",
        )


def outcome(call: Callable[[], Tensor]) -> Tensor | type[Exception]:
    """What a call gives, or ValueError, or the type of another exception."""
    try:
        return call()
    except ValueError:
        return ValueError
    except Exception as error:  # any other kind is what the check is to find
        return type(error)


def check_state_dict(subject: Subject) -> None:
    """A method built from another seed makes the same clips once it has the state dict: all is in it."""
    method, other = subject.shaken(), subject.build(1)
    other.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    same = torch.equal(subject.clips(method, SEEDS[:1]), subject.clips(other, SEEDS[:1]))
    require(
        same,
        "state_dict: loaded into a new method it gives other clips; register networks as modules (no plain list) "
        "and constants as buffers",
    )


def check_declared(subject: Subject) -> None:
    """What the method says of itself is text; its tasks are a tuple of names."""
    method = subject.build(0)
    texts = isinstance(method.declared, Mapping) and all(
        isinstance(part, str) for item in method.declared.items() for part in item
    )
    require(texts, f"declared: got {method.declared!r}, wanted a mapping of a name to a few words")
    named = isinstance(method.tasks, tuple) and all(isinstance(task, str) for task in method.tasks) and method.tasks
    require(bool(named), f'tasks: got {method.tasks!r}, wanted a tuple of names, such as ("generation",)')


OF_A_METHOD = (
    check_loss,
    check_gradients,
    check_own_draws,
    check_loss_of_a_clip_alone,
    check_sample,
    check_refusals,
    check_state_dict,
    check_declared,
)
