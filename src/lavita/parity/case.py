"""A parity case: recorded figures of an official system; weights and inputs are formulas over names."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Z_CALL = re.compile(r'z\("([^"]+)", \[([\d, ]+)\]\)')


class CaseError(ValueError):
    """A case that cannot be read: one line naming the file and what is wrong."""


def z(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values that depend on the name only, float32 of the given shape."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """One file of figures. data is its JSON object; name and system are strings of it."""

    path: Path
    name: str
    system: str
    data: dict[str, Any]

    def get(self, *keys: str) -> Any:
        """The entry under nested keys. Raises CaseError naming the first that is missing."""
        value: Any = self.data
        for position, key in enumerate(keys):
            if not isinstance(value, dict) or key not in value:
                raise CaseError(f"{self.path}: no entry {'.'.join(keys[: position + 1])!r}")
            value = value[key]
        return value

    def expression(self, key: str, pattern: str) -> tuple[np.ndarray, re.Match[str]]:
        """An input written with z, as (the array of its z call, the match of `pattern` on the whole text).

        In pattern, Z stands for the call. Raises CaseError where the text has another form: a guess would
        compare figures of different inputs.
        """
        text = str(self.get("inputs", key))
        match = re.fullmatch(pattern.replace("Z", f"(?:{strip_groups(Z_CALL.pattern)})"), text)
        call = Z_CALL.search(text)
        if match is None or call is None:
            raise CaseError(f"{self.path}: input {key!r} has an unknown form: {text[:80]!r}")
        return z(call[1], tuple(int(size) for size in call[2].split(","))), match

    def array(self, key: str) -> np.ndarray:
        """An input that is a plain z call, float32; what follows a colon is a remark."""
        return self.expression(key, "Z(?::.*)?")[0]


def strip_groups(pattern: str) -> str:
    """A pattern with its capturing groups made non-capturing, so that callers number their own."""
    return re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)


def read_case(path: Path) -> Case:
    """Read a case. Raises CaseError for a file that is missing, no JSON, or no case."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror}); give the JSON file of a case") from error
    except ValueError as error:
        raise CaseError(f"{path}: is no JSON ({error}); give the JSON file of a case") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("case", "system")):
        raise CaseError(f'{path}: is no parity case; wanted a JSON object with strings "case" and "system"')
    if not isinstance(data.get("outputs"), dict) or not data["outputs"]:
        raise CaseError(f'{path}: is no parity case; wanted recorded figures under "outputs"')
    return Case(path, data["case"], data["system"], data)
