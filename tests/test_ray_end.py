"""Ray's end beside the report: nobody waits before the report is written, and nobody for ever."""

import threading
from contextlib import ExitStack

from fl_privacy.simulations.backends import ray as backend


def test_it_ends_beside_what_follows_and_is_waited_for_and_tidied_up_after(monkeypatch):
    swept, may_end, ended = [], threading.Event(), threading.Event()
    monkeypatch.setattr(backend, "sweep", lambda: swept.append(ended.is_set()))

    def shutdown():
        may_end.wait(30)
        ended.set()

    with ExitStack() as ending:
        ending.callback(backend._ending(shutdown))
        assert not ended.is_set(), "the report is written here"
        assert not swept
        may_end.set()
    assert swept == [True]


def test_a_dead_node_is_waited_for_no_longer_than_the_deadline(monkeypatch):
    swept, never = [], threading.Event()
    monkeypatch.setattr(backend, "sweep", lambda: swept.append(True))
    monkeypatch.setattr(backend, "SHUTDOWN_SECONDS", 0.05)
    backend._ending(never.wait)()
    never.set()
    assert swept == [True]
