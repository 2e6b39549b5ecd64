"""The only reader of YAML: plain values, or one line that names the file, the line and what is wrong there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lavita.config.schema import ConfigError

WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+|[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
MOST_VALUES = 100_000  # of one file; aliases of aliases can stand for any number


class PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, but 1e-4 is a number, dates, 1:30 and 010 stay texts, and a key stands once."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":timestamp", ":int", ":float"))]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", WHOLE, list("-+0123456789"))
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def read_yaml(path: Path, where: str = "") -> Any:
    """The content of a YAML file, a mapping or a list; 1e-4 is a number, an empty file an empty mapping. where: what
    messages call the file, its path where none is given.

    Raises ConfigError, one line with the number of the wrong line, for a file that is not there, not UTF-8 or no YAML,
    for a key that stands twice, for tags of Python objects (!!python/...), and for references (${...}): OmegaConf
    would replace them by environment variables and other values.
    """
    where = where or str(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(f"{error.problem or error.context}".split())
        raise ConfigError(f"{where}: {f'line {mark.line + 1}: ' if mark else ''}{said}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # no UTF-8, control characters, 10,000 brackets
        raise ConfigError(f"{where}: {' '.join(str(error).split()) or type(error).__name__}") from None
    values = {} if values is None else values
    if not isinstance(values, dict | list):
        raise ConfigError(f"{where}: got {str(values)[:80]!r}, wanted a mapping, lines of `key: value`")
    for number, (key, value) in enumerate(plain_values(values)):
        if number > MOST_VALUES:
            raise ConfigError(f"{where}: more than {MOST_VALUES} values, or a list that holds itself")
        if not isinstance(value, str | int | float | None):
            raise ConfigError(f"{where}: {key} is a {type(value).__name__}, wanted a text, number, list or mapping")
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{where}: {key} is {value[:80]!r}, a reference; write the value itself")
    return values


def plain_values(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings and lists with its dotted key; keys are among them."""
    waiting = [(values, key)]
    while waiting:
        one, name = waiting.pop()
        if isinstance(one, dict):
            for part, value in one.items():
                yield f"a key of {name or 'the file'}", part
                waiting.append((value, f"{name}.{part}" if name else str(part)))
        elif isinstance(one, list):
            waiting += [(value, f"{name}[{number}]") for number, value in enumerate(one)]
            yield name, None
        else:
            yield name, one
