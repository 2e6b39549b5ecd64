"""Reads configs/ and composes a run's configuration: method, then tier, data set, suite, command line."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from lavita.config.plain_yaml import read_yaml
from lavita.config.protocol import Protocol
from lavita.config.registry import config_path, implementation_folder, names_in
from lavita.config.schema import (
    GENERATION,
    BudgetConfig,
    CheckpointConfig,
    CodecConfig,
    ComputeConfig,
    ConfigError,
    DataConfig,
    ExtractorConfig,
    FairnessConfig,
    PretrainingConfig,
    SamplingConfig,
    TrainConfig,
    WeightsConfig,
    check_model,
    nearest,
    one_of,
    read,
)

TIERS = ("paper", "small", "demo")
SECTIONS = {
    "data": DataConfig,
    "budget": BudgetConfig,
    "fairness": FairnessConfig,
    "codec": CodecConfig,
    "pretraining": PretrainingConfig,
    "train": TrainConfig,
    "compute": ComputeConfig,
    "checkpoint": CheckpointConfig,
    "sampling": SamplingConfig,
    "extractor": ExtractorConfig,
    "weights": WeightsConfig,
    "protocol": Protocol,
}
# Fields of a protocol that a run can follow in one way only, since it makes and keeps its clips in that way.
OF_A_RUN = {
    "resize_filter": "pillow-bicubic-antialiased", "resize_where": "loader", "crop": "centre", "mirror": False,
    "clip_selection": "windows", "precision": "float64", "real_codec": "lossless", "generated_codec": "lossless",
    "real_preprocess": "inside", "generated_preprocess": "inside",
}  # fmt: skip
TIER_SECTIONS = ("train", "sampling")  # sections in which a tier below paper replaces the authors' values


@dataclass(frozen=True)
class RowSpec:
    """A row of a suite: a method and, where the suite varies a choice, the choice's name and changes."""

    method: str
    choice: str
    changes: dict

    @property
    def label(self) -> str:
        """The row's name: <method>[-<choice>]."""
        return f"{self.method}-{self.choice}" if self.choice else self.method


@dataclass(frozen=True)
class SuiteSpec:
    """A comparison: which data set, whether classes are given, and what it says of itself.

    rows null: every method that takes part. Else a list of {method, choice, changes}, compared with the first, where
    choice and changes may be absent; tiers.<tier>.rows takes its place. seeds: the training seeds, where the command
    line gives none; tiers.<tier>.seeds takes their place.
    """

    name: str
    title: str
    dataset: str
    conditioning: str
    guidance: float
    seeds: tuple[int, ...]
    rows: list | None
    tiers: dict

    def __post_init__(self) -> None:
        one_of(f"suites/{self.name}.conditioning", self.conditioning, ("none", "class"))


@dataclass(frozen=True)
class MethodSpec:
    """A method's file: what implements it, its authors' settings, and its numbers at the smaller tiers.

    tiers.<tier> holds `model` and, where the method is trained at a resolution of its own at that tier, `data:
    {resolution: N}`; `synthetic` in it holds the same two for synthetic videos.

    Four keys may be absent. weight_files: keys of model that name files of external weights, with where these come
    from. published_as: under which names results/reported.csv has the method at its published setting, "METHOD" or
    "METHOD: VARIANT". reader_note: what a reader must know who meets its row, in one sentence without a full stop.
    on_request: the method is among a suite's rows only where it is asked for by name.
    """

    name: str
    title: str
    implementation: str
    order: int
    suites: tuple[str, ...]
    provenance: str
    weight_files: dict
    published_as: tuple[str, ...]
    reader_note: str
    on_request: bool
    model: dict
    train: dict
    sampling: dict
    datasets: dict
    tiers: dict


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run's numbers. model stays plain; the method reads it."""

    suite: str
    tier: str
    method: str
    implementation: str
    choice: str
    seed: int
    conditioning: str
    data: DataConfig
    budget: BudgetConfig
    fairness: FairnessConfig
    codec: CodecConfig
    model: dict
    pretraining: PretrainingConfig
    train: TrainConfig
    compute: ComputeConfig
    checkpoint: CheckpointConfig
    sampling: SamplingConfig
    extractor: ExtractorConfig
    weights: WeightsConfig
    protocol: Protocol
    weight_files: dict = field(default_factory=dict)

    @property
    def external_weights(self) -> dict[str, str]:
        """Files of weights that the suite did not train and that training uses, by configuration key."""
        files = {f"model.{key}": self.model[key] for key in self.weight_files}
        files["pretraining.checkpoint"] = self.pretraining.checkpoint
        return {key: path for key, path in files.items() if path}

    @property
    def division(self) -> str:
        """open where the run uses weights that the suite did not train."""
        return "open" if self.codec.kind == "kl" or self.external_weights else "closed"

    @property
    def origins(self) -> dict[str, str]:
        """Where the files of `external_weights` come from, in words, by the same keys."""
        known = {f"model.{key}": origin for key, origin in self.weight_files.items()}
        return known | {"pretraining.checkpoint": self.pretraining.origin or ""}

    @property
    def conditions(self) -> str:
        """What clips are made from besides noise: none, class, a task's name, or class+task."""
        words = [self.conditioning] if self.conditioning != "none" else []
        words += [self.sampling.task] if self.sampling.task != GENERATION else []
        return "+".join(words) or "none"

    @property
    def label(self) -> str:
        """The row's name in tables: <method>[-<choice>]."""
        return f"{self.method}-{self.choice}" if self.choice else self.method

    @property
    def cell(self) -> str:
        return f"{self.label}-s{self.seed}"


