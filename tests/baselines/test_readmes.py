"""Every baseline says the same seven things about itself, in the same order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HEADINGS = [
    "Paper",
    "Source, commit, licence",
    "What was released and what was missing",
    "What differs here and why",
    "Author settings",
    "Size and cost",
    "Published numbers and under which protocol",
]
ROOT = Path(__file__).parents[2]
CARDS = sorted(path.parent / "README.md" for path in (ROOT / "baselines").glob("*/module.py"))
CARDS.append(ROOT / "src" / "lavita" / "methods" / "lavita" / "README.md")


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.parent.name}-{card.stem}")
def test_readme_has_the_fixed_headings_and_something_under_each(card):
    text = card.read_text()
    title, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert title.startswith("# ")
    assert [section.splitlines()[0] for section in sections] == HEADINGS
    for section in sections:
        assert len(section.split("\n", 1)[1].split()) >= 10, section.splitlines()[0]
    source = sections[HEADINGS.index("Source, commit, licence")]
    assert re.search(r"github\.com/\S+/\S+ at commit [0-9a-f]{7,40}", source) or "no code was released" in source
