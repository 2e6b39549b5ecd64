"""The plan of a suite: which runs, with which configuration, and what deviates from the authors' settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import OmegaConf

from lavita.config.compose import (
    SECTIONS,
    TIER_SECTIONS,
    TIERS,
    Experiment,
    apply_changes,
    compose,
    flat_keys,
    load_method,
    load_suite,
    own_resolution,
    read_experiment,
    rows_of_suite,
    seeds_of_suite,
)
from lavita.config.overrides import apply_overrides, is_synthetic
from lavita.config.plain_yaml import read_yaml
from lavita.config.registry import names_in
from lavita.config.schema import ConfigError, nearest, one_of, read
from lavita.files import atomic_write_text


def make_plan(
    suite_name: str, tier: str, methods: Sequence[str] | None, seeds: Sequence[int] | None, overrides: Sequence[str]
) -> list[Experiment]:
    """One Experiment per row and seed, in the order of the table; seeds None means the suite's. Raises ConfigError.

    methods picks rows by name (<method>[-<choice>]), or all rows of a method that is no row's name; None means the
    suite's, without methods on request.
    """
    suite = load_suite(suite_name)
    one_of("--tier", tier, TIERS)
    rows = rows_of_suite(suite, tier, names_in("methods") if methods else ())
    known = list(dict.fromkeys([row.label for row in rows] + [row.method for row in rows]))
    for name in methods or ():
        if name not in known:
            raise ConfigError(
                f"unknown method {name!r} in suite {suite_name}: {nearest(name, known)} (known: {', '.join(known)})"
            )
    labels = {row.label for row in rows}
    chosen = [r for r in rows if not methods or r.label in methods or r.method in set(methods) - labels]
    specs = {row.method: load_method(row.method) for row in chosen}
    configs = {name: compose(suite, tier, spec, is_synthetic(overrides)) for name, spec in specs.items()}
    every_key = {key for config in configs.values() for key in flat_keys(config)}
    experiments = []
    for row in chosen:
        own = set(flat_keys(configs[row.method]))
        config = apply_overrides(configs[row.method], overrides, every_key - own, specs[row.method].weight_files)
        config = apply_changes(config, row, f"suites/{suite_name}")
        for seed in seeds if seeds is not None else seeds_of_suite(suite, tier):
            experiments.append(read_experiment(suite, tier, specs[row.method], row.choice, seed, config))
    if any(experiment.fairness.batch == "equal" for experiment in experiments):
        experiments = with_equal_batch(experiments, every_first(suite_name, tier, overrides))
    own = {name for name, spec in specs.items() if own_resolution(spec, tier, is_synthetic(overrides))}
    check_identical(experiments, {row.label: set(row.changes) for row in chosen}, own)
    return experiments


def every_first(suite_name: str, tier: str, overrides: Sequence[str]) -> int:
    """The batch of the suite's first row, in clips, whichever rows a run picks."""
    suite = load_suite(suite_name)
    row = rows_of_suite(suite, tier)[0]
    method = load_method(row.method)
    config = compose(suite, tier, method, is_synthetic(overrides))
    changed = {item.partition("=")[0] for item in overrides}
    config = apply_overrides(config, overrides, changed - set(flat_keys(config)), method.weight_files)
    return int(apply_changes(config, row, f"suites/{suite_name}").train.batch_clips)


def with_equal_batch(experiments: Sequence[Experiment], batch_clips: int) -> list[Experiment]:
    """The runs with one batch in their last stage; that of a first stage of a method's own stays its own."""
    return [replace(experiment, train=replace(experiment.train, batch_clips=batch_clips)) for experiment in experiments]


def check_identical(
    experiments: Sequence[Experiment], varied: Mapping[str, set[str]], own: Collection[str] = ()
) -> None:
    """What fairness.md wants identical must be, except in sections that a row of the suite varies by name, and but for
    the resolution of methods that have one of their own.
    """
    first = experiments[0]
    for experiment in experiments[1:]:
        allowed = varied[experiment.label] | varied[first.label]
        like = resized(experiment, first) if {experiment.method, first.method} & set(own) else experiment
        for section in {"data", "budget", "fairness", "codec", "compute", "extractor", "protocol"} - allowed:
            if getattr(like, section) != getattr(first, section):
                raise ConfigError(f"{section} of {experiment.label} differs from that of {first.label}")


def resized(experiment: Experiment, other: Experiment) -> Experiment:
    """An experiment as it would be at another one's resolution."""
    data = replace(experiment.data, resolution=other.data.resolution)
    name = other.protocol.name if experiment.data.resolution != data.resolution else experiment.protocol.name
    protocol = replace(experiment.protocol, resolution=other.protocol.resolution, name=name)
    return replace(experiment, data=data, protocol=protocol)


def deviations(experiment: Experiment) -> list[str]:
    """Every training and sampling value that is not the authors' own, as "train.learning_rate: 0.0001 -> 0.001"."""
    method = load_method(experiment.method)
    of_dataset = method.datasets.get(experiment.data.dataset) or {}
    found = []
    for section in TIER_SECTIONS:
        authors = getattr(method, section) | (of_dataset.get(section) or {})
        for key, value in asdict(getattr(experiment, section)).items():
            published = authors.get(key)
            if str(published) != str(value) and not same_number(published, value):
                found.append(f"{section}.{key}: {published} -> {value}")
    p = experiment.pretraining
    if p.method:
        found.append(f"pretraining: none -> {p.method} on {p.share:g} of the budget")
    found += [f"{key}: none -> an external file" for key in experiment.external_weights]
    authors = method.model | (of_dataset.get("model") or {})
    for key, value in experiment.model.items():
        if key not in experiment.weight_files and str(authors.get(key)) != str(value):
            found.append(f"model.{key}: {authors.get(key)} -> {value}")
    return found


def same_number(a: object, b: object) -> bool:
    return isinstance(a, int | float) and isinstance(b, int | float) and float(a) == float(b)


def write_config(experiment: Experiment, path: Path) -> None:
    """The resolved configuration as YAML, complete: `read_config` gives the same Experiment back."""
    atomic_write_text(path, OmegaConf.to_yaml(OmegaConf.create(asdict(experiment))))


def read_config(path: Path) -> Experiment:
    """An Experiment from a file that `write_config` wrote."""
    return experiment_from_dict(read_yaml(path))


def experiment_from_dict(values: dict) -> Experiment:
    """An Experiment from the plain mapping that dataclasses.asdict makes of one. Raises ConfigError."""
    parts = {key: read(SECTIONS[key], value, key) if key in SECTIONS else value for key, value in values.items()}
    try:
        return Experiment(**parts | {"weight_files": dict(values.get("weight_files", {}))})
    except TypeError as error:
        raise ConfigError(f"configuration of a run: {str(error).removeprefix('Experiment.__init__() ')}") from None
