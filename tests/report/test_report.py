"""The report as text: deterministic, self-contained, escaped, with every number, every failure and its sources."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lavita.report.page import report_html
from lavita.report.page.build import environment
from lavita.report.page.methods import EXTERNAL
from lavita.report.page.text import prose
from lavita.report.write import tables_of_run
from lavita.results.attempts import finalize_record
from lavita.results.audit_line import AuditLine
from lavita.results.run_folder import read_run
from tests.report.folder_of_run import HOSTILE, KEY, PROTOCOL, ROOT_OF_DATA, make_run

VOID = {"img", "meta", "br", "link", "wbr"}


class Page(HTMLParser):
    """Elements in order as (name, attributes, text inside), and whether every start tag found its end tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        entry = (tag, dict(attributes), [])
        assert len(entry[1]) == len(attributes), f"<{tag}> has an attribute twice"
        self.elements.append(entry)
        if tag not in VOID:
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data):
        for entry in self.open:
            entry[2].append(data)

    def all(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for tag, attributes, text in self.elements if tag == name]

    def table(self, class_: str) -> tuple[list[str], list[list[str]]]:
        """Heads and rows of the first table of a class, as texts."""
        start = next(i for i, (tag, a, _) in enumerate(self.elements) if tag == "table" and a.get("class") == class_)
        heads, rows = [], []
        for tag, attributes, text in self.elements[start + 1 :]:
            if tag == "table":
                break
            if tag == "tr":
                rows.append([])
            if tag == "th" and attributes["scope"] == "col":
                heads.append("".join(text))
            elif tag in ("th", "td"):
                rows[-1].append("".join(text))
        return heads, rows[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "out")


@pytest.fixture(scope="module")
def text(folder):
    return report_html(read_run(folder), None)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(folder, text, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert report_html(read_run(tmp_path / "elsewhere"), None) == text
    assert ROOT_OF_DATA not in text and str(folder) not in text


def test_it_is_whole_html_and_loads_nothing(page, text):
    assert not page.open and text.startswith("<!DOCTYPE html>\n<html")
    assert page.all("html")[0][0]["lang"] == "en"
    for attributes, _ in page.all("img") + page.all("link"):
        assert (attributes.get("src") or attributes["href"]).startswith("data:")
    assert not page.all("iframe") and "url(" not in text and "@import" not in text
    assert {a["href"] for a, _ in page.all("a") if "://" in a["href"]} >= {"https://example.org/lvdm"}
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a, _ in page.all("a") if a["href"].startswith("#")} <= set(ids)


def test_only_its_own_script_may_run(page):
    ((attributes, script),) = page.all("script")
    policy = next(a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and not attributes
    assert not [key for _, attributes, _ in page.elements for key in attributes if key.startswith("on")]


def test_text_of_records_is_never_markup(page, text):
    assert "<script>alert" not in text
    said = [row for row in page.table("scores")[1] if row[0].startswith("vdt")]
    assert said[0][1] == HOSTILE
    assert any(HOSTILE in words for _, words in page.all("li"))  # a file name that was left out


def test_the_row_of_frames_that_know_nothing_of_each_other_is_explained_before_its_numbers(folder, page, text):
    """The first that a reader sees of it, and again at its numbers; not in what programs read."""
    said = "he lower bound: each frame is generated by itself, so its frames may be good, but its motion must be bad"
    points = dict(zip(*([words for _, words in page.all(tag)] for tag in ("dt", "dd")), strict=False))
    assert points["Row dit"].strip().startswith(f"T{said}.")
    assert text.index(f"T{said}") < text.index("dit-s0"), "first met in a figure or a number"
    (row,) = [line for line in page.table("scores")[1] if line[0].startswith("dit")]
    assert row[-1] == f"t{said}"
    texts = tables_of_run(read_run(folder)).texts
    assert said in texts["table.md"] and said in texts["table.tex"]
    assert said not in texts["table.csv"] and said not in texts["rows.csv"]


def test_it_says_of_the_metric_what_it_is_sensitive_to_and_of_the_rows_whether_they_are_noise(page):
    points = dict(zip(*([words for _, words in page.all(tag)] for tag in ("dt", "dd")), strict=False))
    assert "Sensitive to static 10.0; not sensitive at this size to shuffled 1.00" in points["Metric"]
    assert "distinguishes the samples of 0 of 2 rows from noise; not those of dit-s0, pvdm-s0." in points["Noise"]
    lines = [words for _, words in page.all("li") if "% of the way from noise to real clips" in words]
    assert [line.partition(",")[0] for line in lines] == ["dit-s0: no", "pvdm-s0: no"]


def with_words(folder: Path, words: str) -> list[tuple[str, list[str]]]:
    """Elements and their attributes of the page of a run whose records end every free text in these words."""
    plan = json.loads((folder / "run.json").read_text())
    for one in plan["not_yet"]:
        one |= {key: one[key] + words for key in ("name", "title", "source")}
    (folder / "run.json").write_text(json.dumps(plan | {key: plan[key] + words for key in ("title", "suite")}))
    for path in (folder / "cells").glob("*/record.json"):
        record = json.loads(path.read_text())
        texts = {key: text + words for key, text in record["row"].items() if key in TEXTS}
        record["card"]["reader_note"] = words
        known = {"about": {"Paper": f"Of **{words}** `{words}` [{words}](https://e.org/{words})"}, "title": words}
        record["card"] |= known | {"provenance": words, "why": dict.fromkeys(record["card"]["why"], words)}
        record |= {"row": record["row"] | texts, "external_weights": {words: words}, "declared": {words: words}}
        record |= {"reason": words, "starting_weights": {"taken": [], "source": words, "left": {}, "unused": []}}
        record["deviations"] = [line + words for line in record["deviations"]]
        path.write_text(json.dumps(record))
    (path,) = folder.glob("shared/*/shared.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol_name": words, "sanity_text": words}))
    lines = [AuditLine("budget" + words, words, "fail", words)]
    return [(tag, sorted(attributes)) for tag, attributes, _ in Page(report_html(read_run(folder), lines)).elements]


