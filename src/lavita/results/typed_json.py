"""Frozen dataclasses as JSON and back: every value is checked, so that a wrong file is one line that names the key."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lavita.config.schema import nearest
from lavita.files import atomic_write_text

T = TypeVar("T")
SHOWN = 80  # letters of a wrong value in a message


def to_json(value: Any) -> Any:
    """Plain values that json can write: of a dataclass a mapping, of a path its text. A field that is None stands there
    only where it must be given.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: to_json(one) for field, one in pairs if one is not None or field.default is not None}
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[T], value: Any, where: str, key: str = "") -> T:
    """The dataclass `kind` of a mapping; a field with a default may be missing. Numbers stay as they are written.

    where: the file, for messages; key: the entry of it that is read. Raises ValueError, one line that names both, for
    an unknown or missing key and for a value of another type.
    """
    if not isinstance(value, Mapping):
        raise wrong(where, key, value, "a mapping")
    hints, fields = hints_of(kind), {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in value:
        if name not in fields:
            raise ValueError(f"{where}: unknown key {dotted(key, str(name))[:SHOWN]!r}: {nearest(str(name), fields)}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise ValueError(f"{where}: key {dotted(key, name)!r} is missing")
    found = {name: converted(hints[name], one, where, dotted(key, name)) for name, one in value.items()}
    try:
        return kind(**found)
    except ValueError as error:  # what the class itself checks
        raise ValueError(f"{where}: {key + ': ' if key else ''}{error}") from None


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind)


def dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def wrong(where: str, key: str, value: Any, wanted: str) -> ValueError:
    """The error for a value of another type."""
    entry = f"{where}: {key}" if key else where
    return ValueError(f"{entry}: got {repr(value)[:SHOWN]}, wanted {wanted}")


def converted(hint: Any, value: Any, where: str, key: str) -> Any:
    """A plain value as its type hint says. Raises ValueError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return one_of_several(arguments, value, where, key)
    if origin is tuple:
        return tuple_of(arguments, value, where, key)
    if origin is list:
        if not isinstance(value, list):
            raise wrong(where, key, value, "a list")
        return [converted(arguments[0], one, where, f"{key}[{at}]") for at, one in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong(where, key, value, "a mapping")
        return {name: converted(arguments[1], one, where, dotted(key, str(name))) for name, one in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_json(hint, value, where, key)
    if hint is Any or is_plainly(hint, value):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise wrong(where, key, value, name_of(hint))


def is_plainly(hint: Any, value: Any) -> bool:
    """Whether a value is of a plain type; a bool is no number, an int counts as a float."""
    if hint is type(None) or isinstance(value, bool):
        return value is None if hint is type(None) else hint is bool
    return isinstance(value, int | float) if hint is float else hint in (int, str) and isinstance(value, hint)


def one_of_several(hints: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    """A value of one of several types, the first that fits; of one type or None the message is that of the type."""
    if value is None and type(None) in hints:
        return None
    others = [hint for hint in hints if hint is not type(None)]
    if len(others) == 1:
        return converted(others[0], value, where, key)
    for hint in others:
        if is_plainly(hint, value):
            return value
    raise wrong(where, key, value, " or ".join(name_of(hint) for hint in hints))


def tuple_of(hints: tuple[Any, ...], value: Any, where: str, key: str) -> tuple[Any, ...]:
    """A list as a tuple: of any length for tuple[X, ...], else of its types one by one."""
    if not isinstance(value, list | tuple):
        raise wrong(where, key, value, "a list")
    every = (hints[0],) * len(value) if len(hints) == 2 and hints[1] is Ellipsis else hints
    if len(every) != len(value):
        raise wrong(where, key, value, f"a list of {len(every)}")
    return tuple(
        converted(hint, one, where, f"{key}[{at}]") for at, (hint, one) in enumerate(zip(every, value, strict=True))
    )


def name_of(hint: Any) -> str:
    """A type in the words of a message."""
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return "null" if hint is type(None) else names.get(hint, getattr(hint, "__name__", str(hint)))


def read_values(path: Path, what: str, advice: str = "") -> dict[str, Any]:
    """The mapping that a JSON file holds. what: it should be; advice: what to do else. Raises ValueError, OSError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not {what} ({error}){advice}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not {what} but a {type(values).__name__}")
    return values


def write_values(path: Path, values: Mapping[str, Any], sort: bool = True) -> None:
    """A mapping as a JSON file, whole. sort: its keys, else they stand in their order."""
    atomic_write_text(path, json.dumps(values, indent=1, sort_keys=sort) + "\n")
