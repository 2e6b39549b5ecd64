"""Which source files a module can reach: the closure of its imports, read from the source without running any of it.

What is assumed, and checked where it can be:
- a module is named where it is imported: by an import statement anywhere in a file (functions and branches included),
  by import_module with a literal, or behind "-m" in the command of a process. Anything else that loads code by a name
  raises Unresolved;
- registry.load_implementation alone is exempt: it imports module.py of one method, by name. Who asks for a cell's files
  gives that method's modules as starts;
- data that a module reads as part of the package lies beside it: every other file there belongs to it, but documents
  and hidden files.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lavita.config.compose import (
    Experiment,
    load_method,
)
from lavita.config.plan import cell_from_dict
from lavita.config.registry import (
    BASELINES,
    BUILT_IN,
    METHOD_FILE,
    ROOT,
    config_path,
    implementation_folder,
    plugins,
)
from lavita.config.schema import ConfigError

# Keys of data that no number depends on, beyond what the fingerprint says.
DATA_ELSEWHERE = ("root", "num_workers", "cache_bytes", "max_unreadable")


def deciding(cell: Experiment) -> dict[str, Any]:
    """The configuration without what no number depends on, and without paths: hashes stand for files."""
    values = asdict(cell)
    values.pop("weights")
    values.pop("checkpoint")
    for key in DATA_ELSEWHERE:
        values["data"].pop(key)
    values["codec"].pop("path")
    values["pretraining"]["checkpoint"] = bool(cell.pretraining.checkpoint)
    values["pretraining"].pop("origin")
    values["model"] |= {key: bool(cell.model[key]) or None for key in values.pop("weight_files")}
    return values


def canonical(cell: Experiment) -> str:
    """The same as canonical JSON."""
    return json.dumps(deciding(cell), sort_keys=True)


def changed_keys(cell: Experiment, before: Mapping[str, Any]) -> list[str]:
    """What of a configuration is another than in a record's, as "train.learning_rate: 0.001 -> 0.002"."""
    try:
        old = deciding(cell_from_dict(dict(before)))
    except (ConfigError, KeyError, TypeError):
        return []
    found = []
    for section, values in deciding(cell).items():
        if not isinstance(values, dict):
            values, old[section] = {"": values}, {"": old[section]}
        for key, value in values.items():
            if old[section].get(key) != value:
                found.append(f"{section}{'.' if key else ''}{key}: {old[section].get(key)} -> {value}")
    return found


def config_hash(cell: Experiment) -> str:
    return hashlib.sha256(canonical(cell).encode()).hexdigest()[:16]


def code_hash(cell: Experiment) -> str:
    """sha256 over every source file that can change a cell's numbers, wherever a plugin's folder lies."""
    return hash_of_sources(source_files(cell))


def shared_code_hash() -> str:
    """The same over what can change the parts that all methods share."""
    return hash_of_sources(source_files())


# The modules that a run starts in a process of its own, for a cell and for what all cells share.
CELL, SHARED, SAMPLES = "lavita.suite.cell", "lavita.suite.shared", "lavita.suite.samples"


def source_files(cell: Experiment | None = None) -> dict[str, Path]:
    """The files that can change the numbers of a cell, or (None) of the shared parts, by names that say no place.

    A cell's are what its process reaches, the folders of its methods and what they reach, and what the shared parts are
    made by: a cell is scored against their real clips, of which nothing else in its identity says how they were made.
    The shared parts' process builds the methods only to refuse what would not run: no number comes from them.
    Of a method that loads code by a name that its source does not say, every file of ours may be one.
    """
    roots = {"lavita": ROOT / "src" / "lavita"}
    starts, own = [SHARED] if cell is None else [SHARED, CELL], {}
    for method in [] if cell is None else methods_of(cell):
        if method == BUILT_IN:
            starts.append("lavita.methods.lavita.module")
        else:
            package = f"{'plugins' if method in plugins() else BASELINES.name}.{method}"
            roots[package] = implementation_folder(method)
            own |= everything({package: roots[package]})
            starts += modules({package: roots[package]})
    try:
        found = reach(starts, roots) | own
    except Unresolved:
        found = everything(roots)
    found = {name: path for name, path in found.items() if path.name != METHOD_FILE}  # that is the configuration
    if cell is not None and cell.pretraining.method:
        found["pretraining.yaml"] = config_path("methods", cell.pretraining.method)  # read in the cell's process
    return found


def samples_files() -> dict[str, Path]:
    """The files that can change the scores of clips made elsewhere, by names that say no place."""
    return reach([SAMPLES, SHARED], {"lavita": ROOT / "src" / "lavita"})


def methods_of(cell: Experiment) -> list[str]:
    """The implementations that a cell's process loads: its own and that of the method it is pretrained by."""
    other = cell.pretraining.method
    return [cell.implementation, *([load_method(other).implementation] if other else [])]


