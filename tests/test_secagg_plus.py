"""Flower's SecAgg+: what its server sees of a round is what the aggregate-only observer is given, and nothing more."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flower_apps import CLIENTS, LOCAL_SGD, SPEC, batch, client_task, clients, model
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, recorddict_to_fitins
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_privacy.federated.local_training import train_locally
from fl_privacy.observation import ChannelName
from fl_privacy.seeding import seeded, stream
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies.federated.client import local_training
from fl_privacy.strategies.observer import HonestButCurious
from fl_privacy.strategies.records import client_of, pack
from fl_privacy.weights import load_weights

CLIPPING, LEVELS = 8.0, 2**22  # SecAgg+ rounds weights to steps of 2 * CLIPPING / LEVELS


class Recording(LocalGrid):
    """A grid that keeps every reply its server gets."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__(app, CLIENTS)
        self.replies: list[Message] = []

    @property
    def run(self):
        return SimpleNamespace(run_id=1)

    def pull_messages(self, message_ids):
        found = super().pull_messages(message_ids)
        self.replies += found
        return found


def numpy_client() -> ClientApp:
    """The suite's local training, behind the messages of Flower's older API, which alone has the mod."""
    app = ClientApp(mods=[secaggplus_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        received: FitIns = recorddict_to_fitins(message.content, keep_input=True)
        net, client = model(), client_of(context)
        named = zip(net.state_dict(), parameters_to_ndarrays(received.parameters), strict=True)
        load_weights(net, {name: torch.from_numpy(np.array(value)) for name, value in named})
        x, y = batch(client, 1)
        seed = client_task().seed
        with seeded(seed, "forward", client, 1):
            train_locally(net, x, y, local_training(LOCAL_SGD), stream(seed, "shuffle", client, 1))
        sent = ndarrays_to_parameters([value.numpy() for value in net.state_dict().values()])
        result = FitRes(Status(Code.OK, ""), sent, len(y), {})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)

    return app


@pytest.fixture(scope="module")
def secure():
    """What the aggregator got, and every reply that crossed the wire."""
    got = []

    class Keeping(LegacyFedAvg):
        def aggregate_fit(self, server_round, results, failures):
            assert not failures
            got.extend(parameters_to_ndarrays(result.parameters) for _, result in results)
            return super().aggregate_fit(server_round, results, failures)

    start = ndarrays_to_parameters([value.numpy() for value in model().state_dict().values()])
    strategy = Keeping(
        fraction_evaluate=0.0, min_fit_clients=CLIENTS, min_available_clients=CLIENTS, initial_parameters=start
    )
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        protocol = SecAggPlusWorkflow(3, 2, clipping_range=CLIPPING, quantization_range=LEVELS, max_weight=4.0)
        legacy = LegacyContext(context, ServerConfig(num_rounds=1), strategy)
        DefaultWorkflow(fit_workflow=protocol)(grid, legacy)

    grid = Recording(numpy_client())
    server(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))
    assert not [reply.error.reason for reply in grid.replies if reply.has_error()]
    return got, grid.replies


def observed():
    """The aggregate-only observer's view of the same round."""
    seen = []
    strategy = HonestButCurious(
        FedAvg(fraction_evaluate=0.0), seen.append, model, SPEC, channel=ChannelName.UPDATE, sums=True
    )
    strategy.start(LocalGrid(clients(), CLIENTS), pack(model().state_dict()), 1, train_config=ConfigRecord(LOCAL_SGD))
    (only,) = seen
    return only


def test_the_aggregate_is_what_the_aggregate_only_observer_sees(secure):
    """Every client's result that the strategy is handed is the mean of all, up to SecAgg+'s rounding."""
    results, _ = secure
    names, start, only = list(model().state_dict()), model().state_dict(), observed()
    assert sorted(only.clients) == list(range(CLIENTS))
    assert results
    for result in results:
        for name, value in zip(names, result, strict=True):
            if name in only.payload:
                change = torch.from_numpy(np.array(value)) - start[name]
                torch.testing.assert_close(
                    change.float(), only.payload[name], rtol=0, atol=4 * 2 * CLIPPING / LEVELS, msg=name
                )


def test_no_reply_has_a_clients_weights(secure):
    """What a client sends of its weights is empty, and its masked vector is as good as random."""
    _, replies = secure
    assert all(len(record) == 0 for reply in replies for record in reply.content.array_records.values())
    masked = [
        value
        for reply in replies
        for record in reply.content.config_records.values()
        for value in record.values()
        if isinstance(value, list)
        and value
        and isinstance(value[0], bytes)
        and len(value) == 1 + len(model().state_dict())
    ]
    assert len(masked) == CLIENTS
    for each in masked:
        numbers = np.concatenate([np.load(io.BytesIO(part)).ravel() for part in each[1:]])
        share = numbers / 2**32
        assert abs(share.mean() - 0.5) < 5 / np.sqrt(12 * len(share))
        assert abs(share.std() - 12**-0.5) < 0.05
