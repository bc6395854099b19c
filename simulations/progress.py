"""Where progress goes: lines, and bars with the time left, as the place allows where they are read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

Note = Callable[[str], None]
"""Takes progress, one line at a time. One that is a `Progress` is told how far a stage is, too (`step`)."""
EVERY = 10.0
"""Seconds between two lines of one stage in a pipe or a file."""
LINES = 6
"""Lines of one stage, about, for a plain function, which has no clock."""


@runtime_checkable
class Progress(Protocol):
    """Takes lines of progress, and how far a stage of a run is."""

    def __call__(self, text: str) -> None:
        """One line that is to be read."""

    def step(self, what: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` of a stage ('rounds', 'attacks', 'cells') are done; the first call starts its clock."""


def step(note: Note, what: str, done: int, total: int, detail: str = "") -> None:
    """Tell `note` how far a stage is; a plain function of lines gets a few of them."""
    if isinstance(note, Progress):
        note.step(what, done, total, detail)
    elif done and (done == total or done % max(1, total // LINES) == 0):
        note(detail or _line(what, done, total, "", ""))


@dataclass
class Clock:
    """When a stage began, with how much of it done, and so how long the rest may take."""

    now: Callable[[], float] = time.perf_counter
    _began: dict[str, tuple[float, int]] = field(default_factory=dict)

    def left(self, what: str, done: int, total: int) -> float | None:
        """The seconds that the rest takes at the pace so far; None where nothing was done since the stage began."""
        now = self.now()
        began, before = self._began.setdefault(what, (now, done))
        if done < before:  # a stage of the same name begins anew
            began, before = self._began[what] = now, done
        return (now - began) / (done - before) * (total - done) if done > before else None


class Lines:
    """Lines with the seconds so far; those of one stage at least ten seconds apart, but for its last."""

    def __init__(self, write: Note | None = None, now: Callable[[], float] = time.perf_counter) -> None:
        self._write = write or _printed
        self._now, self._start, self._clock = now, now(), Clock(now)
        self._told: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        self._write(f"{self._now() - self._start:6.1f} s  {text}")

    def step(self, what: str, done: int, total: int, detail: str = "") -> None:
        left, now = self._clock.left(what, done, total), self._now()
        if done and (done == total or now - self._told.setdefault(what, self._start) >= EVERY):
            self._told[what] = now
            self(_line(what, done, total, in_words(left) if left and done < total else "", detail))


class Bars:
    """Rich bars below the lines, for a terminal. A context: the bars go when it ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._start = time.perf_counter()
        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            "{task.fields[detail]}",
        )
        parts = [TextColumn(each, markup=False) if isinstance(each, str) else each for each in columns]
        self._bars = RichBars(*parts, console=console or Console(), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, text: str) -> None:
        line = f"{time.perf_counter() - self._start:6.1f} s  {text}"
        self._bars.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def step(self, what: str, done: int, total: int, detail: str = "") -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, detail="")
        self._bars.update(self._tasks[what], completed=done, total=total, detail=detail)


class NotebookBars:
    """Bars and the latest line as one output of a notebook's cell, which is written over."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show = show or _notebook_output()
        self._clock, self._latest = Clock(), ""
        self._stages: dict[str, str] = {}

    def __call__(self, text: str) -> None:
        self._latest = text
        self._draw()

    def step(self, what: str, done: int, total: int, detail: str = "") -> None:
        left = self._clock.left(what, done, total)
        words = _line(what, done, total, in_words(left) if left and done < total else "", detail)
        bar = f'<progress value="{done}" max="{total}" style="vertical-align: middle"></progress>'
        self._stages[what] = f"<div>{bar} {escape(words)}</div>"
        self._draw()

    def _draw(self) -> None:
        self._show(f"{''.join(self._stages.values())}<div><small>{escape(self._latest)}</small></div>")


@contextmanager
def shown(note: Note | None = None) -> Iterator[Note]:
    """`note` itself, or what suits the place: bars on a terminal or in a notebook, lines elsewhere."""
    if note is not None:
        yield note
    elif _in_notebook():
        yield NotebookBars()
    elif sys.stdout.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


def in_words(seconds: float) -> str:
    """A time as people say it: '40 s', '3 min', '1 h 20 min'."""
    if seconds < 99:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _line(what: str, done: int, total: int, left: str, detail: str) -> str:
    return f"{what} {done} of {total}{left and f', about {left} left'}{detail and f': {detail}'}"


def _printed(text: str) -> None:
    print(text, flush=True)


def _in_notebook() -> bool:
    """Whether this is a kernel that shows HTML: only such a one has IPython loaded and a kernel in it."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return callable(ask) and hasattr(ask(), "kernel")


def _notebook_output() -> Callable[[str], None]:
    from IPython.display import HTML, display

    output = display(HTML(""), display_id=True)  # type: ignore[no-untyped-call]

    def show(html: str) -> None:
        output.update(HTML(html))  # type: ignore[no-untyped-call]

    return show