def hash_of_sources(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0".encode())
        path = files[name]
        facts = path.stat()
        data = path.read_bytes() if path.suffix == ".py" else digest_of_data(path, facts.st_size, facts.st_mtime_ns)
        digest.update(data)
    return digest.hexdigest()[:16]


@cache
def digest_of_data(path: Path, size: int, changed_ns: int) -> bytes:
    """sha256 of a file that may be large; read once in a process as long as size and time stay."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# Names that load code which an import statement does not show. eval and exec count as functions, not as methods.
LOADERS = {
    *("import_module", "__import__", "spec_from_file_location", "SourceFileLoader", "run_path", "run_module"),
    *("resolve_name", "walk_packages", "iter_modules", "load_module"),
}
BUILT_IN_LOADERS = {"exec", "eval"}
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")  # the fields of a statement that hold statements
TRACES = tuple(name.encode() for name in sorted(LOADERS | BUILT_IN_LOADERS)) + (b"-m",)
EXEMPT = ("lavita.config.registry", "load_implementation")
NO_DATA = {".py", ".pyc", ".md"}


class Unresolved(ValueError):
    """A module loads code by a name that its source does not say."""


@dataclass(frozen=True)
class Imports:
    """What one file imports: absolute names (of modules, or of what is in one), packages imported with *, and the lines
    that load what can't be known.
    """

    names: tuple[str, ...] = ()
    starred: tuple[str, ...] = ()
    unknown: tuple[int, ...] = ()


def reach(starts: Iterable[str], roots: Mapping[str, Path]) -> dict[str, Path]:
    """Every file that the modules named in starts can reach, themselves included, by its name below its root's package
    ("lavita/bench/plan.py"), which does not depend on where a root lies.

    roots: folders by the dotted names of their packages; what lies in none of them is not ours and not followed.
    Raises Unresolved for a reached module that loads code by a name that is not in its source.
    """
    ours, found = modules(roots), {}
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])  # importing a module runs its packages' __init__ first
        if name not in ours:
            continue  # somebody else's, a folder without __init__, or a name inside a module
        path = found[name] = ours[name]
        imports = imports_of(name, path.name == "__init__.py", path.read_bytes())
        if imports.unknown:
            raise Unresolved(f"{path}, line {imports.unknown[0]}: loads code by a name that the source does not say")
        waiting += imports.names
        for package in imports.starred:  # all that is in it, since its __all__ may name modules
            waiting += [one for one in ours if one.rpartition(".")[0] == package]
    files = {file_name(name, path): path for name, path in found.items()}
    return files | beside(files)


def everything(roots: Mapping[str, Path]) -> dict[str, Path]:
    """Every source file of the roots, and what lies beside them: for where reach can't tell."""
    files = {
        f"{root.replace('.', '/')}/{path.relative_to(folder).as_posix()}": path
        for root, folder in roots.items()
        for path in folder.rglob("*.py")
    }
    return files | beside(files)


def modules(roots: Mapping[str, Path]) -> dict[str, Path]:
    """The files of all modules of the roots by dotted name, a package's __init__ under the package's."""
    found: dict[str, Path] = {}
    for root, folder in roots.items():
        for path in folder.rglob("*.py"):
            *above, last = path.relative_to(folder).with_suffix("").parts
            if last == "__init__":
                found[".".join([root, *above])] = path  # wins over a module of its name, as in Python
            elif "." not in last:
                found.setdefault(".".join([root, *above, last]), path)
    return found


def file_name(module: str, path: Path) -> str:
    """The name of a module's file, from its package on."""
    folder = module.replace(".", "/")
    return f"{folder}/{path.name}" if path.name == "__init__.py" else f"{folder}.py"


def beside(files: Mapping[str, Path]) -> dict[str, Path]:
    """The data files in the folders of source files."""
    folders = {name.rpartition("/")[0]: path.parent for name, path in files.items()}
    return {
        f"{name}/{path.name}": path
        for name, folder in folders.items()
        for path in folder.iterdir()
        if path.suffix not in NO_DATA and not path.name.startswith(".") and path.is_file()
    }


@cache
def imports_of(module: str, is_package: bool, source: bytes) -> Imports:
    """What a file imports. The cache is keyed by content: a file that was changed is read as it is now."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Imports()  # what Python can't read imports nothing
    package = module if is_package else module.rpartition(".")[0]
    exempt = EXEMPT[1] if module == EXEMPT[0] else None
    reader = Reader(package, exempt, deep=any(trace in source for trace in TRACES))
    reader.visit(tree)
    return Imports(tuple(dict.fromkeys(reader.names)), tuple(reader.starred), tuple(sorted(reader.unknown)))


@dataclass
class Reader(ast.NodeVisitor):
    """Walks a file of a package and collects what it imports, but for one exempt function.

    deep: expressions too. Where the source has no trace of what is looked for in them, that is half the time saved.
    """

    package: str
    exempt: str | None
    deep: bool
    names: list[str] = field(default_factory=list)
    starred: list[str] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)

    def generic_visit(self, node: ast.AST) -> None:
        if self.deep:
            super().generic_visit(node)
            return
        for block in BLOCKS:
            for child in getattr(node, block, ()):
                self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name != self.exempt:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, node.module] if node.module else above)
        self.names.append(base)
        for alias in node.names:
            if alias.name == "*":
                self.starred.append(base)
            else:
                self.names.append(f"{base}.{alias.name}")
            if alias.name in LOADERS and alias.asname:
                self.unknown.append(node.lineno)  # its calls go by another name

    def visit_Call(self, node: ast.Call) -> None:
        name = literal(node.args[0]) if node.args else None
        if (
            called(node) in ("import_module", "__import__")
            and name
            and not name.startswith(".")
            and len(node.args) == 1
        ):
            self.names.append(name)
            return
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in LOADERS | BUILT_IN_LOADERS:
            self.unknown.append(node.lineno)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in LOADERS:
            self.unknown.append(node.lineno)
        self.generic_visit(node)

    def visit_List(self, node: ast.List) -> None:
        """A command of a process: `python -m module`."""
        for flag, module in pairs(node.elts):
            if literal(flag) == "-m":
                name = literal(module)
                if name is None:
                    self.unknown.append(node.lineno)
                else:
                    self.names += [name, f"{name}.__main__"]
        self.generic_visit(node)

    visit_Tuple = visit_List


def pairs(nodes: list[ast.expr]) -> Iterator[tuple[ast.expr, ast.expr]]:
    return zip(nodes, nodes[1:], strict=False)


def called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    return getattr(node.func, "id", "") or getattr(node.func, "attr", "")


def literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
