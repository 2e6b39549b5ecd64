"""What is seen of a run, by a clock that the test moves: plain lines and how often they come, and the live display."""

from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from lavita.console import Display, Note, Plan, Progress

PLAN = Plan({"train": 192.0, "sample": 64.0})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_elsewhere_a_run_has_a_line_every_ten_seconds_at_most_and_no_note_is_lost(clock, capsys):
    display, lines = Display(clock=clock), []

    def heard() -> None:
        lines.extend((clock.now, line) for line in capsys.readouterr().out.splitlines())

    titles = ["[1/2] dit-s0", "[2/2] vdt-s0"]
    display.expect(titles, 2)
    channels = [display.channel(title) for title in titles]
    for channel, name in zip(channels, ("dit-s0: ", "vdt-s0: "), strict=True):
        channel.prefix = name
        channel.show(PLAN)
    heard()
    notes = []
    for step in range(1, 193):
        clock.now = step / 4
        for channel in channels:
            channel.show(Progress("train", step, 192, 1 / step, step, 192))
            if step % 50 == 0:
                notes.append(f"note {len(notes)}")
                channel.show(Note(notes[-1]))
            heard()
    for channel, title in zip(channels, titles, strict=True):
        channel.close(f"{title}: ok")
        heard()
    display.end()
    text = "\n".join(line for _, line in lines)
    assert all(len(re.findall(rf"\b{note}\b", text)) == 1 for note in notes)
    for title in titles:
        name = title.split()[1]
        of_run = [(now, line) for now, line in lines if name in line]
        assert of_run[0] == (0.0, title) and of_run[-1][1].startswith(f"{title}: ok")
        between = [now for now, _ in of_run[:-1]]
        assert len(between) == 5  # 0, 10, 20, 30 and 40 of 48 seconds
        assert all(after - before >= 10 for before, after in zip(between, between[1:], strict=False))


def test_a_line_says_step_loss_and_time_left_of_the_run_and_of_all(clock, capsys):
    display = Display(clock=clock)
    display.expect(["a", "b"], 1)
    channel = display.channel("a")
    told = [(0.0, PLAN), (2.0, Progress("train", 48, 192, 0.5, 6, 24))]
    told += [(15.0, Progress("train", 96, 192, 0.1235, 12, 24)), (28.0, Progress("train", 144, 192, 0.125, 18, 24))]
    told += [(41.0, Progress("train", 192, 192, 0.0625, 24, 24))]
    told += [(46.0, Progress("sample", 16, 64)), (56.0, Progress("sample", 32, 64))]
    for clock.now, event in told:
        channel.show(event)
    assert capsys.readouterr().out.splitlines() == [
        "a",
        "  train step 12/24, loss 0.1235",  # nothing is known of sampling yet
        "  train step 18/24, loss 0.125",
        "  train step 24/24, loss 0.0625",
        # 16 clips took 10 seconds, so 32 take 20; the run then took 76, and so will the other.
        "  sample 32/64, 0:20 left, all runs 1:36 left",
    ]


def test_a_task_that_says_nothing_more_has_its_notes_at_its_end(clock, capsys):
    display = Display(clock=clock)
    channel = display.channel("shared artifacts")
    channel.show(Note("codec trained"))
    channel.show(Note("extractor trained"))
    channel.close()
    assert capsys.readouterr().out.splitlines() == ["shared artifacts", "  codec trained; extractor trained"]


def on_terminal(clock, width=100):
    """A display on a terminal, and the letters that were written to it."""
    file = io.StringIO()
    return Display(clock=clock, console=Console(file=file, force_terminal=True, width=width, height=40)), file


