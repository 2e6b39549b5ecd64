"""What a module can reach: on small trees of every form of import, and against what Python really imports."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lavita.config.plan import make_plan
from lavita.config.registry import BASELINES, PLUGINS, ROOT, add_plugin
from lavita.config.schema import plan
from lavita.results import identity
from lavita.results.identity import Unresolved, code_hash, everything, shared_code_hash, source_files

ROOTS = {"lavita": ROOT / "src" / "lavita"}
# Read by people and written for them: no change in these may make a trained cell run again.
UNREACHED = [
    "lavita/bench/page/", "lavita/bench/audit", "lavita/bench/table", "lavita/bench/chart", "lavita/bench/notes",
    "lavita/bench/latex", "lavita/bench/pairs", "lavita/runner/dry_run", "lavita/runner/evaluate",
    "lavita/runner/suite_run", "lavita/runner/display", "lavita/runner/tables", "lavita/parity/", "lavita/speed/",
    "lavita/command_line", "lavita/data/archive", "lavita/data/unpack",
]  # fmt: skip


def tree(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    """A package named ours of these files; every folder of it with an __init__, but where its name says none."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for above in path.relative_to(folder).parents:
            if "bare" not in above.name:
                (folder / above / "__init__.py").touch()
    return {"ours": folder}


def names(start: str, roots: dict[str, Path]) -> set[str]:
    """The reached files but for __init__, without the package's name."""
    return {name.removeprefix("ours/") for name in identity.reach([start], roots) if not name.endswith("__init__.py")}