TEXTS = ("dataset", "protocol", "extractor", "hardware", "versions", "started_at", "commit", "config_hash")


def test_what_records_say_changes_no_element_of_the_page(tmp_path):
    harmless = with_words(make_run(tmp_path / "harmless"), "harmless")
    hostile = with_words(make_run(tmp_path / "hostile"), "</p><img/src='x'/onerror=\"y\">&lt;{{7}}{%x%}")
    assert len(harmless) > 1000 and hostile == harmless


def test_only_addresses_of_the_web_are_links(tmp_path):
    folder = make_run(tmp_path / "out")
    plan = json.loads((folder / "run.json").read_text())
    plan["not_yet"][0]["source"] = "javascript:alert(1)"
    (folder / "run.json").write_text(json.dumps(plan))
    addresses = [attributes["href"] for attributes, _ in Page(report_html(read_run(folder), None)).all("a")]
    assert addresses and not [one for one in addresses if one.startswith("javascript:")]


def test_scores_are_those_of_rows_csv(folder, page):
    rows = list(csv.DictReader(io.StringIO(tables_of_run(read_run(folder)).texts["rows.csv"])))
    heads, lines = page.table("scores")
    metric = heads.index("FVD (in-domain, 8 clips of 8 frames) ↓")
    for label in ("dit", "pvdm"):
        mine = {row["stage"]: row for row in rows if row["method"] == label and row["metric"].startswith("fvd_")}
        cell = next(line for line in lines if line[0].startswith(label))[metric]
        shown = [f"{float(mine['train'][key]):#.4g}".rstrip(".") for key in ("value", "ci_low", "ci_high")]
        start = f"{float(mine['untrained']['value']):#.4g}".rstrip(".")
        assert cell == f"{shown[0]} ({shown[1]} to {shown[2]}) untrained {start}"
    _, ledger = page.table("ledger")
    wanted = [[row["cell"], row["metric"], row["value"]] for row in rows if row["metric"]]
    assert [[line[0], line[2], line[3]] for line in ledger if line[2] != "none"] == wanted
    assert all("pppppppppppp" in line[7] and "embedded" in line[8] for line in ledger)


def test_no_row_is_silently_absent(page):
    rows = {line[0]: line[1] for line in page.table("scores")[1]}
    assert rows["vdtseed 0 failed"] == HOSTILE
    assert rows["lavita-v1not run"].startswith("a row of this suite that was not run")
    assert rows["lvdmnot yet"].startswith("LVDM: a title (He et al.)")
    assert rows["diffposeleft out"] == "DiffPose: estimates poses"


def test_a_score_of_another_network_says_that_it_is_not_comparable(page, text):
    cautions = [words for a, words in page.all("p") if a.get("class") == "caution"]
    assert any(words.startswith("Not comparable with any published FVD") for words in cautions)
    assert f"protocol {PROTOCOL} (pppppppppppp); extractor embedded (eeeeeeeeeeee)" in text


def test_settings_stand_as_published_and_as_here(page):
    heads, rows = page.table("settings")
    found = {row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows}
    assert found["sampling.steps"] == {"dit": "250 → 25", "vdt": "250 → 25", "pvdm": "400 → 25"}
    assert found["train.weight_decay"]["pvdm"] == "0.01 → 0.0" and found["train.weight_decay"]["dit"] == "0.0"


def test_pictures_are_the_files_of_the_run(folder, page):
    pictures = [base64.b64decode(a["src"].partition(",")[2]) for a, _ in page.all("img")]
    files = [folder / "shared" / KEY / "real.sprite.webp", *sorted(folder.glob("cells/*/samples.sprite.webp"))]
    assert pictures[:3] == [file.read_bytes() for file in files]
    assert all(a["alt"] for a, _ in page.all("img"))
    captions = [words for _, words in page.all("figcaption")]
    said = "dit-s0: sampling seeds 0 to 15 of 20; FVD (in-domain, 8 clips of 8 frames) 33.33"
    assert any(words.startswith(said) for words in captions)
    missing = [words for a, words in page.all("p") if a.get("class") == "missing"]
    assert missing == [f"No clips. failed: {HOSTILE}"]


