"""`section.key=value` of a command line -> typed values, by the type of the key. No part of it is read as YAML."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Collection, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lavita.config.compose import SECTIONS, as_mapping, flat_keys
from lavita.config.protocol import Protocol
from lavita.config.schema import ConfigError, nearest

NULL = "null"
WHOLE = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
BOOLEANS = {"true": True, "false": False}
ANY = int | float | bool | str | None  # what a key without a declared type may be
WANTED = "wanted section.key=value, for example budget.clips=3200"


def split_override(override: str, wanted: str = WANTED) -> tuple[str, str]:
    """Key and text of an override. Raises ConfigError: no key, nothing after the equals sign, or a reference."""
    key, equals, text = override.partition("=")
    if not equals or "." not in key:
        raise ConfigError(f"override {override!r}: {wanted}")
    if not text.strip():
        raise ConfigError(f"override {override!r}: {key} is given but empty; give a value, or leave it out")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"override {key}={text.encode(errors='surrogateescape')!r}: no UTF-8; rename that folder")
    if "${" in text:
        raise ConfigError(f"override {override!r}: a reference; write the value itself")
    return key, text


def typed(text: str, hint: Any) -> Any:
    """The value that a text stands for where a key has the type hint.

    A key that takes a text gets it as it is, whatever it holds: ` #`, `a: b`, `[1`. null is None where the key may be
    None. A text that fits no type of the hint comes back as it is, for the reader of the section to refuse by name.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in options and text == NULL:
        return None
    if bool in options and text.lower() in BOOLEANS:
        return BOOLEANS[text.lower()]
    if int in options and WHOLE.fullmatch(text):
        return int(text)
    if float in options:
        try:
            return float(text)
        except ValueError:
            pass
    if any(typing.get_origin(option) is tuple for option in options):
        inner = next(typing.get_args(option)[0] for option in options if typing.get_origin(option) is tuple)
        return listed(text, inner)
    return text


def listed(text: str, inner: Any) -> Any:
    """The items of `[a,b]` or `a,b`, each of the type inner; items in JSON's quotes keep what is between them."""
    bare = text.strip()
    if bare.startswith("[") != bare.endswith("]"):
        return text
    try:
        items = json.loads(bare) if '"' in bare else None
    except ValueError:
        items = None
    if not isinstance(items, list):
        items = [part.strip() for part in bare.removeprefix("[").removesuffix("]").split(",") if part.strip()]
    return [typed(item, inner) if isinstance(item, str) else item for item in items]


def hint_of(key: str, current: Any, texts: Collection[str] = ()) -> Any:
    """The type of a key: declared by its section, else (section model, which its method declares) as its value is.

    texts: keys of model that name files.
    """
    section, _, name = key.partition(".")
    if section in SECTIONS:
        return typing.get_type_hints(SECTIONS[section])[name]
    if key.removeprefix("model.") in texts or isinstance(current, str):
        return str | None
    if OmegaConf.is_list(current) or isinstance(current, list | tuple):
        return tuple[ANY, ...]
    return ANY


def apply_overrides(
    config: DictConfig, overrides: Sequence[str], elsewhere: Collection[str] = (), texts: Collection[str] = ()
) -> DictConfig:
    """The configuration with `section.key=value` overrides. An unknown key is an error naming the nearest.

    Keys in `elsewhere` (other methods' model keys) are passed over; texts: keys of model that name files. Raises
    ConfigError.
    """
    known = flat_keys(config)
    config = as_mapping(OmegaConf.merge(config))  # a copy
    for override in overrides:
        key, text = split_override(override)
        if key not in known:
            if key in elsewhere:
                continue
            raise ConfigError(f"unknown key {key}: {nearest(key, known)}")
        section, _, name = key.partition(".")
        config[section][name] = typed(text, hint_of(key, config[section][name], texts))
    return config


def is_synthetic(overrides: Sequence[str]) -> bool:
    """Whether overrides name no folder of videos, so that those are used which the code draws."""
    roots = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == "data.root"]
    return not roots or typed(roots[-1], str | None) is None


def protocol_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """`protocol.key=value` overrides as changes for `Protocol.derive`; protocol.n sets both numbers of clips. Raises
    ConfigError.
    """
    hints = {field.name: typing.get_type_hints(Protocol)[field.name] for field in dataclasses.fields(Protocol)}
    hints = {"n": int} | {name: hint for name, hint in hints.items() if name != "name"}
    changes = {}
    for override in overrides:
        key, text = split_override(override, "wanted protocol.key=value, for example protocol.real_interval=6")
        name = key.removeprefix("protocol.")
        if name == key:
            raise ConfigError(f"override {override!r}: wanted protocol.key=value, for example protocol.real_interval=6")
        if name not in hints:
            raise ConfigError(f"unknown key {key}: {nearest(key, [f'protocol.{one}' for one in hints])}")
        changes[name] = typed(text, hints[name])
    return changes
