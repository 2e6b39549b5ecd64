"""The chart is well-formed, holds every point at its place, and escapes what it is given."""

import xml.etree.ElementTree as ET

import pytest

from lavita.bench.chart import HEIGHT, WIDTH, Axis, Point, scatter

SVG = "{http://www.w3.org/2000/svg}"


def test_points_lie_on_logarithmic_axes_and_every_label_stands_once():
    points = [Point("a<b", 1.0, 50.0), Point("a<b", 1.0, 60.0), Point("c", 10.0, 100.0), Point("d", 100.0, 200.0)]
    root = ET.fromstring(scatter(points, "title & more", "x", "y"))
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    assert len(dots) == 4 and all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in dots)
    by_x = sorted({x for x, _ in dots})
    assert by_x[1] - by_x[0] == pytest.approx(by_x[2] - by_x[1], abs=0.15)  # decades are equally wide; 0.1 pixel kept
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert all(texts.count(label) == 1 for label in ("a<b", "c", "d")) and "title & more" in texts


def test_higher_values_stand_higher_and_one_value_still_has_an_axis():
    axis = Axis([10, 1000], 400, 40)
    assert axis.at(1000) < axis.at(100) < axis.at(10)
    assert axis.at(100) == pytest.approx((axis.at(10) + axis.at(1000)) / 2)
    assert 10 in axis.ticks() and 1000 in axis.ticks()
    assert Axis([5, 5], 0, 100).at(5) == pytest.approx(50)
