"""Writes docs/api.md from the docstrings of what lavita exports and of its metrics. Run: python docs/api_page.py"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

import lavita  # noqa: E402
from lavita.metrics import torchmetrics  # noqa: E402

FUNCTIONS = ("compose", "run_suite", "load", "sample", "evaluate")
SECTION = re.compile(r"(Args|Returns|Raises|Example):")
ENTRY = re.compile(r"([\w, ]+): ")
HEAD = """\
# The library

`pip install .` gives the command `lavita` and the package `lavita`; both call the functions below. `docs/api_page.py`
writes this page from their docstrings, whose examples a test runs: `extractor.safetensors` there is a small feature
network as `lavita sanity --save` writes one. Clips are uint8 (N, F, H, W, 3), 0 to 255, wherever they come in or out.
`lavita.__version__` is the version.
"""
METRICS_HEAD = """\
## Metrics: `lavita.metrics.torchmetrics`

Each is a `torchmetrics.Metric`: it works inside any LightningModule, on any number of processes.
"""


def page() -> str:
    """The text of docs/api.md."""
    parts = [HEAD]
    parts += [entry("##", f"lavita.{name}", getattr(lavita, name)) for name in FUNCTIONS]
    parts += [METRICS_HEAD]
    parts += [entry("###", name, getattr(torchmetrics, name)) for name in torchmetrics.__all__]
    return "\n".join(parts)


def entry(level: str, name: str, documented: Callable) -> str:
    """A function or class: its name, how it is called, its docstring."""
    called = ["", "```python", signature(name.rpartition(".")[2], documented), "```", ""]
    return "\n".join([f"{level} `{name}`", *called, *markdown(inspect.getdoc(documented).splitlines())]).rstrip() + "\n"


def signature(name: str, documented: Callable) -> str:
    """name(parameters), one per line where there are many, without types."""
    parameters = [
        one.replace(annotation=one.empty)
        for one in inspect.signature(documented).parameters.values()
        if one.kind is not one.VAR_KEYWORD
    ]
    words, starred = [], False
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        words.append(str(one).replace("'", '"'))
    line = f"{name}({', '.join(words)})"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), ")"])


def markdown(lines: list[str]) -> Iterator[str]:
    """A docstring with Google's sections: lists for arguments and errors, code for the example."""
    section = ""
    for line in lines:
        found = SECTION.fullmatch(line)
        if found:
            section = found[1]
            yield from (f"**{section}**", "")
            if section == "Example":
                yield "```python"
        elif section in ("Args", "Raises") and line.strip():
            text = line.removeprefix("    ")
            yield f"- {ENTRY.sub(marked, text, count=1)}" if not text.startswith(" ") else f"  {text.strip()}"
        else:
            yield line.removeprefix("    ") if section else line
    if section == "Example":
        yield "```"


def marked(found: re.Match) -> str:
    """Names of parameters or errors as code."""
    return f"{', '.join(f'`{name}`' for name in found[1].split(', '))}: "


if __name__ == "__main__":
    (HERE / "api.md").write_text(page(), encoding="utf-8")
