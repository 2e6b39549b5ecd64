"""A card a method: the authors' settings and what differs, samplers, stages, cost, what was not released."""

from __future__ import annotations

from typing import Any

from lavita.report.page.html import Html, breakable, details, element, points, section, table, together
from lavita.report.page.prose import prose
from lavita.report.page.scores import slug
from lavita.results.run_folder import RunFolder

MADE_ELSEWHERE = "Clips made elsewhere: how the method was trained and sampled is not audited."
SHARED = ("train", "sampling")  # sections that every method has
SETTINGS = (*SHARED, "model")


def cards_section(run: RunFolder) -> Html:
    """A card for each row of the tables."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for record in run.records:
        by_label.setdefault(record["label"], []).append(record)
    told: dict[str, str] = {}
    cards = [card(label, records, told) for label, records in by_label.items()]
    intro = element(
        "p",
        "What each method’s authors published, what this run did instead and why, and what had to be guessed because "
        "it was never released. Settings that are not listed as differing are the authors’ own.",
    )
    return section("methods", "Methods", intro, matrix({name: one[0] for name, one in by_label.items()}), *cards)


def matrix(records: dict[str, dict[str, Any]]) -> Html | None:
    """Every training and sampling setting of all rows beside each other, as published and as here."""
    known = {label: record for label, record in records.items() if record.get("card")}
    if not known:
        return None
    names = list(
        dict.fromkeys(f"{part}.{key}" for one in known.values() for part in SHARED for key in one["config"][part])
    )
    lines = [(breakable(name), *[side_by_side(record, name) for record in known.values()]) for name in names]
    caption = (
        "Training and sampling settings of every row. An arrow leads from the authors’ value to the one used here; one "
        "value alone is both."
    )
    return table(caption, ("setting", *known), lines, "Settings of all rows", "settings")


def side_by_side(record: dict[str, Any], name: str) -> str | Html:
    """A setting's published value and, where it differs, the one used here."""
    part, _, key = name.partition(".")
    here = plain(record["config"][part].get(key, "not a setting of it"))
    if name not in changes(record):
        return here
    return together([plain(record["card"]["authors"].get(name)), " → ", element("strong", here)])


def changes(record: dict[str, Any]) -> dict[str, str]:
    """By setting, "published -> here" of those that are not the authors' own."""
    return dict(line.partition(": ")[::2] for line in record["deviations"])


def card(label: str, records: list[dict[str, Any]], told: dict[str, str]) -> Html:
    """One method; told: the texts that an earlier card holds, with its name, so that none is printed twice."""
    record, known = records[0], records[0].get("card") or {}
    title = f"{label}: {known['title']}" if known else label
    parts = [element("h3", title, id=f"card-{slug(label)}")]
    if not known:
        parts.append(element("p", MADE_ELSEWHERE if "card" in record else "This run is older than the cards."))
    parts.append(
        element("div", points(facts(records, known)), element("div", stages_table(label, records)), class_="halves")
    )
    if known:
        parts.append(differences(label, record, known))
        parts += texts(label, known.get("about", {}), told)
    return element("article", *parts, class_="card", aria_labelledby=f"card-{slug(label)}")