def test_the_digest_stands_there_with_what_it_is_for(folder, text):
    digest = read_run(folder).digest
    assert f"python benchmarks/audit.py DIR --digest {digest}" in text
    assert "The audit was not run when this page was made." in text


def test_audit_lines_stand_there_what_failed_first(folder):
    lines = [
        AuditLine("budget", "dit-s0", "pass", "2048 and 2048"),
        AuditLine("frames", "pvdm-s0", "fail", "8 here, 16 there <b>"),
        AuditLine("codec", "pvdm-s0", "not applicable", "has its own"),
    ]
    page = Page(report_html(read_run(folder), lines))
    start = next(i for i, (_, a, _) in enumerate(page.elements) if a.get("id") == "audit")
    cells = ["".join(text) for tag, _, text in page.elements[start:] if tag == "td"]
    assert cells[:3] == ["pvdm-s0", "fail", "8 here, 16 there <b>"]
    assert any("3 checks, 1 pass, 1 fail, 1 not applicable" in words for _, words in page.all("p"))
    assert len(page.table("audit")[1]) == 1
    assert any(words == "All 3 checks" for _, words in page.all("summary"))


def test_a_budget_in_seconds_is_said_so(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    for cell in (tmp_path / "out" / "cells").iterdir():
        record = json.loads((cell / "record.json").read_text())
        record["config"]["budget"] |= {"currency": "seconds", "clips": None, "seconds": 40.0}
        if record["status"] == "ok":
            record["row"]["clips_seen"] = sum(stage["clips"] for stage in record["stages"])
        (cell / "record.json").write_text(json.dumps(record))
    page = Page(report_html(read_run(tmp_path / "out"), None))
    said = [words for _, words in page.all("dd")]
    assert any("first step that reached 40 seconds; so rows saw 2,048 to 2,048 clips" in words for words in said)


def test_headings_are_in_order_and_charts_have_names(page):
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    svgs = page.all("svg")
    assert len(svgs) == 2 + 3  # cost in FLOPs and seconds, losses of three runs
    titles = {a["id"]: words for a, words in page.all("title") + page.all("desc") if "id" in a}
    for attributes, _ in svgs:
        assert attributes["role"] == "img"
        assert all(titles[name] for name in attributes["aria-labelledby"].split(" "))
    assert all(a["scope"] for a, _ in page.all("th")) and len(page.all("caption")) == len(page.all("table"))


def test_a_folder_without_cards_and_pictures_says_so(tmp_path):
    folder = make_run(tmp_path / "old")
    for file in folder.rglob("*.sprite.*"):
        file.unlink()
    plan = json.loads((folder / "run.json").read_text())
    plan.pop("not_yet")
    (folder / "run.json").write_text(json.dumps(plan))
    for cell in (folder / "cells").iterdir():
        record = json.loads((cell / "record.json").read_text())
        record.pop("card")
        (cell / "record.json").write_text(json.dumps(record))
        (cell / "steps.csv").unlink()
        finalize_record(cell)
    text = report_html(read_run(folder), None)
    assert "No picture was kept of these clips" in text and EXTERNAL in text
    assert not Page(text).open


def test_several_seeds_stand_in_one_card_each_with_its_clips(tmp_path):
    page = Page(report_html(read_run(make_run(tmp_path / "out", seeds=(0, 1))), None))
    assert len([a for a, _ in page.all("article")]) == 3
    rows = [line[0] for line in page.table("scores")[1]]
    assert rows[:4] == ["ditseed 0 ok", "ditseed 1 ok", "vdtseed 0 failed", "vdtseed 1 failed"]
    captions = [words for _, words in page.all("figcaption")]
    assert any(words.startswith("pvdm-s1: sampling seeds") for words in captions)


def as_html(text: str) -> str:
    """A Markdown text as the page writes it, without the line breaks of the templates between elements."""
    made = environment().get_template("macros.html.j2").module.prose(prose(text))
    return re.sub(r">\n+<", "><", made).strip()


def test_prose():
    written = (
        "One `a<b` **c**\nline.\n* first\n  goes on\n  * inner\n* [x](https://e.org) [y](z.md)\n\n"
        "| a | b |\n| --- | --- |\n| 1 | 2\\|3 |"
    )
    made = as_html(written)
    assert made.startswith("<p>One <code>a&lt;b</code> <strong>c</strong> line.</p><ul><li>first goes on<ul><li>inner")
    assert '<a href="https://e.org" rel="noreferrer">x</a> y</li>' in made
    assert "<td>2|3</td>" in made and "---" not in made
    assert as_html("[x](javascript:alert(1))") == "<p>x)</p>"
