"""The sign of life of a process: written in one step, seldom, and read whatever is left of it."""

import json
from dataclasses import replace

import pytest

from lavita.executors.heartbeat import Heartbeat, read_heartbeat
from lavita.experiment.sessions import begin_session
from lavita.results.records import Record, Session
from lavita.results.rows import Row


def test_a_beat(tmp_path):
    pulse = Heartbeat(tmp_path / "pulse.json")
    assert read_heartbeat(pulse.path) is None
    pulse.beat("train", 8)
    pulse.beat("train", 16)  # too soon after
    found = read_heartbeat(pulse.path)
    assert (found["stage"], found["done"], found["beats"]) == ("train", 8, 1)
    assert found["seconds"] >= 0 and found["peak_bytes"] > 0
    pulse.written -= 1
    pulse.beat("sample", 4)
    assert (read_heartbeat(pulse.path)["stage"], read_heartbeat(pulse.path)["beats"]) == ("sample", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["pulse.json"]


SESSION = Session("host", 1, "", "a machine", "python 3", "2026-01-02T03:04:05+00:00")


def with_session(session: Session) -> Record:
    return Record(cell="x-s0", label="x", status="running", row=Row(), sessions=(session,))


@pytest.mark.parametrize("content", ["", "[]", "[1]", "null", "3", '{"stage": 3}', '{"stage": "train"}', "\0\0"])
def test_what_is_no_sign_of_life(content, tmp_path):
    """A machine without power may leave anything; the session is then closed without it."""
    (tmp_path / "pulse.json").write_text(content)
    assert read_heartbeat(tmp_path / "pulse.json") is None
    closed, now = begin_session(with_session(SESSION), tmp_path)
    assert closed == replace(SESSION, ended="killed") and now.ended == ""


def test_a_session_that_was_killed_is_closed_by_its_last_heartbeat(tmp_path):
    state = {"stage": "train", "done": 640, "beats": 9, "seconds": 12.5, "peak_bytes": 7}
    (tmp_path / "pulse.json").write_text(json.dumps(state))
    closed, _ = begin_session(with_session(SESSION), tmp_path)
    assert closed == replace(SESSION, ended="killed", stage="train", done=640, seconds=12.5, peak_bytes=7)
    ended = replace(SESSION, ended="ok", stage="x")
    again, _ = begin_session(with_session(ended), tmp_path)
    assert again == ended