def facts(records: list[dict[str, Any]], known: dict[str, Any]) -> list[tuple[str, Any]]:
    """The lines of a card that are one value."""
    record = records[0]
    sampling, row = record["config"]["sampling"], record["row"]
    failed = [f"{one['cell']}: {one['status']}, {one.get('reason') or 'no reason'}" for one in records
              if one["status"] != "ok"]  # fmt: skip
    found = [("Status", "; ".join(failed) or "ok")]
    if known:
        found.append(("Where from", known["provenance"]))
        sampler = (
            f"{sampling['sampler']}, {sampling['steps']} steps, eta {sampling['eta']:g}, guidance "
            f"{sampling['guidance']:g}, task {sampling['task']}; weights: the last of training, averaged (EMA) where "
            "the method averages"
        )
        found.append(("Sampler", sampler))
    found.append(("Training seeds", ", ".join(str(one["row"]["seed"]) for one in records)))
    if row.get("params_trained"):
        trained, total = row["params_trained"] / 1e6, row["params_total"] / 1e6
        found.append(("Parameters", f"{trained:.2f} M trained, {total:.2f} M in all"))
    outside = [f"{key}: {name}" for key, name in record.get("outside", {}).items()]
    bytes_of = row.get("external_bytes")
    outside += [f"{bytes_of / 2**20:.1f} MiB in all"] if bytes_of else []
    if known:
        found.append(("Weights from outside", "; ".join(outside) or "none"))
    declared = [f"{key}: {said}" for key, said in record.get("declared", {}).items()]
    if declared:
        found.append(("Declared by the method", "; ".join(declared)))
    start = record.get("initialised")
    if start:
        found.append(("Started from", f"{len(start['taken'])} tensors of {start['source']}"))
    return found


def stages_table(label: str, records: list[dict[str, Any]]) -> Html | None:
    """What each stage spent of the budget."""
    lines = []
    for record in records:
        budget = sum(stage["clips"] for stage in record.get("stages", []))
        for stage in record.get("stages", []):
            whose = "the suite’s, charged in full" if stage.get("charged") else "its own"
            share = f"{100 * stage['clips'] / budget:.1f} %"
            lines.append((stage["name"], str(record["row"]["seed"]), f"{stage['clips']:,}", share,
                          f"{stage['seconds']:.1f}", f"{stage['flops'] * 1e-12:.4g}", whose))  # fmt: skip
    if not lines:
        return element("p", "No stages are recorded: the row did not end, or was not trained here.")
    columns = ("stage", "seed", "clips", "share of the clips", "seconds", "TFLOPs", "whose")
    return table("Stages, in the order of training.", columns, lines, f"Stages of {label}", "stages")


def differences(label: str, record: dict[str, Any], known: dict[str, Any]) -> Html:
    """Every setting: those that differ from the authors' in the open, the others folded."""
    authors, why, config = known["authors"], known["why"], record["config"]
    here = {f"{section}.{key}": value for section in SETTINGS for key, value in config[section].items()}
    said, lines = changes(record), []
    for name, change in said.items():
        before, _, after = change.partition(" -> ")
        lines.append((breakable(name), plain(before), plain(after), why.get(name, "")))
    same = [f"{name} {plain(value)}" for name, value in here.items() if name not in said and name in authors]
    columns, label_of = ("setting", "authors", "here", "where from"), f"Settings of {label} that differ"
    open_ = (
        details(
            f"{len(lines)} settings that differ from the authors’, and where from",
            table("Settings that differ.", columns, lines, label_of, "settings"),
        )
        if lines
        else element("p", "Every setting is the authors’ own.")
    )
    folded = details(f"{len(same)} settings that are the authors’ own", element("p", "; ".join(same), "."))
    return together([open_, folded])


def plain(value: Any) -> str:
    """A value of a setting, as people write it."""
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def texts(label: str, about: dict[str, str], told: dict[str, str]) -> list[Html]:
    """What the method's README says; a text that stood in an earlier card is named, not repeated."""
    if not about:
        return [element("p", "The method’s folder has no README.md, so what was released is not known.")]
    key = "\n".join(f"{heading}\n{about[heading]}" for heading in sorted(about))
    if key in told:
        link = element("a", told[key], href=f"#card-{slug(told[key])}")
        return [element("p", "Paper, code, what was released and what differs in it: as for ", link, ".")]
    told[key] = label
    parts = []
    for heading in ("Paper", "Source, commit, licence", "What was released and what was missing"):
        if heading in about:
            parts += [element("h4", heading), prose(about[heading], heading)]
    for heading in ("What differs here and why", "Author settings"):
        if heading in about:
            parts.append(details(f"{heading}, in words", prose(about[heading], f"{heading} of {label}")))
    return parts
