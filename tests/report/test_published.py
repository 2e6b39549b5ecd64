"""The published numbers: read strictly, and consistent in themselves."""

import csv
import re
from collections import defaultdict

import pytest

from lavita.config.compose import load_yaml
from lavita.config.protocol import Protocol
from lavita.config.registry import names_in
from lavita.report.published import COLUMNS, EVIDENCE, PATH, UNVERIFIED, read_reported

NUMBERS = read_reported()
LINES = PATH.read_text(encoding="utf-8").splitlines()
LINE = dict.fromkeys(COLUMNS, "") | {
    "method": "A", "dataset": "UCF101", "resolution": "256x256", "frames": "16", "metric": "FVD", "value": "1.5",
    "lower_is_better": "true", "own": "true", "as_reported_by": "A", "source": "a paper", "evidence": UNVERIFIED,
}  # fmt: skip


def written(tmp_path, *lines, columns=COLUMNS):
    path = tmp_path / "reported.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_a_line_is_read(tmp_path):
    (one,) = read_reported(written(tmp_path, LINE | {"std": "0.5", "bound": "about"}))
    assert (one.value, one.std, one.frames, one.lower_is_better, one.own) == (1.5, 0.5, 16, True, True)
    assert one.seen_std is None  # unverified
    (size,) = read_reported(written(tmp_path, LINE | {"lower_is_better": "", "evidence": EVIDENCE[0], "std": "2"}))
    assert size.lower_is_better is None and size.seen_std == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": ""}, "line 3: evidence is '', allowed 'second-hand'"),
        ({"evidence": "certain"}, "line 3: evidence is 'certain'"),
        ({"value": "12 to 15"}, "line 3: value is '12 to 15', wanted a number"),
        ({"value": "nan"}, "line 3: value is 'nan'"),
        ({"value": "-3"}, "line 3: value is '-3'"),
        ({"value": ""}, "line 3: value is empty"),
        ({"std": "small"}, "line 3: std is 'small'"),
        ({"source": " "}, "line 3: source is empty"),
        ({"frames": "16.0"}, "line 3: frames is '16.0'"),
        ({"resolution": "256"}, "line 3: resolution is '256', wanted for example 256x256"),
        ({"lower_is_better": "na"}, "line 3: lower_is_better is 'na'"),
        ({}, "line 3: says the same as line 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_reported(written(tmp_path, LINE, LINE | change))


def test_wrong_columns_are_named(tmp_path):
    for columns, message in (
        ([*COLUMNS, "opinion"], r"line 1: unknown columns \['opinion'\]"),
        (COLUMNS[:-1], r"missing columns \['reprinted_by'\]"),
        (COLUMNS[::-1], r"unknown columns \[\], missing columns \[\]; wanted method,"),
    ):
        with pytest.raises(ValueError, match=message):
            read_reported(written(tmp_path, LINE, columns=columns))
    path = written(tmp_path, LINE)
    path.write_text(path.read_text() + "A,too,short\n")
    with pytest.raises(ValueError, match="line 3: got 3 cells, wanted 19"):
        read_reported(path)


def test_the_file_knows_its_data_sets_and_directions():
    titles = {load_yaml("datasets", name)["title"] for name in names_in("datasets")}
    for one in NUMBERS:
        assert one.dataset in titles | {""}, one
        size = one.metric in ("parameters (M)", "multiply-adds (G)", "sampling TFLOPs")
        better = None if size else one.metric not in ("IS", "PSNR")
        assert one.lower_is_better is better, one
        # Only UCF101 has classes.
        assert one.dataset in ("UCF101", "") or one.conditioning == "none", one


def test_a_protocol_is_written_as_the_suite_writes_it_and_fits_its_line():
    """The name is rebuilt from the preset's file by `derive`, and the shape of its clips is the line's."""
    for one in NUMBERS:
        if not one.protocol:
            continue
        base, _, inside = one.protocol.partition("[")
        protocol = Protocol.from_dict(load_yaml("protocols", base) | {"name": base})
        changes = dict(item.split("=") for item in inside.rstrip("]").split(",") if item)
        changes = {key: int(value) if value.isdecimal() else value for key, value in changes.items()}
        protocol = protocol.derive(**changes) if changes else protocol
        assert protocol.name == one.protocol
        assert f"{protocol.resolution}x{protocol.resolution}" == one.resolution, one
        assert protocol.frames == one.frames, one


def test_one_number_of_one_setting_stands_there_once():
    """What the authors print of a setting is one value; reprints of it stand in its own line."""
    values = defaultdict(set)
    for one in NUMBERS:
        if one.own:
            key = (one.method, one.variant, one.dataset, one.resolution, one.frames, one.metric)
            assert one.value not in values[key], one
            values[key].add(one.value)
    assert all(len(found) == 1 for found in values.values())
    # A score that equals another of the same method, data set and metric is a reprint or a slip: none is left.
    scores = defaultdict(list)
    for one in NUMBERS:
        if one.metric in ("FVD", "IS", "FID", "KVD", "FID-C3D"):
            scores[one.method, one.dataset, one.frames, one.metric, one.value].append(one.variant)
    assert [key for key, variants in scores.items() if len(variants) > 1] == []


def test_lines_are_plain_text_and_say_whence():
    assert all(line == line.strip() for line in LINES)
    for one in NUMBERS:
        if one.evidence == UNVERIFIED:
            assert "not seen" in one.source or one.table or one.source.startswith("MoStGAN-V"), one
        else:
            assert "not seen" not in one.source, one
        assert (one.evidence == EVIDENCE[1]) <= (one.std is not None), one