def load_yaml(kind: str, name: str) -> dict[str, Any]:
    """The plain content of configs/<kind>/<name>.yaml. Raises ConfigError in one line."""
    values = read_yaml(config_path(kind, name), f"configs/{kind}/{name}.yaml")
    if not isinstance(values, dict):
        raise ConfigError(f"configs/{kind}/{name}.yaml: wanted a mapping, got {type(values).__name__}")
    return values


def read_protocol(name: str, changes: dict[str, Any] | None = None) -> Protocol:
    """A preset of configs/protocols with changes, under a name that says them. Raises ConfigError."""
    protocol = Protocol.from_dict(load_yaml("protocols", name) | {"name": name})
    return protocol.derive(**changes) if changes else protocol


def load_suite(name: str) -> SuiteSpec:
    return read(SuiteSpec, load_yaml("suites", name), f"suites/{name}")


def load_method(name: str) -> MethodSpec:
    absent: dict[str, Any] = {"weight_files": {}, "published_as": [], "reader_note": "", "on_request": False}
    spec = read(MethodSpec, absent | load_yaml("methods", name), f"methods/{name}")
    for key in spec.weight_files:
        if key not in spec.model:
            raise ConfigError(f"methods/{name}.weight_files: model has no {key}: {nearest(key, spec.model)}")
    implementation_folder(spec.implementation)
    return spec


def rows_of_suite(suite: SuiteSpec, tier: str, asked: Collection[str] = ()) -> list[RowSpec]:
    """The rows of a suite at a tier, in the order of the table. Raises ConfigError.

    asked: methods that are wanted by name, among them those that are no row otherwise (on_request).
    """
    rows = (suite.tiers.get(tier) or {}).get("rows", suite.rows)
    if rows is not None:
        where = f"suites/{suite.name}.rows"
        return [read(RowSpec, {"choice": "", "changes": {}} | row, where) for row in rows]
    specs = [load_method(name) for name in names_in("methods")]
    wanted = [spec for spec in specs if not spec.on_request or spec.name in asked]
    taking_part = [spec for spec in wanted if "all" in spec.suites or suite.name in spec.suites]
    return [RowSpec(s.name, "", {}) for s in sorted(taking_part, key=lambda spec: (spec.order, spec.name))]


def seeds_of_suite(suite: SuiteSpec, tier: str) -> list[int]:
    """The training seeds of a suite at a tier, where the command line gives none."""
    return list((suite.tiers.get(tier) or {}).get("seeds", suite.seeds))


def as_mapping(config: Any) -> DictConfig:
    """A configuration that is a mapping, as all of ours are."""
    assert isinstance(config, DictConfig)
    return config


def merged(*layers: dict[str, Any]) -> DictConfig:
    return as_mapping(OmegaConf.merge(*[OmegaConf.create(layer) for layer in layers]))


SYNTHETIC = "synthetic"  # in a tier's file, and in what a method or a suite says of the tier: sizes without data.root


def with_synthetic(values: dict[str, Any], synthetic: bool) -> list[dict[str, Any]]:
    """What a tier's file, a method or a suite says of a tier, as layers: that for synthetic videos last, if wanted."""
    general = {key: value for key, value in values.items() if key != SYNTHETIC}
    return [general, values.get(SYNTHETIC) or {}] if synthetic else [general]


def of_tier(method: MethodSpec, tier: str, synthetic: bool) -> list[dict[str, Any]]:
    """What a method says of a tier, as layers: sizes, and its own resolution. Raises ConfigError for anything else."""
    layers = with_synthetic(method.tiers.get(tier) or {}, synthetic)
    for layer in layers:
        where = f"methods/{method.name}.tiers.{tier}"
        for key in layer:
            one_of(f"a key of {where}", key, ("model", "data"))
        for key in layer.get("data", {}):
            one_of(f"a key of {where}.data", key, ("resolution",))
    return layers


def own_resolution(method: MethodSpec, tier: str, synthetic: bool) -> int | None:
    """The resolution at which a method is trained and scored at a tier, where it is not the tier's: its rows are of
    another setting then, and stand in a table of their own.
    """
    given = [layer["data"]["resolution"] for layer in of_tier(method, tier, synthetic) if "data" in layer]
    return given[-1] if given else None


