"""The report in a real browser: widths, keys, motion, names, contrast, print, and the numbers of rows.csv."""

from __future__ import annotations

import csv

import pytest

NO_MOTION = {"reduced_motion": "reduce"}


def test_it_opens_from_disk_and_asks_for_nothing(opened):
    page = opened()
    assert page.title() == "UCF101 & more, ucf101 (hand-made)"
    assert page.locator("main > section").count() >= 9
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_its_policy_refuses_the_network(opened):
    page = opened()
    refused = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
            fetch('https://example.org/x').catch(() => 0);
        })"""
    )
    assert refused == "connect-src" and len(opened.said) == 2
    opened.said.clear()
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<a id=bad onclick=\"document.title = 1\">x</a>')")
    page.locator("#bad").click()
    assert page.title() != "1" and "inline event handler" in opened.said[0]
    opened.said.clear()


@pytest.mark.parametrize("width", [360, 1280])
def test_only_boxes_scroll_sideways_never_the_page(opened, width):
    page = opened(width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(box => "
        "[box.scrollWidth > box.clientWidth + 1, !box.previousElementSibling.hidden])"
    )
    assert all(wider == hinted for wider, hinted in boxes)
    if width == 360:
        assert any(wider for wider, _ in boxes)
        box = page.locator(".scroll:has(table.scores)")
        box.evaluate("box => { box.scrollLeft = 200; }")
        head = page.locator("table.scores tbody th").first.bounding_box()
        assert head["x"] >= 0, "the row's name stays in view"


def test_every_control_is_reached_by_tab_in_the_order_of_the_page(opened):
    page = opened()
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('a[href], button, summary, .scroll')]
            .filter(one => one.checkVisibility({contentVisibilityAuto: true}))
            .map((one, number) => { one.dataset.stop = number; return number; })"""
    )
    reached = []
    for _ in range(len(wanted)):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.stop"))
    assert reached == [str(number) for number in wanted]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none", "what has the focus shows it"


