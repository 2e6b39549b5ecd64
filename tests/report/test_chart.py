"""The chart is well-formed, holds every point at its place, and escapes what it is given."""

import re
import xml.etree.ElementTree as ET

import pytest

from lavita.report.charts import BOTTOM, HEIGHT, WIDTH, LinearAxis, LogAxis, Point, scatter

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
    axis = LogAxis([10, 1000], 400, 40)
    assert axis.at(1000) < axis.at(100) < axis.at(10)
    assert axis.at(100) == pytest.approx((axis.at(10) + axis.at(1000)) / 2)
    assert 10 in axis.ticks() and 1000 in axis.ticks()
    assert LogAxis([5, 5], 0, 100).at(5) == pytest.approx(50)


def test_intervals_are_drawn_around_their_dots_and_said_in_words():
    points = [Point("a", 1.0, 50.0, 40.0, 60.0), Point("b", 10.0, 100.0, -5.0, 200.0), Point("c", 10.0, 90.0)]
    root = ET.fromstring(scatter(points, "title", "x", "y"))
    ways = [path.get("d") for path in root.iter(f"{SVG}path") if "line" in path.get("class") and "V" in path.get("d")]
    assert len(ways) == 2  # the third has no interval
    ends = [[float(end) for end in re.match(r"M[\d.]+ ([\d.]+)V([\d.]+)", way).groups()] for way in ways]
    dot = next(iter(root.iter(f"{SVG}circle")))
    assert ends[0][1] < float(dot.get("cy")) < ends[0][0]  # pixels grow downwards
    assert ends[1][0] == HEIGHT - BOTTOM  # below 0 there is no logarithm: the bar extends to the axis
    assert "a: 1.000, 50.00 (40.00 to 60.00)" in root.findtext(f"{SVG}desc")


def test_labels_lie_on_no_dot_and_on_no_other_label():
    points = [Point(f"method-{i}", 1.0 + 0.01 * i, 50.0 + i, 45.0, 60.0) for i in range(8)]
    root = ET.fromstring(scatter(points, "title", "x", "y"))
    boxes = []
    for text in root.iter(f"{SVG}text"):
        if (text.text or "").startswith("method-"):
            x, y = float(text.get("x")), float(text.get("y"))
            boxes.append((x, y - 11, x + 7.4 * len(text.text), y + 3))
    assert len(boxes) == 8
    for number, a in enumerate(boxes):
        assert 0 < a[0] and a[2] < WIDTH
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:number])


def test_even_axis_has_round_ticks_on_both_sides_of_zero():
    axis = LinearAxis([-3.0, 9.0], 0, 100)
    assert axis.ticks() == [-2.5, 0.0, 2.5, 5.0, 7.5]
    assert axis.at(3.0) == pytest.approx(50)
    assert LinearAxis([2.0, 2.0], 0, 100).at(2.0) == pytest.approx(50)
