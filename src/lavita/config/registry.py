"""Finds methods by scanning: a folder in baselines/ with module.py, and a file in configs/methods/. No list is kept.

A method from elsewhere is a folder with `module.py` and `method.yaml`. It is found in two ways: given with --plugin
(its path then stands in the environment variable PLUGINS, which the processes of a run inherit), or as a package that
an installed distribution declares in the entry point group GROUP: `mine = their_package.mine`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from lavita.config.plain_yaml import read_yaml
from lavita.config.schema import ConfigError, nearest

PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = PACKAGE / "configs"
BASELINES = PACKAGE / "baselines"
BUILT_IN = "lavita"
PLUGINS = "LAVITA_PLUGINS"
GROUP = "lavita.methods"
METHOD_FILE = "method.yaml"
SAFE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def checkout() -> Path | None:
    """The root of the checkout that this package is run from; None where it is installed from a wheel."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "src" and (root / "setup.cfg").is_file() else None


def import_folder() -> str:
    """What processes that are started from here need on PYTHONPATH to import this package: its folder, "" where it is
    installed among the interpreter's packages, which they have anyway.
    """
    folder = PACKAGE.parent
    return "" if folder.name in ("site-packages", "dist-packages") else str(folder)


def plugins() -> dict[str, Path]:
    """Folders of the methods from elsewhere, by name: those of --plugin, then those of installed packages."""
    paths = [Path(part) for part in os.environ.get(PLUGINS, "").split(os.pathsep) if part]
    return {name: folder for name, (_, folder) in installed_methods().items()} | {path.name: path for path in paths}


@cache
def installed_methods() -> dict[str, tuple[str, Path]]:
    """(package, folder) of the methods that installed distributions declare, by name.

    Raises ConfigError, one line, for a declaration that leads to no method, and for a name that one of ours or another
    package's has.
    """
    found: dict[str, tuple[str, Path]] = {}
    for entry in entry_points(group=GROUP):
        where = f"entry point {entry.name} = {entry.value} in group {GROUP}"
        try:
            spec = importlib.util.find_spec(entry.value)
        except Exception as error:  # the package above is imported to find it, and may raise anything
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{where}: can't be found ({said}); reinstall or remove that package") from None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"{where}: wanted a package, a folder with module.py and {METHOD_FILE}")
        folder = Path(next(iter(spec.submodule_search_locations))).resolve()
        if folder.name != entry.name:
            raise ConfigError(f"{where}: wanted the name of its folder, {folder.name}")
        check_plugin(folder, where)
        if entry.name in own_names() or entry.name in found:
            raise ConfigError(f"{where}: the name {entry.name!r} is taken; remove that package, or rename its method")
        found[entry.name] = (entry.value, folder)
    return found


def own_names() -> set[str]:
    """Names of the methods and implementations of this package."""
    methods = {path.stem for path in (CONFIGS / "methods").glob("*.yaml")}
    return methods | {path.parent.name for path in BASELINES.glob("*/module.py")} | {BUILT_IN}


def add_plugin(path: Path | str) -> str:
    """Make a folder from outside the repository a method, in this process and those it starts; returns its name.

    The folder holds module.py (see lavita.methods.base), what that imports, README.md, and method.yaml: what
    configs/methods/<name>.yaml is to a baseline, with `name` and `implementation` the folder's name.
    Raises ConfigError for a folder that is none of this, or a name that is taken. Giving a folder twice is no error.
    """
    folder = Path(path).resolve()
    check_plugin(folder, f"--plugin {path}")
    known = plugins()
    if known.get(folder.name) == folder:
        return folder.name
    if folder.name in own_names() | set(known):
        raise ConfigError(
            f"--plugin {path}: the name {folder.name!r} is taken; rename the folder and its {METHOD_FILE}"
        )
    os.environ[PLUGINS] = os.pathsep.join(filter(None, [os.environ.get(PLUGINS, ""), str(folder)]))
    return folder.name


def check_plugin(folder: Path, where: str) -> None:
    """Raise ConfigError, in one line, unless the folder has the shape of a plugin."""
    if not folder.is_dir():
        raise ConfigError(f"{where}: no such folder; give the folder of a method (copy docs/template)")
    if not SAFE_NAME.fullmatch(folder.name) or os.pathsep in str(folder):
        raise ConfigError(
            f"{where}: wanted a folder named with letters, digits, - and _, in a path without {os.pathsep}"
        )
    for name in ("module.py", METHOD_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"{where}: the folder has no {name}; docs/template has one to copy")

    values = read_yaml(folder / METHOD_FILE, f"{where}: {METHOD_FILE}")
    for key in ("name", "implementation"):
        got = values.get(key) if isinstance(values, dict) else None
        if got != folder.name:
            raise ConfigError(f"{where}: {METHOD_FILE} has {key}: {got}, wanted the folder's name, {folder.name}")


def names_in(kind: str) -> list[str]:
    """Names of the YAML files in configs/<kind>, sorted; among methods also those of plugins."""
    names = {path.stem for path in (CONFIGS / kind).glob("*.yaml")}
    return sorted(names | set(plugins()) if kind == "methods" else names)


def config_path(kind: str, name: str) -> Path:
    """The file of a suite, tier, method, data set or protocol. Raises ConfigError naming the nearest known one."""
    known = names_in(kind)
    if name not in known:
        singular = kind[:-1]
        raise ConfigError(f"unknown {singular} {name!r}: {nearest(name, known)} (known: {', '.join(known)})")
    if kind == "methods" and name in plugins():
        return plugins()[name] / METHOD_FILE
    return CONFIGS / kind / f"{name}.yaml"


def implementation_folder(name: str) -> Path:
    """The folder whose module.py implements a method. Raises ConfigError where there is none.

    A configuration that somebody handed over (a checkpoint's, a record's) names it too, and its module.py is run: so it
    is the name of a folder known here, never a path.
    """
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
        raise ConfigError(f"implementation is {repr(name)[:80]}, wanted the name of a method: letters, digits, - and _")
    folder = PACKAGE / "methods" / "lavita" if name == BUILT_IN else plugins().get(name, BASELINES / name)
    if not (folder / "module.py").is_file():
        found = sorted(path.parent.name for path in BASELINES.glob("*/module.py"))
        raise ConfigError(
            f"no implementation {name!r} (wanted {folder.name}/module.py; found: {', '.join([*found, *plugins()])}); "
            "a method from outside the repository needs --plugin PATH, its folder"
        )
    return folder


def implementation_package(name: str) -> str:
    """The dotted name under which the package of a method is imported. Raises ConfigError where there is none."""
    folder = implementation_folder(name)
    if name == BUILT_IN:
        return "lavita.methods.lavita"
    if folder == BASELINES / name:
        return f"lavita.baselines.{name}"
    if name in installed_methods():
        return installed_methods()[name][0]
    return f"plugins.{name}"


def load_implementation(name: str) -> ModuleType:
    """Import the module.py of a method; it defines Config and Method (see lavita.methods.base)."""
    package = implementation_package(name)
    if package.startswith("plugins.") and package not in sys.modules:
        # A package made from the folder itself, so that its relative imports work wherever the folder lies.
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(implementation_folder(name))]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.module")
