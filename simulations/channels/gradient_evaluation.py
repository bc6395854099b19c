"""What the server holds beside gradients or updates, and what the evaluator knows of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fl_privacy.accounting import Guarantee, Use, guarantee
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Observation
from fl_privacy.simulations.channels.base import Adversary, Evaluation
from fl_privacy.simulations.channels.gradient_protocol import FedSGD, WeightUpdates
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Key

COLUMNS = {
    "recov-\nered": ("success_rate", "{:.0%}"),
    "epsilon": ("epsilon", "{:.3g}"),
    "delta": ("delta", "{:.0e}"),
    "at most\n(DP)": ("identification_bound", "{:.0%}"),
    "clipped": ("clipped_share", "{:.0%}"),
}


class Server(Adversary):
    """The server: it holds the model that it sent, and what public images the experiment grants it."""

    def knowledge(self, experiment: Experiment, condition: int) -> frozenset[str]:
        return frozenset({"model", *(("public",) if experiment.public else ())})

    def add_knowledge(
        self, federation: Federation, folder: Path, seen: dict[Key, Observation]
    ) -> dict[Key, Observation]:
        public = federation.public()
        return {key: replace(each, public=public) for key, each in seen.items()}


class Batches(Evaluation):
    """The batch behind every message."""

    columns = COLUMNS
    tells_success = True

    def guarantee(self, federation: Federation, condition: int) -> Guarantee:
        """Over all rounds, as if the server saw a client in each, for the client with the least data.

        Where attacked rounds have other batches, as if every round had the most examples and the most passes of any.
        """
        experiment = federation.experiment
        chosen = experiment.conditions[condition]
        protocol = chosen.protocol
        assert isinstance(protocol, FedSGD | WeightUpdates)
        sizes = {experiment.images_in(round) for round in range(1, experiment.rounds + 1)}
        local = protocol.local if isinstance(protocol, WeightUpdates) else None
        use = Use(
            rounds=experiment.rounds,
            examples=max(sizes),
            held=min(map(len, federation.parts)),
            passes=max(local.passes_on(size) for size in sizes) if local else 1,
        )
        return guarantee(chosen.trained, use, protocol.delta)

    def truth(self, federation: Federation, client: int, round: int) -> Truth:
        return Truth(*federation.batch(client, round))

    def class_is_read(self, experiment: Experiment) -> bool:
        """Always: the gradient of the last layer tells the labels of a batch."""
        return True