def drawn(display: Display, width: int = 100) -> list[str]:
    """The live display as lines of text."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(display.drawn())
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_on_a_terminal_one_display_has_all_runs_with_step_loss_and_time_left(clock):
    display, _ = on_terminal(clock)
    display.expect(["[1/3] dit-s0", "[2/3] vdt-s0", "[3/3] pvdm-s0"], 2)
    one, two = display.channel("[1/3] dit-s0"), display.channel("[2/3] vdt-s0")
    for channel in (one, two):
        channel.show(Plan({"train": 192.0}))
    one.show(Progress("train", 0, 192, None, 0, 24))
    clock.now = 10.0
    one.show(Progress("train", 96, 192, 0.123456, 12, 24))
    lines = drawn(display)
    display.end()
    assert len(lines) == 4 and all(len(line) <= 100 for line in lines)
    assert re.match(r"\[1/3\] dit-s0 +train +\S+ +step 12/24 +loss 0\.1235 +0:10 left$", lines[0])
    assert lines[1].split() == ["[2/3]", "vdt-s0", "starts"] and lines[2].split() == ["[3/3]", "pvdm-s0", "waiting"]
    # Runs take 20 seconds: 10 left of the first and of the second, 20 of the third, two at once.
    assert lines[3].split() == "all 0 of 3 done, 2 running 0:20 left".split()
    clock.now = 20.0
    one.close("[1/3] dit-s0: ok")
    assert drawn(display)[0].split() == ["[1/3]", "dit-s0", "done", "took", "0:20"]


def test_a_long_name_leaves_room_for_the_numbers(clock):
    display, _ = on_terminal(clock)
    channel = display.channel("shared artifacts: autoencoder, extractor, real clips of lavita-v1, lavita-v2")
    channel.show(Progress("extractor's videos", 0, 10000))
    clock.now = 10.0
    channel.show(Progress("extractor's videos", 5000, 10000))
    (line,) = drawn(display)
    display.end()
    assert len(line) <= 100 and line.endswith("5000/10000    stage 0:10 left")


def test_large_counts_are_whole_numbers(clock, capsys):
    display = Display(clock=clock)
    channel = display.channel("download")
    clock.now = 10.0
    channel.show(Progress("UCF101.rar (MiB)", 1234567, 12345678))
    assert "UCF101.rar (MiB) 1234567/12345678" in capsys.readouterr().out


def test_of_many_runs_only_those_that_run_are_drawn(clock):
    display, _ = on_terminal(clock)
    display.expect([f"run {number}" for number in range(40)], 2)
    channels = [display.channel(f"run {number}") for number in range(2)]
    channels[0].show(Progress("train", 1, 192))
    lines = drawn(display)
    display.end()
    assert [line.split()[0] for line in lines] == ["run", "run", "all"] and "0 of 40 done, 2 running" in lines[-1]


def test_lines_stand_above_the_display_which_leaves_nothing_behind(clock):
    display, file = on_terminal(clock)
    channel = display.channel("one [bold]run[/bold]")
    channel.show(Note("a [red]note[/red]"))
    display.line("x" * 150)
    channel.close("one: ok")
    display.end()
    text = file.getvalue()
    assert "a [red]note[/red]" in text and "x" * 150 in text, "no markup, and no line is cut"
    assert text.endswith("\x1b[2K") or text.rstrip("\r\n").endswith("\x1b[2K"), (
        "the last thing is that lines are erased"
    )
    display.channel("two").close()
    display.end()


def test_a_name_in_brackets_is_no_markup(clock):
    display, _ = on_terminal(clock)
    display.channel("[1/1] [bold]dit[/bold]")
    assert drawn(display)[0].startswith("[1/1] [bold]dit[/bold]")
    display.end()


def test_many_threads_may_tell_at_once_while_it_is_drawn(clock):
    display, _ = on_terminal(clock)
    display.expect([str(number) for number in range(8)], 8)

    def work(title: str) -> None:
        channel = display.channel(title)
        channel.show(PLAN)
        for step in range(200):
            channel.show(Progress("train", step, 192, 0.5, step, 192))
            if step % 20 == 0:
                channel.show(Note("note"))
                display.drawn()
        channel.close(f"{title}: ok")

    threads = [threading.Thread(target=work, args=(str(number),), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    display.end()
    assert display.forecast.running == []
