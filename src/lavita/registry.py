"""Finds methods by scanning: a folder in baselines/ with module.py, and a file in configs/methods/. No list is kept."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lavita.config import ConfigError, nearest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
BASELINES = ROOT / "baselines"
BUILT_IN = "lavita"


def names_in(kind: str) -> list[str]:
    """Names of the YAML files in configs/<kind>, sorted."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def config_path(kind: str, name: str) -> Path:
    """The file of a suite, tier, method, data set or protocol. Raises ConfigError naming the nearest known one."""
    known = names_in(kind)
    if name not in known:
        singular = kind[:-1]
        raise ConfigError(f"unknown {singular} {name!r}: {nearest(name, known)} (known: {', '.join(known)})")
    return CONFIGS / kind / f"{name}.yaml"


def implementation_folder(name: str) -> Path:
    """The folder whose module.py implements a method. Raises ConfigError where there is none."""
    folder = ROOT / "src" / "lavita" if name == BUILT_IN else BASELINES / name
    if not (folder / "module.py").is_file():
        found = sorted(path.parent.name for path in BASELINES.glob("*/module.py"))
        raise ConfigError(f"no implementation {name!r} (wanted {folder.name}/module.py; found: {', '.join(found)})")
    return folder


def load_implementation(name: str) -> ModuleType:
    """Import the module.py of a method; it defines Config and Method (see lavita.train.module)."""
    if name == BUILT_IN:
        return importlib.import_module("lavita.module")
    folder = implementation_folder(name)
    package = f"{folder.parent.name}.{folder.name}"
    if package not in sys.modules:
        # A package made from the folder itself, so that its relative imports work wherever the folder lies.
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.module")
