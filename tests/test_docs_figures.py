"""The figures of the documentation: drawn by their script, shown on the page; its sizes are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
STORED = sorted(FIGURES.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def test_the_script_draws_the_stored_figures_byte_for_byte(tmp_path):
    command = [sys.executable, "-B", str(FIGURES / "draw.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in STORED}


def test_the_page_shows_every_figure_and_no_other():
    shown = re.findall(r"!\[([^]]+)\]\(figures/([^)]+)\)", PAGE)
    assert sorted(name for _, name in shown) == [path.name for path in STORED]
    assert {f"variant-{number}.svg" for number in (1, 2, 3, 4)} <= {name for _, name in shown}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_a_figure_says_in_words_what_it_shows_and_keeps_inside_its_frame(path):
    root = ElementTree.parse(path).getroot()
    width, height = (float(value) for value in root.get("viewBox").split()[2:])
    assert root.findtext(f"{SVG}title") and len(root.findtext(f"{SVG}desc")) > 80
    assert width == 700
    for element in root.iter(f"{SVG}text"):
        # DejaVu Sans is 0.6 of its size a letter on average, bold 0.69.
        letter = float(element.get("font-size")) * (0.69 if element.get("font-weight") == "bold" else 0.6)
        length, x = letter * len(element.text), float(element.get("x"))
        left = x - {"start": 0, "middle": length / 2, "end": length}[element.get("text-anchor")]
        assert 0 <= left and left + length <= width, element.text
        assert float(element.get("y")) < height
    for element in root.iter(f"{SVG}rect"):
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        assert 0 <= x and x + float(element.get("width")) <= width and y + float(element.get("height")) <= height


def test_the_page_has_the_sizes_of_the_code():
    import torch

    from lavita.methods.lavita.model import SIZES, Lavita, LavitaConfig, depth_of_variant

    rows = []
    for size, (depth, width, heads) in SIZES.items():
        cells = [size, str(width), str(heads)]
        for variants in ((1, 2), (3, 4)):
            counts = set()
            for variant in variants:
                shape = LavitaConfig(variant, depth_of_variant(variant, depth), width, heads, 2, 16, 4, 32)
                with torch.device("meta"):
                    network = Lavita(shape)
                millions = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6
                counts.add(f"{shape.depth} blocks, {millions:.2f} M")
            assert len(counts) == 1
            cells += counts
        rows.append(f"| {' | '.join(cells)} |")
    assert "\n".join(rows) in PAGE
