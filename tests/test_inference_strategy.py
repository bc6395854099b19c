"""Inference rounds on Flower: what arrives is the model's answer to the private inputs, once a client, defended."""

from __future__ import annotations

import functools

import pytest
import torch
from flower_apps import CLIENTS, SPEC, batch, model
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_privacy.defences import Chain, chain
from fl_privacy.federated.client import ClientTask
from fl_privacy.joint_training import outputs
from fl_privacy.observation import ChannelName
from fl_privacy.seeding import subseed
from fl_privacy.simulations.backends.local import run_local
from fl_privacy.strategies.inference import QUERY, PrivateInference, inference_app, outputs_schema
from fl_privacy.strategies.records import ValidatingGrid, pack

NOISY = chain([{"name": "softmax"}, {"name": "gaussian_noise", "scale": 0.1}, {"name": "rounding", "decimals": 2}])


def client_task(law: Chain, message, context) -> ClientTask:
    return ClientTask(model, batch, law, seed=0)


def infer(runner, law=NOISY, per_round=CLIENTS, rounds=1, own=model, minimum=1):
    """Run the rounds and return the observations and the counts."""
    seen, grids = [], []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        validating = ValidatingGrid(grid, CLIENTS, schemas={QUERY: outputs_schema(SPEC)}, min_replies=minimum)
        strategy = PrivateInference(per_round, seen.append, model, SPEC)
        strategy.start(validating, pack(own().state_dict()), num_rounds=rounds)
        grids.append(validating)

    runner(server, inference_app(functools.partial(client_task, law)), CLIENTS)
    return seen, grids[0].rounds


def expected(law: Chain, client: int, round: int) -> torch.Tensor:
    clean = {"outputs": outputs(model(), batch(client, round)[0])}
    return law.on_release(clean, subseed(0, "release", client, round))["outputs"]


@pytest.mark.parametrize("law", [Chain(), NOISY], ids=["none", "defended"])
def test_the_server_sees_the_defended_outputs_bit_for_bit(law):
    seen, rounds = infer(run_local, law)
    assert [observation.client for observation in seen] == list(range(CLIENTS))
    assert rounds[0].received == CLIENTS
    for observation in seen:
        assert observation.channel is ChannelName.OUTPUT
        assert list(observation.payload) == ["outputs"]
        assert torch.equal(observation.payload["outputs"], expected(law, observation.client, 1))
        assert observation.public is None
        assert observation.labels is None


def test_every_client_answers_once():
    seen, rounds = infer(run_local, per_round=3, rounds=3)
    assert [(o.round, o.client) for o in seen] == [(1, 0), (1, 1), (1, 2), (2, 3)]
    assert [each.expected for each in rounds] == [3, 1]


def test_the_server_can_query_its_own_copy_in_evaluation_mode():
    def other():
        net = model()
        with torch.no_grad():
            net[1].weight.mul_(2)
        return net

    seen, _ = infer(run_local, Chain(), own=other)
    x, _ = batch(0, 1)
    assert torch.equal(seen[0].query(x), outputs(other(), x))
    assert torch.equal(seen[0].query(x), seen[0].payload["outputs"])


def test_a_reply_of_another_shape_is_rejected_and_the_others_stay():
    def wrong(law, message, context):
        client = int(context.node_config["partition-id"])
        images = functools.partial(shorter, client)
        return ClientTask(model, images, law, seed=0)

    def shorter(self_id, client, round):
        x, y = batch(client, round)
        return (x[:2], y[:2]) if self_id == 1 else (x, y)

    seen = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        validating = ValidatingGrid(grid, CLIENTS, schemas={QUERY: outputs_schema(SPEC)})
        PrivateInference(CLIENTS, seen.append, model, SPEC).start(validating, pack(model().state_dict()), num_rounds=1)
        assert validating.rounds[0].rejected == 1

    run_local(server, inference_app(functools.partial(wrong, Chain())), CLIENTS)
    assert [observation.client for observation in seen] == [0, 2, 3]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="clients_per_round"):
        PrivateInference(0, print, model, SPEC)


@pytest.mark.ray
def test_ray_and_this_process_release_the_same_bits():
    from fl_privacy.simulations.backends.ray import run_ray

    here, _ = infer(run_local)
    there, _ = infer(functools.partial(run_ray, workers=1))
    assert len(here) == len(there) == CLIENTS
    assert all(torch.equal(a.payload["outputs"], b.payload["outputs"]) for a, b in zip(here, there, strict=True))
