"""Progress: the time left, lines that do not flood a pipe, bars on a terminal and in a notebook."""

import io
import re
import sys
import types

import pytest
from rich.console import Console

from fl_privacy.simulations import progress
from fl_privacy.simulations.progress import Bars, Clock, Lines, NotebookBars, Progress, in_words, shown, step


class Time:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def test_the_time_left_follows_from_the_pace_since_the_stage_began():
    now = Time()
    clock = Clock(now)
    assert clock.left("cells", 10, 50) is None, "ten were finished before, and tell nothing of the pace"
    now.seconds = 30
    assert clock.left("cells", 12, 50) == pytest.approx(15 * 38)
    assert clock.left("rounds", 0, 5) is None, "each stage has its own clock"
    now.seconds = 40
    assert clock.left("rounds", 2, 5) == pytest.approx(15)
    assert clock.left("rounds", 0, 5) is None, "it begins anew"


def test_lines_of_a_stage_are_ten_seconds_apart_but_for_its_last():
    now, said = Time(), []
    lines = Lines(said.append, now)
    for done in range(101):
        now.seconds = done / 2
        lines.step("rounds", done, 100, f"accuracy {done}%")
    assert len(said) == 5
    assert "rounds 100 of 100: accuracy 100%" in said[-1]
    assert "rounds 20 of 100, about 40 s left: accuracy 20%" in said[0]


def test_a_quick_stage_says_its_last_line():
    said = []
    lines = Lines(said.append, Time())
    for done in range(3):
        lines.step("attacks", done, 2)
    assert [line.split("s  ")[1] for line in said] == ["attacks 2 of 2"]


def test_a_plain_function_gets_a_few_lines_and_none_for_nothing():
    said = []
    for done in range(61):
        step(said.append, "rounds", done, 60)
    step(said.append, "attacks", 0, 0)
    assert said == [f"rounds {done} of 60" for done in range(10, 70, 10)]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (45.4, "45 s"), (180, "3 min"), (5400, "90 min"), (8000, "2 h 13 min")]
)
def test_times_are_said_as_people_say_them(seconds, words):
    assert in_words(seconds) == words


def test_a_terminal_has_bars_below_the_lines():
    text = io.StringIO()
    with Bars(Console(file=text, force_terminal=True, width=120)) as bars:
        assert isinstance(bars, Progress)
        bars("first [red]line[/red]")
        step(bars, "rounds", 1, 4, "accuracy [b]")
        step(bars, "rounds", 2, 4, "accuracy [b]")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())
    assert "first [red]line[/red]" in plain, "text of a run is no markup"
    assert "2/4" in plain
    assert "accuracy [b]" in plain


def test_a_notebook_has_one_output_that_is_written_over():
    shown_html = []
    bars = NotebookBars(shown_html.append)
    bars("a <b>bold</b> name")
    bars.step("cells", 1, 3, "<script>")
    assert '<progress value="1" max="3"' in shown_html[-1]
    assert "&lt;script&gt;" in shown_html[-1]
    assert "a &lt;b&gt;bold" in shown_html[-1]


def test_who_listens_decides_where_progress_goes(monkeypatch, capsys):
    with shown(print) as note:
        assert note is print
    with shown() as note:
        assert isinstance(note, Lines), "stdout is captured: a pipe"
        note("a line")
    assert capsys.readouterr().out.endswith("s  a line\n")
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(isatty=lambda: True, write=len, flush=lambda: None))
    with shown() as note:
        assert isinstance(note, Bars)
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setattr(progress, "_notebook_output", lambda: len)
    with shown() as note:
        assert isinstance(note, NotebookBars)
