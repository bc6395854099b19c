"""The runner without Ray: errors stay with their client, state survives, and the server's own errors come through."""

from __future__ import annotations

import pytest
from flower_apps import CLIENTS, clients, federate
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy.simulations.backends.local import LocalGrid, run_local


def _ask(grid: LocalGrid, node: int = 1000) -> Message:
    (reply,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query.count")])
    return reply


def _counting(fail_at: int = 0) -> ClientApp:
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        calls = int(context.state.config_records.get("calls", {"n": 0})["n"]) + 1
        context.state["calls"] = ConfigRecord({"n": calls})
        if calls == fail_at:
            raise SystemExit(3)
        facts = ConfigRecord({"n": calls, "partition": context.node_config["partition-id"]})
        return Message(RecordDict({"count": facts}), reply_to=message)

    return app


def test_each_client_keeps_its_own_state():
    grid = LocalGrid(_counting(), 2)
    counts = [(_ask(grid, node).content["count"]["n"], node) for node in (1000, 1000, 1001, 1000)]
    assert counts == [(1, 1000), (2, 1000), (1, 1001), (3, 1000)]
    assert _ask(grid, 1001).content["count"]["partition"] == 1


def test_a_client_that_exits_becomes_an_error_reply_and_its_state_is_as_before():
    grid = LocalGrid(_counting(fail_at=2), 1)
    assert _ask(grid).content["count"]["n"] == 1
    for _ in range(2):  # the failed call did not count
        reply = _ask(grid)
        assert reply.has_error()
        assert "SystemExit: 3" in reply.error.reason


def test_a_client_that_returns_nothing_becomes_an_error_reply():
    app = ClientApp()
    app.query("count")(lambda message, context: None)
    assert "returned NoneType, not a Message" in _ask(LocalGrid(app, 1)).error.reason


def test_a_client_cannot_change_what_the_server_holds():
    app = ClientApp()

    @app.query("count")
    def vandal(message: Message, context: Context) -> Message:
        message.content["config"]["mine"] = 1
        return Message(message.content, reply_to=message)

    content = RecordDict({"config": ConfigRecord({"mine": 0})})
    grid = LocalGrid(app, 1)
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=1000, message_type="query.count")])
    assert (content["config"]["mine"], reply.content["config"]["mine"]) == (0, 1)


def test_what_the_server_raises_is_raised():
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise LookupError("from the server")

    with pytest.raises(LookupError, match="from the server"):
        run_local(server, clients(), CLIENTS)


def test_two_runs_release_the_same_bits_and_another_defence_others():
    first, grid = federate(run_local, clients(scale=0.01))
    second, _ = federate(run_local, clients(scale=0.01))
    bare, _ = federate(run_local, clients())
    assert first == second
    assert len(first) == 6
    assert [entry[:2] for entry in bare] == [entry[:2] for entry in first]
    assert not {entry[2] for entry in bare} & {entry[2] for entry in first}
    assert all(c.expected == c.received + c.failed + c.rejected + c.timed_out for c in grid.rounds)
