"""A YAML file -> plain values: no Python object is made, nothing is looked up in the environment or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lavita.config import ConfigError


def read_yaml(path: Path, where: str = "") -> Any:
    """The content of a YAML file; 1e-4 is a number. where: what messages call the file, its path where none is given.

    Raises ConfigError, one line, for a file that is not there or no YAML, for tags of Python objects (!!python/...),
    and for references (${...}): OmegaConf would replace them by environment variables and other values.
    """
    where = where or str(path)
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # the YAML reader raises many kinds; each is the user's one line
        raise ConfigError(f"{where}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    for key, text in texts(values):
        if "${" in text:
            raise ConfigError(f"{where}: {key} is {text[:80]!r}, a reference; write the value itself")
    return values


def texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of nested plain values with its dotted key; keys are among them."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"a key of {key or 'the file'}", str(name)
            yield from texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from texts(value, f"{key}[{number}]")
    elif isinstance(values, str):
        yield key, values