def compose(suite: SuiteSpec, tier: str, method: MethodSpec, synthetic: bool) -> DictConfig:
    """The run's configuration before the command line's overrides; synthetic: for the videos that the code draws."""
    tier_values = load_yaml("tiers", tier)
    protocol_name = tier_values.pop("protocol_name")
    sizes = [{"model": layer.get("model", {})} for layer in of_tier(method, tier, synthetic)]
    side = own_resolution(method, tier, synthetic)
    own = {section: {"resolution": side} for section in ("data", "protocol")} if side else {}
    of_suite = {key: value for key, value in (suite.tiers.get(tier) or {}).items() if key not in ("rows", "seeds")}
    dataset = load_yaml("datasets", suite.dataset)
    protocol = load_yaml("protocols", protocol_name) | {"name": protocol_name}
    known = ("flip", "short_videos", "fold", "frame_choice")
    facts = {"data": {"dataset": suite.dataset} | {key: dataset[key] for key in known}}
    authors = {"model": method.model, "train": method.train, "sampling": method.sampling}
    config = merged(
        authors,
        method.datasets.get(suite.dataset) or {},
        *sizes,
        {"protocol": protocol},
        *with_synthetic(tier_values, synthetic),
        own,
        facts,
        {"sampling": {"guidance": suite.guidance}},
        *with_synthetic(of_suite, synthetic),
    )
    return config


def apply_changes(config: DictConfig, row: RowSpec, where: str) -> DictConfig:
    """The configuration with what a row of the suite changes. Raises ConfigError for a key that is not there."""
    known, changes = flat_keys(config), OmegaConf.create(row.changes)
    for key in flat_keys(changes):
        if key not in known:
            raise ConfigError(f"{where}, row {row.label}: unknown key {key}: {nearest(key, known)}")
    return as_mapping(OmegaConf.merge(config, changes))


def flat_keys(config: DictConfig) -> list[str]:
    """Every "section.key" of a configuration."""
    plain = cast(dict[str, dict[str, Any]], config)
    return [f"{section}.{key}" for section, values in plain.items() for key in values]


def read_experiment(
    suite: SuiteSpec, tier: str, method: MethodSpec, choice: str, seed: int, config: DictConfig
) -> Experiment:
    """The frozen configuration of a run. Raises ConfigError at the first wrong value."""
    plain = cast(dict[str, Any], OmegaConf.to_container(config))
    for section in plain:
        if section not in {*SECTIONS, "model"}:
            raise ConfigError(f"unknown section {section!r}: {nearest(section, [*SECTIONS, 'model'])}")
    sections: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        if name != "protocol":
            sections[name] = read(cls, plain[name], name)
    if sections["codec"].kind == "pixels" and sections["data"].latent_cache is True:
        raise ConfigError("data.latent_cache: got true, but pixels have no latents to store; set auto or false")
    check_model(plain["model"], method.model)
    return Experiment(
        suite=suite.name,
        tier=tier,
        method=method.name,
        implementation=method.implementation,
        choice=choice,
        seed=seed,
        conditioning=suite.conditioning,
        model=plain["model"],
        protocol=named_protocol(plain),
        weight_files=method.weight_files,
        **sections,
    )


def named_protocol(plain: dict[str, Any]) -> Protocol:
    """The protocol of a run; wherever it differs from the file of its name, its own name says so."""
    wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in plain["protocol"].items()}
    name = wanted["name"]
    base = Protocol.from_dict(load_yaml("protocols", str(name)) | {"name": name})
    if plain["weights"]["i3d"]:
        wanted["extractor"] = "i3d"
    if plain["weights"]["c3d"]:
        wanted["is_extractor"] = "c3d"
    changes = {key: value for key, value in wanted.items() if value != getattr(base, key, value)}
    if changes.get("n_real") == changes.get("n_generated") is not None:
        changes["n"] = changes.pop("n_real")
        changes.pop("n_generated")
    protocol = base.derive(**changes) if changes else base
    for key, value in OF_A_RUN.items():
        if getattr(protocol, key) != value:
            raise ConfigError(
                f"protocol.{key}: a run scores with {value}, got {getattr(protocol, key)}; score its clips with "
                "evaluate.py, which follows other protocols too"
            )
    chained = plain["sampling"]["num_clips_chained"]
    for ours, theirs in (("frames", "frames"), ("interval", "real_interval"), ("resolution", "resolution")):
        times = chained if ours == "frames" else 1
        if plain["data"][ours] * times != getattr(protocol, theirs):
            said = "" if times == 1 else f" and sampling.num_clips_chained {times}"
            raise ConfigError(
                f"data.{ours} is {plain['data'][ours]}{said} but protocol.{theirs} is {getattr(protocol, theirs)}: "
                "clips are scored as they are made; set both"
            )
    return protocol
