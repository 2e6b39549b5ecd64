"""Events and the heartbeat of a process: written in one step, seldom, and read whatever is left of it."""

import json
from dataclasses import asdict, replace

import pytest

from lavita.executors.heartbeat import (
    HEARTBEAT,
    Beat,
    EventTail,
    Heartbeat,
    Note,
    Plan,
    Progress,
    Result,
    emit,
    progress,
    progress_of_steps,
    read_event,
    read_heartbeat,
)
from lavita.experiment.sessions import begin_session
from lavita.results.records import Record, Session
from lavita.results.rows import Row


def test_a_beat(tmp_path):
    heartbeat = Heartbeat(tmp_path / HEARTBEAT)
    assert read_heartbeat(heartbeat.path) is None
    heartbeat.beat("train", 8)
    heartbeat.beat("train", 16)  # too soon after
    found = read_heartbeat(heartbeat.path)
    assert (found.stage, found.done, found.beats) == ("train", 8, 1)
    assert found.seconds >= 0 and found.peak_bytes > 0
    heartbeat.written -= 1
    heartbeat.beat("sample", 4)
    assert (read_heartbeat(heartbeat.path).stage, read_heartbeat(heartbeat.path).beats) == ("sample", 3)
    assert [path.name for path in tmp_path.iterdir()] == [HEARTBEAT]


SESSION = Session("host", 1, "", "a machine", "python 3", "2026-01-02T03:04:05+00:00")


def with_session(session: Session) -> Record:
    return Record(cell="x-s0", label="x", status="running", row=Row(), sessions=(session,))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[1]", "null", "3", '{"stage": 3}', '{"stage": "train"}', "\0\0"]
    + [json.dumps(asdict(Beat("train", 8, 9, 1.0, 7)) | wrong) for wrong in ({"stage": 3}, {"done": "8"}, {"more": 1})],
)
def test_what_is_no_heartbeat(content, tmp_path):
    """A machine without power may leave anything; the session is then closed without it."""
    (tmp_path / HEARTBEAT).write_text(content)
    assert read_heartbeat(tmp_path / HEARTBEAT) is None
    closed, now = begin_session(with_session(SESSION), tmp_path, "exact")
    assert closed == replace(SESSION, ended="killed") and now.ended == "" and now.arithmetic == "exact"


def test_a_session_that_was_killed_is_closed_by_its_last_heartbeat(tmp_path):
    state = {"stage": "train", "done": 640, "beats": 9, "seconds": 12.5, "peak_bytes": 7}
    (tmp_path / HEARTBEAT).write_text(json.dumps(state))
    closed, _ = begin_session(with_session(SESSION), tmp_path, "exact")
    assert closed == replace(SESSION, ended="killed", stage="train", done=640, seconds=12.5, peak_bytes=7)
    ended = replace(SESSION, ended="ok", stage="x")
    again, _ = begin_session(with_session(ended), tmp_path, "exact")
    assert again == ended


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Progress("train", 8, 16, 0.5), "progress"),
        (Progress("train", 8, 16, 0.5, 1, 2), "progress"),
        (Note("codec trained"), "note"),
        (Plan({"sample untrained": 64.0, "train": None}), "plan"),
        (Result("stale", "another codec", {"codec.path": "ab12"}), "result"),
    ],
)
def test_an_event_is_one_line_that_gives_it_again(event, kind, capsys):
    emit(event)
    line = capsys.readouterr().out
    assert line.endswith("}\n") and line.count("\n") == 1 and json.loads(line.removeprefix("@lavita "))["kind"] == kind
    assert read_event(line) == event


@pytest.mark.parametrize("text", ["words", '{"kind": "note", "text": "a"}', "", "{", "[]", '{"kind": "wish"}', "null"])
def test_text_is_no_event(text):
    assert read_event(text) is None and read_event(f"@lavita {text}") in (None, Note("a"))
    assert read_event('@lavita {"kind": "note", "words": "a"}') is None


def test_progress_is_printed_now_and_then_and_at_the_end_of_a_stage(capsys):
    for stage, done in (("one", 1), ("one", 2), ("two", 1), ("two", 2), ("two", 3)):
        progress(stage, done, 3)
    events = [read_event(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event.stage, event.done) for event in events] == [("one", 1), ("two", 1), ("two", 3)]


@pytest.mark.parametrize(("clips", "done", "total", "steps"), [(8.0, 768, 1536, (96, 192)), (0.1, 0.7, 1.1, (7, 11))])
def test_steps_are_counted_from_clips(clips, done, total, steps, capsys):
    progress_of_steps(clips)(f"steps of {clips}", done, total, 0.25)
    event = read_event(capsys.readouterr().out)
    assert event == Progress(f"steps of {clips}", done, total, 0.25, *steps)


def test_a_tail_gives_whole_lines_from_where_it_began(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text('@lavita {"kind": "result", "status": "failed"}\n')
    tail = EventTail(log)
    with log.open("a") as file:
        file.write('words\n@lavita {"kind": "note", "text": "a"}\n@lavita {"kind": "res')
    assert list(tail.events()) == [Note("a")] and tail.result is None
    with log.open("a") as file:
        file.write('ult", "status": "ok"}\n')
    assert list(tail.events()) == [Result("ok")] and tail.result == Result("ok")