def test_the_skip_link_comes_first_and_shows_itself(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#short"


def states(page) -> set[str]:
    return set(page.evaluate("document.getAnimations().map(one => one.playState)"))


def test_clips_move_frame_by_frame(opened):
    page = opened()
    tops, height = page.evaluate(
        """() => { const image = document.querySelector('.window img'), found = [];
            const moves = image.getAnimations().find(one => one.animationName == 'down');
            for (const step of [0, 1, 7]) {  // an eighth of a second a frame, eight frames
                moves.currentTime = 125 * step + 60;
                found.push(image.getBoundingClientRect().top - image.parentElement.getBoundingClientRect().top);
            }
            return [found, image.parentElement.getBoundingClientRect().height]; }"""
    )
    assert tops == pytest.approx([0, -height, -7 * height], abs=0.5)


def test_one_button_pauses_every_clip(opened):
    page = opened()
    button = page.locator("#motion")
    assert states(page) == {"running"} and button.count() == 1 and button.inner_text() == "Pause all clips"
    button.focus()
    page.keyboard.press("Enter")
    assert states(page) == {"paused"} and button.inner_text() == "Play all clips"
    page.keyboard.press("Space")
    assert states(page) == {"running"}


def test_who_asked_for_less_motion_gets_none_until_asking_for_it(opened):
    page = opened(**NO_MOTION)
    assert states(page) == set()
    assert page.evaluate("getComputedStyle(document.querySelector('.window img')).top") == "0px"
    page.get_by_role("button", name="Play all clips").click()
    assert states(page) == {"running"}


def test_whatever_a_screen_reader_meets_has_a_name(opened):
    """Names as the browser computes them for assistive technology."""
    page = opened()
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    names: dict[str, list[str]] = {}
    for node in tree:
        if not node["ignored"]:
            names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("image", "region", "table", "article", "navigation", "button", "link"):
        assert names.get(role) and all(names[role]), role
    assert len(names["image"]) == 2 + 3 + 3 + 1  # cost, losses, clips and real ones, the autoencoder
    assert all(len(one) > 20 for one in names["image"])
    assert len(set(names["region"])) == len(names["region"]), "two boxes have one name"


CONTRASTS = """() => {
    const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = one => {
        for (let at = one; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length == 3 || colour[3] > 0) { return colour; }
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || ['SCRIPT', 'STYLE', 'title', 'desc'].includes(one.tagName)) { continue; }
        const style = getComputedStyle(one);
        const drawn = one.namespaceURI.endsWith('svg') ? style.fill : style.color;
        const [a, b] = [light(parse(drawn)), light(ground(one))].sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 40), drawn]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened, scheme):
    """WCAG 2.2, 1.4.3: at least 4.5 for text; marks of charts at least 3 (1.4.11)."""
    page = opened(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert not [one for one in found if one[0] < 4.5]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    marks = page.evaluate(
        "() => [...document.querySelectorAll('svg circle')].map(one => getComputedStyle(one).fill)"
        ".concat([...document.querySelectorAll('svg .train, svg .heldout')].map(one => getComputedStyle(one).stroke))"
    )
    bright = [brightness(colour) for colour in marks if colour != "none"]
    ground = brightness(paper)
    assert bright and all((max(one, ground) + 0.05) / (min(one, ground) + 0.05) >= 3 for one in bright)


def brightness(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)". Source: WCAG 2.2, definition of relative luminance."""
    values = [float(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_print_shows_what_is_folded_and_cuts_no_table(opened):
    page = opened(1032)  # A4 across, less its margins, in CSS pixels
    page.emulate_media(media="print")
    ledger = page.locator("table.ledger")
    assert ledger.is_visible() and ledger.bounding_box()["height"] > 100
    wide = "[...document.querySelectorAll('table, svg')].map(one => one.getBoundingClientRect().right)"
    assert max(page.evaluate(wide)) <= 1032
    assert not page.locator("#motion").is_visible() and not page.locator("nav").is_visible()
    assert states(page) == set()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0  # folded again


def test_without_print_what_is_folded_stays_folded(opened):
    page = opened()
    assert not page.locator("table.ledger").is_visible()
    page.locator("summary", has_text="Every number").click()
    assert page.locator("table.ledger").is_visible()


def test_the_numbers_are_those_of_rows_csv(opened, report):
    with open(report.with_name("rows.csv"), newline="", encoding="utf-8") as file:
        wanted = [[row["cell"], row["metric"], row["value"]] for row in csv.DictReader(file) if row["metric"]]
    page = opened()
    shown = page.evaluate(
        "[...document.querySelectorAll('table.ledger tbody tr')]"
        ".map(row => [0, 2, 3].map(place => row.cells[place].textContent))"
    )
    assert [row for row in shown if row[1] != "none"] == wanted


def column(page, table: str, place: int) -> list[str]:
    """The texts of a column, from above."""
    cells = f"[...document.querySelectorAll('{table} tbody tr')].map(row => row.cells[{place}]?.textContent.trim())"
    return page.evaluate(cells)


def heads(page, table: str) -> dict[str, str | None]:
    """aria-sort of every column, by its head."""
    read = (
        "[...document.querySelectorAll('%s thead th')].map(head => [head.textContent, head.getAttribute('aria-sort')])"
    )
    return dict(page.evaluate(read % table))


def test_scores_sort_by_a_column_and_what_failed_stays_below(opened, report):
    with open(report.with_name("rows.csv"), newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "train"]
    page, metric = opened(), "FVD (in-domain, 8 clips of 8 frames) ↓"
    table, name = "table.scores", lambda text: text.split("seed")[0]
    before = column(page, table, 0)
    better = sorted((row for row in rows if row["metric"] == "fvd_embedded_n8_f8"), key=lambda row: float(row["value"]))
    wanted = [row["method"] for row in better]
    below = [text for text in before if name(text) not in wanted]
    assert len(wanted) == 2 and len(below) > 3 and any("failed" in text for text in below)
    assert before.index(below[0]) < len(wanted), "else nothing moves"
    button = page.locator(f"{table} thead").get_by_role("button", name=metric)
    for direction, order in (("ascending", wanted), ("descending", wanted[::-1])):
        button.click()
        assert heads(page, table)[metric] == direction and sum(map(bool, heads(page, table).values())) == 1
        found = column(page, table, 0)
        assert [name(text) for text in found[:2]] == order and found[2:] == below
    button.click()
    assert column(page, table, 0) == before and not any(heads(page, table).values())


def test_numbers_sort_by_size_and_words_by_letters_with_keys_too(opened):
    page = opened()
    page.locator("summary", has_text="Every number").click()
    table = "table.ledger"
    values = column(page, table, 3)
    numbers = sorted((text for text in values if text[0].isdigit()), key=float)
    assert len(set(numbers)) > 5 and sorted(numbers) != numbers, "letters would sort them otherwise"
    missing = [text for text in values if not text[0].isdigit()]
    assert missing == ["failed"]
    page.locator(f"{table} thead").get_by_role("button", name="value").focus()
    page.keyboard.press("Enter")
    assert column(page, table, 3) == numbers + missing and heads(page, table)["value"] == "ascending"
    page.keyboard.press("Space")
    assert column(page, table, 3) == sorted(numbers, key=float, reverse=True) + missing
    page.locator(f"{table} thead").get_by_role("button", name="cell").click()
    assert heads(page, table)["value"] is None and heads(page, table)["cell"] == "ascending"
    assert column(page, table, 0) == sorted(column(page, table, 0))


def test_rows_sort_by_their_names_alone(opened):
    page, table = opened(), "table.scores"
    page.locator(f"{table} thead").get_by_role("button", name="row").click()
    states = "[...document.querySelectorAll('table.scores tbody th')].map(head => head.firstChild.data.trim())"
    found = page.evaluate(states)
    assert found == sorted(found) and len(found) > 5


def test_without_a_script_tables_are_plain(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("table.scores thead th").count() > 3 and page.locator("th button").count() == 0
    assert not page.locator("#sorting").is_visible()


def test_hostile_text_is_text(opened):
    page = opened()
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("table.scores", has_text="<script>alert('x')</script>").count() == 1
