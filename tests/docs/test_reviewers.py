"""What docs/reviewers.md and docs/limits.md name is there: commands, files, columns, sections, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import lavita
from lavita.config.compose import compose, flat_keys, load_method, load_suite
from lavita.config.plan import make_plan
from lavita.config.registry import names_in
from lavita.report.significance import COLUMNS as PAIRS
from lavita.results.rows import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("reviewers", "limits")}
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"```\n(.*?)```", re.DOTALL)
RESULTS = (ROOT / "results" / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
# Names of what a run writes, as results/README.md lists them.
OUTPUTS = {part.strip("/") for part in re.findall(r"`([\w.<>\[\]-]+(?:/[\w.<>\[\]-]+)*/?)`", RESULTS)}
OUTPUTS |= {part.partition("/")[0] for part in OUTPUTS}
OF_FILES = {"rows.csv": set(COLUMNS), "pairs.csv": set(PAIRS)}
STAGES = {"train", "untrained", "autoencoder", "codec"}
KEYS = set(flat_keys(compose(load_suite("ucf101"), "demo", load_method("lavita-v1"), True)))


def spans(page: str) -> list[str]:
    """Every piece of code in running text."""
    return CODE.findall(FENCE.sub("", PAGES[page]))


def commands() -> list[str]:
    """Every command of the pages, fenced or in running text."""
    fenced = [line for page in PAGES.values() for block in FENCE.findall(page) for line in block.splitlines()]
    said = [span for page in PAGES for span in spans(page) if span.startswith("python ")]
    return fenced + said


def test_each_question_of_the_reviews_has_a_command_or_a_file():
    sections = re.split(r"^## ", PAGES["reviewers"], flags=re.MULTILINE)[1:]
    assert len(sections) == 11
    for section in sections:
        assert "python benchmarks/" in section or "](variants.md)" in section, section.splitlines()[0]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_a_command_names_what_exists(command):
    program, path, *arguments = shlex.split(command)
    assert program == "python" and (ROOT / path).is_file()
    source = (ROOT / "src" / "lavita" / "commands" / Path(path).name).read_text(encoding="utf-8")
    for flag in (word for word in arguments if word.startswith("--")):
        assert f'"{flag}"' in source, flag
    given = dict(zip(arguments, arguments[1:], strict=False))
    assert given.get("--suite", "ucf101") in names_in("suites")
    for protocol in given.get("--protocol", "suite").split(","):
        assert protocol in names_in("protocols")
    for word in arguments:
        assert not word.startswith("tests/") or (ROOT / word).is_file(), word
    if path.endswith("run.py"):
        methods = given["--methods"].split(",") if "--methods" in given else None
        overrides = [word for word in arguments if "=" in word]
        for tier in ("demo", "paper"):
            assert make_plan(given["--suite"], tier, methods, [0, 1], overrides)


@pytest.mark.parametrize("page", PAGES)
def test_every_column_section_and_file_is_there(page):
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/lavita/report").rglob("*.py"))
    for span in spans(page):
        file, colon, name = span.partition(": ")
        if colon and file in OF_FILES:
            assert name in OF_FILES[file] or name == "x", span
        elif colon and file == "table.md":
            assert f'"{name}"' in sources or name == "X", span
        elif not span.startswith("python "):
            assert is_known(span), span


def is_known(span: str) -> bool:
    """Whether a piece of code is a file of the repository, an output, or a word that the suite itself uses."""
    if (ROOT / span).exists() or span.strip("/") in OUTPUTS:
        return True
    if span.startswith("scores/"):  # the folder that the page's own evaluate.py command names
        return f'"{span.removeprefix("scores/")}"' in (ROOT / "src/lavita/metrics/folder_record.py").read_text()
    words = {*names_in("suites"), *names_in("methods"), *names_in("tiers"), *names_in("protocols"), *STAGES, *KEYS}
    flags = (ROOT / "src" / "lavita" / "commands" / "run.py").read_text(encoding="utf-8")
    # --flag words: of run.py, each of them. The rest: the mark of what is missing, verdicts, names of metrics.
    if span.startswith("--"):
        return all(f'"{word}"' in flags or word in words for word in span.split())
    return span.partition("=")[0] in words or span in {"not yet", "reproduced", "fvd_embedded"}


@pytest.mark.parametrize("page", ["docs/reviewers.md", "docs/limits.md", "README.md", "results/README.md"])
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/choices.md", "docs/data.md"])
def test_commands_need_nothing_from_outside_the_clone(page):
    """Links of a page in docs/ may lead to the top of the clone; its commands begin there."""
    text = re.sub(r"\]\([^)]*\)", "", (ROOT / page).read_text(encoding="utf-8"))
    assert "../" not in text


def test_systems_that_are_not_built_are_named_as_such():
    """What the comparison must hold, spelled out again: each is a method, or stands under `not yet` on both pages."""
    names = ["LVDM", "MCVD", "Video LDM", "Long Video GAN", "MoStGAN-V"]
    for system in names:
        built = system.lower().replace(" ", "-") in names_in("methods")
        for page in PAGES.values():
            sentences = re.split(r"\.\s", " ".join(page.split()))
            named = any(system in one for one in sentences if "`not yet`" in one or "Not built" in one)
            assert named != built, f"{system}: built is {built}, the page says otherwise"


def test_the_citation_names_the_software_and_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["title"] == "LAVITA benchmark suite" and cited["type"] == "software" and "doi" not in cited
    assert cited["authors"] == [{"name": "The LAVITA benchmark authors"}] and cited["license"] == "MIT"
    assert cited["references"][0]["identifiers"][0]["value"] == "arXiv:2401.03048"
    assert cited["version"] == lavita.__version__
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n\nCopyright (c) 2026 The LAVITA")
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 40