FORMS = {
    "import ours.part.leaf": {"part/leaf.py"},
    "import ours.part.leaf as other": {"part/leaf.py"},
    "import os, ours.part.leaf": {"part/leaf.py"},
    "from ours.part import leaf": {"part/leaf.py"},
    "from ours.part.leaf import Thing": {"part/leaf.py"},
    "from .part import leaf": {"part/leaf.py"},
    "from .part.leaf import Thing as Other": {"part/leaf.py"},
    "from . import part, beside": {"beside.py"},
    "from .part import *": {"part/leaf.py", "part/under.py", "part/deep.py", "beside.py", "top.py"},
    "def late():\n    from ours.part import leaf": {"part/leaf.py"},
    "class A:\n    async def late(self):\n        if 0:\n            from .beside import x": {"beside.py"},
    "try:\n    pass\nexcept ValueError:\n    import ours.beside\nelse:\n    import ours.part.leaf": {
        "beside.py", "part/leaf.py"
    },
    "try:\n    pass\nfinally:\n    import ours.beside": {"beside.py"},
    "while 1:\n    with a as b:\n        import ours.beside": {"beside.py"},
    "for a in b:\n    pass\nelse:\n    import ours.beside": {"beside.py"},
    "match 1:\n    case 1:\n        import ours.beside": {"beside.py"},
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ours.beside": {"beside.py"},
    "import importlib\nx = importlib.import_module('ours.part.leaf')": {"part/leaf.py"},
    "from importlib import import_module\nimport_module('ours.beside').x": {"beside.py"},
    "__import__('ours.beside')": {"beside.py"},
    "run([executable, '-m', 'ours.beside', file])": {"beside.py"},
    "run((executable, '-m', 'ours.package'))": {"package/__main__.py"},
    "from .part.under import up": {"part/under.py", "beside.py"},
    "from ours.part.deep import up": {"part/deep.py", "top.py"},
    "from .bare import leaf": {"bare/leaf.py"},
    "from ours.missing import x\nimport elsewhere.ours.beside": set(),
    "import oursbeside": set(),
    "net.eval()": set(),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_imports(tmp_path, form):
    roots = tree(
        tmp_path,
        {
            "start.py": form, "beside.py": "import ours.start", "top.py": "", "part/leaf.py": "Thing = 1",
            "part/under.py": "from .. import beside as up", "part/deep.py": "from ..top import x as up",
            "bare/leaf.py": "", "unused.py": "import ours.start", "package/__main__.py": "",
        },
    )  # fmt: skip
    # Whoever reaches beside reaches start again: a circle ends.
    assert names("ours.start", roots) == {"start.py"} | FORMS[form]


def test_packages_run_their_init_first(tmp_path):
    roots = tree(tmp_path, {"start.py": "import ours.a.b.leaf", "a/b/leaf.py": "", "late.py": "", "wide.py": ""})
    (tmp_path / "a" / "__init__.py").write_text("from ours import late")
    (tmp_path / "__init__.py").write_text("from .wide import x")
    found = identity.reach(["ours.start"], roots)
    inits = {"ours/__init__.py", "ours/a/__init__.py", "ours/a/b/__init__.py"}
    assert set(found) == inits | {f"ours/{name}.py" for name in ("start", "late", "wide", "a/b/leaf")}
    assert all(path.is_file() for path in found.values())


@pytest.mark.parametrize(
    "line",
    [
        "importlib.import_module(name)",
        "importlib.import_module('.x', package)",
        "importlib.import_module(f'ours.{name}')",
        "load = importlib.import_module",
        "from importlib import import_module as load",
        "modules = map(import_module, names)",
        "__import__(name)",
        "importlib.util.spec_from_file_location('x', path)",
        "runpy.run_path(path)",
        "exec(text)",
        "run([sys.executable, '-m', name])",
    ],
)
def test_what_can_not_be_known_is_said(tmp_path, line):
    roots = tree(tmp_path, {"start.py": "import ours.far", "far.py": f"\ndef late():\n    {line}\n"})
    with pytest.raises(Unresolved, match=r"far.py, line 3: loads code"):
        identity.reach(["ours.start"], roots)


def test_data_beside_a_module_belongs_to_it(tmp_path):
    roots = tree(
        tmp_path, {"a/start.py": "", "b/other.py": "", "a/table.npy": "", "b/unused.css": "", "a/README.md": ""}
    )
    (tmp_path / "a" / ".hidden").touch()
    assert names("ours.a.start", roots) == {"a/start.py", "a/table.npy"}


def test_a_file_is_read_as_it_is_now(tmp_path):
    roots = tree(tmp_path, {"start.py": "", "a.py": "", "b.py": ""})
    for text, wanted in (("import ours.a", {"a.py"}), ("import ours.b", {"b.py"}), ("import ours.c", set())):
        (tmp_path / "start.py").write_text(text)
        assert names("ours.start", roots) == {"start.py"} | wanted
    (tmp_path / "c.py").touch()
    assert names("ours.start", roots) == {"start.py", "c.py"}


def test_a_file_that_python_can_not_read_is_hashed_all_the_same(tmp_path):
    assert names("ours.start", tree(tmp_path, {"start.py": "print 'old'\n"})) == {"start.py"}


@pytest.mark.parametrize("start", [plan.CELL, plan.SHARED, "lavita.suite.samples", "lavita.methods.lavita.module"])
def test_what_is_imported_is_reached(start):
    """Every file of ours that Python has loaded after the import, in a process of its own."""
    code = (
        f"import {start}, sys, json\n"
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'lavita']))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = {Path(file) for file in json.loads(done.stdout)}
    assert len(loaded) > 15
    assert loaded <= set(identity.reach([start], ROOTS).values())


@pytest.mark.parametrize("method", ["lavita-v1", "dit", "vdt", "pvdm"])
def test_what_only_people_read_is_out_of_reach(method):
    (cell,) = make_plan("ucf101", "demo", [method], [0], [])
    files, every = set(source_files(cell)), set(everything(ROOTS))
    assert not [name for name in files if name.startswith(tuple(UNREACHED))]
    assert len(files & every) < 0.6 * len(every)  # and no fallback to everything
    own = {name.split("/")[1] for name in files if name.startswith("baselines/")}
    assert own == (set() if method.startswith("lavita") else {cell.implementation})
    assert ("lavita/models/lavita.py" in files) == method.startswith("lavita")


def test_every_part_of_the_package_can_be_told():
    """Data in a folder without a module would be missed, and a process's reach that is unknown would be everything."""
    for path in ROOTS["lavita"].rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert list(path.parent.glob("*.py")), path
    for start in (plan.CELL, plan.SHARED, "lavita.suite.samples"):
        identity.reach([start], ROOTS)  # raises Unresolved


def test_the_one_exempt_function_is_there():
    """registry.load_implementation loads a method by name; the rest of the file is read as any other."""
    source = (ROOTS["lavita"] / "registry.py").read_bytes()
    module, function = identity.EXEMPT
    assert not identity.imports_of(module, False, source).unknown
    other = source.replace(f"def {function}(".encode(), b"def another(")
    assert other != source and identity.imports_of(module, False, other).unknown
    assert identity.imports_of("lavita.another", False, source).unknown


