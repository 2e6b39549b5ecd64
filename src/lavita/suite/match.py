"""Sizes of a baseline by a reference's parameter count: model.match_params=<method> resolved to depth and width."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from lavita.config.compose import Experiment, load_yaml
from lavita.config.plan import experiment_from_dict, make_plan
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError
from lavita.executors.process import environment_of_processes

WIDTH_RANGE, DEPTH_RANGE, TOLERANCE = 0.25, 0.5, 0.05
KEY = "match_params"


def match_parameters(
    experiments: Sequence[Experiment], overrides: Sequence[str]
) -> tuple[list[Experiment], dict[str, str]]:
    """`resolve` in a process of its own, where some run wants it, since it needs torch. Raises ConfigError."""
    if not any(experiment.model.get(KEY) for experiment in experiments):
        return list(experiments), {}
    spec = json.dumps({"experiments": [asdict(one) for one in experiments], "overrides": list(overrides)})
    command = [sys.executable, "-m", "lavita.suite.match"]
    done = subprocess.run(command, input=spec, capture_output=True, text=True, env=environment_of_processes({}))
    if done.returncode:
        raise ConfigError(done.stderr.strip().splitlines()[-1].removeprefix("lavita.config.schema.ConfigError: "))
    found = json.loads(done.stdout)
    return [experiment_from_dict(values) for values in found["experiments"]], found["flags"]


def resolve(experiments: Sequence[Experiment], overrides: Sequence[str]) -> tuple[list[Experiment], dict[str, str]]:
    """The experiments with depth, width and heads in place of model.match_params' wish, and flags by label.

    Of the widths (in steps of the named size's head width, or of the method's own Config.width_step) within 25 % and
    depths within 50 % of the named size, those nearest to the reference's trained parameters. A row that is more than
    5 % off is flagged. overrides are the command line's, which shape the reference too. Raises ConfigError for an
    unknown reference or a method without sizes.
    """
    sizes: dict[str, tuple[dict, str]] = {}
    resolved = []
    for experiment in experiments:
        if experiment.model.get(KEY):
            if experiment.label not in sizes:
                sizes[experiment.label] = nearest_size(experiment, overrides)
            experiment = replace(experiment, model=experiment.model | sizes[experiment.label][0])
        resolved.append(experiment)
    return resolved, {label: flag for label, (_, flag) in sizes.items() if flag}


def nearest_size(experiment: Experiment, overrides: Sequence[str]) -> tuple[dict[str, int], str]:
    """(depth, width and num_heads for a run's model section, what to flag or "")."""
    reference = experiment.model[KEY]
    if reference not in names_in("methods"):
        from lavita.config.schema import nearest

        raise ConfigError(f"model.{KEY}: unknown method {reference!r}: {nearest(reference, names_in('methods'))}")
    others = [item for item in overrides if not item.startswith((f"model.{KEY}=", "model.depth=", "model.width="))]
    # Both methods are composed, so that a key of one alone is known; only the reference is looked at.
    plan = make_plan(experiment.suite, experiment.tier, [reference, experiment.method], [0], others)
    wanted = trained_parameters(next(one for one in plan if one.method == reference))
    base = built(replace(experiment, model=experiment.model | {KEY: None})).config
    if not hasattr(base, "numbers"):
        raise ConfigError(f"model.{KEY}: {experiment.method} has no depth and width of its own to choose")
    depth, width, heads = base.numbers()
    step = getattr(base, "width_step", width // heads)
    candidates = []
    for wider in range(step, 2 * width + 1, step):
        if abs(wider / width - 1) > WIDTH_RANGE:
            continue
        num_heads = heads if hasattr(base, "width_step") else wider // step
        # Parameters grow by the same amount with every block, so two depths tell all of them.
        one, two = (trained_parameters(sized(experiment, blocks, wider, num_heads)) for blocks in (1, 2))
        low, high = max(1, round(depth * (1 - DEPTH_RANGE))), round(depth * (1 + DEPTH_RANGE))
        blocks = min(max(round((wanted - one) / (two - one)) + 1, low), high)
        count = one + (blocks - 1) * (two - one)
        candidates.append((abs(count - wanted), abs(wider - width), blocks, wider, num_heads, count))
    _, _, blocks, wider, num_heads, count = min(candidates)
    off = count / wanted - 1
    flag = ""
    if abs(off) > TOLERANCE:
        flag = f"{count / 1e6:.4g} M parameters, {abs(off):.1%} {'above' if off > 0 else 'below'} {reference}'s"
    return {"depth": blocks, "width": wider, "num_heads": num_heads}, flag


def sized(experiment: Experiment, depth: int, width: int, num_heads: int) -> Experiment:
    """An experiment at another size."""
    return replace(
        experiment, model=experiment.model | {KEY: None, "depth": depth, "width": width, "num_heads": num_heads}
    )


def built(experiment: Experiment):
    """The method of a run as shapes alone."""
    import torch

    from lavita.methods.build import build_method, empty_codec

    facts = load_yaml("datasets", experiment.data.dataset)
    with torch.device("meta"):
        return build_method(experiment, facts["num_classes"], empty_codec(experiment.codec))


def trained_parameters(experiment: Experiment) -> int:
    """Parameters that training moves in the network that a run samples with."""
    return sum(parameter.numel() for parameter in built(experiment).denoiser_parameters())


if __name__ == "__main__":
    given = json.load(sys.stdin)
    found, flags = resolve([experiment_from_dict(values) for values in given["experiments"]], given["overrides"])
    json.dump({"experiments": [asdict(one) for one in found], "flags": flags}, sys.stdout)
