"""No document prints a score that is not recorded with its data, allowed variation and commit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = """\
# Title
## One
Of commit 1234567.

| method | FVD (64 clips) ↓ | IS ↑ (± 2 %) | clips | hash |
| --- | --- | --- | --- | --- |
| a | 29.3 (± 5 %) | 1.25 | 2048 | 89757431ad6d |
| b, again | 3.1e-12 (1e-13 to 2e-11) (± 7.5 %) | | 2048 | 6ba46260c3f1 |

| key | meaning |
| --- | --- |
| clips | 3 |
"""
RECORDED = """\
document,set,method,metric,value,allowed,commit
README.md,weizmann,a,FVD (64 clips) ↓,29.3,5 %,1234567
README.md,weizmann,a,IS ↑,1.25,2 %,1234567
README.md,weizmann,a,clips,2048,exact,1234567
README.md,weizmann,"b, again",FVD (64 clips) ↓,3.1e-12 (1e-13 to 2e-11),7.5 %,1234567
README.md,weizmann,"b, again",clips,2048,exact,1234567
"""


@pytest.fixture
def numbers(monkeypatch):
    spec = importlib.util.spec_from_file_location("docs_numbers", ROOT / "docs" / "check_numbers.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "docs_numbers", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compared(numbers, tmp_path, monkeypatch):
    """compared(document, recorded): the differences of a README.md and a CSV of these texts."""
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    monkeypatch.setattr(numbers, "RECORDED", tmp_path / "numbers.csv")
    monkeypatch.setattr(numbers, "documents", lambda: [tmp_path / "README.md"])

    def of(document: str, recorded: str) -> list[str]:
        (tmp_path / "README.md").write_text(document, encoding="utf-8")
        (tmp_path / "numbers.csv").write_text(recorded, encoding="utf-8")
        return numbers.differences()

    return of


def test_the_documents_print_what_is_recorded(numbers):
    assert numbers.differences() == []


def test_the_tables_of_scores_are_found(numbers):
    found = {cell.document for path in numbers.documents() for cell in numbers.printed(path)}
    assert found >= {"README.md", "docs/choices.md", "docs/protocols.md", "docs/sanity.md"}


def test_the_commits_are_of_this_repository(numbers):
    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no repository with its whole history")
    for commit in {line["commit"] for line in numbers.recorded()}:
        assert git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0, commit


def test_what_agrees_has_no_differences(compared):
    assert compared(DOCUMENT, RECORDED) == []


@pytest.mark.parametrize(
    "before, after, said",
    [
        ("29.3 (", "29.4 (", ["not recorded: README.md,,a,FVD (64 clips) ↓,29.4,,", "recorded but not printed"]),
        ("29.3 (± 5 %)", "29.3 (± 6 %)", ["README.md: a, FVD (64 clips) ↓, 29.3: printed with ± 6 %, recorded: 5 %"]),
        ("29.3 (± 5 %)", "29.3", ["printed with ± nothing, recorded: 5 %"]),
        (" (± 2 %)", "", ["a, IS ↑, 1.25: printed with ± nothing"]),
        ("| 1.25 | 2048", "| 1.25 (± 3 %) | 2048", ["printed with ± 3 %, recorded: 2 %"]),
        ("1234567", "7654321", ["the document does not name its commit 1234567"] * 5),
        ("| key |", "| FVD |", ["not recorded: README.md,,clips,meaning,3,,"]),
    ],
)
def test_a_changed_document_is_noticed(compared, before, after, said):
    found = compared(DOCUMENT.replace(before, after), RECORDED)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True)), found


@pytest.mark.parametrize(
    "before, after, said",
    [
        ("29.3,5 %,", "29.3,,", "allowed is '', wanted such as '5 %', 'exact' or 'not measured'"),
        ("29.3,5 %,", "29.3,not measured,", "printed with ± 5 %, recorded: not measured"),
        ("1.25,2 %,1234567", "1.25,2 %,", "commit is '', wanted 7 hexadecimal digits or more"),
        ("weizmann,a,FVD", ",a,FVD", "no set is recorded"),
    ],
)
def test_a_line_that_lacks_something_is_noticed(compared, before, after, said):
    found = compared(DOCUMENT, RECORDED.replace(before, after))
    assert found and said in found[0]


def test_what_is_not_measured_is_said_in_the_section_of_the_table(compared):
    document = DOCUMENT.replace("29.3 (± 5 %)", "29.3")
    recorded = RECORDED.replace("29.3,5 %,", "29.3,not measured,")
    assert "its section does not say 'not measured'" in compared(document, recorded)[0]
    assert compared(document + "## Other\nnot measured\n", recorded)
    assert compared(document.replace("Of commit", "How far they differ is not\nmeasured. Of commit"), recorded) == []