def test_it_takes_a_part_of_a_second():
    """0.23 s of a core for a hundred files, half of it in Python's own parser; the bound leaves slow machines room."""
    seconds = []
    for _ in range(3):
        identity.imports_of.cache_clear()
        began = time.process_time()
        identity.reach([plan.CELL], ROOTS)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package and the methods that the hashes are made over, to be changed."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "lavita", tmp_path / "src" / "lavita", ignore=skip)
    shutil.copytree(BASELINES, tmp_path / "baselines", ignore=skip)
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "implementation_folder", lambda name: tmp_path / "baselines" / name)
    return tmp_path


def change(path: Path) -> None:
    with open(path, "a") as file:
        file.write("\n# changed\n")


# File: whose hashes a change in it changes, of shared parts, lavita-v1 and dit.
CHANGES = {
    "src/lavita/suite/cell.py": {"lavita-v1", "dit"},
    "src/lavita/training/fit.py": {"shared", "lavita-v1", "dit"},
    "src/lavita/suite/shared.py": {"shared", "lavita-v1", "dit"},
    "src/lavita/metrics/features/in_domain_training.py": {"shared", "lavita-v1", "dit"},  # imported in a function
    "src/lavita/__init__.py": {"shared", "lavita-v1", "dit"},
    "src/lavita/methods/lavita/model.py": {"lavita-v1"},
    "src/lavita/nn/blocks.py": {"lavita-v1", "dit"},
    "baselines/dit/model.py": {"dit"},
    "baselines/vdt/model.py": set(),
    "src/lavita/report/page/build.py": set(),
    "src/lavita/bench/page/page.css": set(),
    "src/lavita/suite/dry_run.py": set(),
    "src/lavita/commands/parser.py": set(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_counts_where_it_is_reached(copied, name):
    cells = {cell.label: cell for cell in make_plan("ucf101", "demo", ["lavita-v1", "dit"], [0], [])}

    def hashes() -> dict[str, str]:
        return {"shared": shared_code_hash()} | {label: code_hash(cell) for label, cell in cells.items()}

    before = hashes()
    assert hashes() == before
    change(copied / name)
    after = hashes()
    assert {key for key in before if before[key] != after[key]} == CHANGES[name]


def test_the_method_that_a_cell_is_pretrained_by_counts(copied):
    (cell,) = make_plan("ucf101", "demo", ["lavita-v1"], [0], [])
    before = code_hash(cell)
    pretrained = replace(cell, pretraining=replace(cell.pretraining, method="dit", share=0.5))
    with_dit = code_hash(pretrained)
    change(copied / "baselines" / "dit" / "model.py")
    assert code_hash(cell) == before and code_hash(pretrained) != with_dit != before


def test_a_plugin_that_loads_by_name_depends_on_everything(tmp_path, monkeypatch):
    monkeypatch.setenv(PLUGINS, "")
    folder = tmp_path / "byname"
    shutil.copytree(ROOT / "docs" / "template", folder, ignore=shutil.ignore_patterns("__pycache__"))
    settings = folder / "method.yaml"
    settings.write_text(settings.read_text().replace(": template\n", ": byname\n"))
    add_plugin(folder)
    (cell,) = make_plan("ucf101", "demo", ["byname"], [0], [])
    files = set(source_files(cell))
    assert {"plugins/byname/module.py", "plugins/byname/model.py", "lavita/train/latent.py"} <= files
    assert "lavita/bench/page/build.py" not in files
    assert not files & {"plugins/byname/method.yaml", "plugins/byname/README.md"}
    (folder / "more.py").write_text("import importlib\n\n\ndef part(name):\n    return importlib.import_module(name)\n")
    files = set(source_files(cell))
    assert {"plugins/byname/more.py", "lavita/bench/page/page.css"} <= files
    assert "plugins/byname/method.yaml" not in files
    before = code_hash(cell)
    (folder / "table.bin").write_bytes(bytes(3))
    with_data = code_hash(cell)
    (folder / "table.bin").write_bytes(bytes(4))
    assert len({before, with_data, code_hash(cell)}) == 3
