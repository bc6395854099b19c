"""What the server holds beside gradients or updates, and what the evaluator knows of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fl_privacy.evaluation import Truth
from fl_privacy.observation import Observation
from fl_privacy.simulations.channels.base import Adversary, Evaluation
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Key


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

    def truth(self, federation: Federation, client: int, round: int) -> Truth:
        return Truth(*federation.batch(client, round))

    def class_is_read(self, experiment: Experiment) -> bool:
        """Always: the gradient of the last layer tells the labels of a batch."""
        return True
