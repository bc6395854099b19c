"""The rounds of split learning: train once, serve under every chain, and measure what serving costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from torch import Tensor, nn

from fl_privacy.data import class_sample
from fl_privacy.defences import Chain
from fl_privacy.defences.learning import learns, with_learnt
from fl_privacy.metrics.correlations import correlations
from fl_privacy.observation import Tensors
from fl_privacy.seeding import one_thread, stream, subseed
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.simulations.channels.activation.cache import entry, identity, keep, recall
from fl_privacy.simulations.channels.activation.federation import evaluated
from fl_privacy.simulations.channels.activation.protocol import SplitProtocol, fixed_epochs, trainings
from fl_privacy.simulations.channels.base import Row, RunContext, Sink
from fl_privacy.simulations.channels.round_log import round_rows, summarise_reasons, summed
from fl_privacy.simulations.channels.training_cache import alone
from fl_privacy.simulations.channels.unfinished import keep_row, kept_row, resumable
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.progress import step
from fl_privacy.simulations.results import files
from fl_privacy.split.cutting import cut
from fl_privacy.split.segments import ACTIVATION, SERVED_AT_ONCE
from fl_privacy.strategies.grid import KnownClients
from fl_privacy.strategies.records import Counts, ValidatingGrid, pack, unpack
from fl_privacy.strategies.split.strategy import SplitLearning, SplitSettings
from fl_privacy.strategies.split.transport import LinkKind
from fl_privacy.strategies.state import StateWithClients

MEASURED = 2048
"""Test images, at most, whose activations' distance correlation is measured."""


def weights_file(folder: Path, training: int | str) -> Path:
    """Where a run folder keeps the model of a training, named by its first condition; N_retrained: a server's."""
    return folder / "models" / f"{training}.safetensors"


def learnt_file(folder: Path, condition: int) -> Path:
    """Where a run folder keeps what clients' serving defences have learnt under a condition, if they learn anything."""
    return weights_file(folder, f"{condition}_learnt")


def link_of(rules: SplitProtocol, grid: ValidatingGrid) -> LinkKind:
    """What 'auto' means here: whatever is fastest where these clients run."""
    if rules.link != "auto":
        return rules.link
    if isinstance(grid.inner, LocalGrid):
        return "local"
    ray = sys.modules.get("ray")
    return "ray" if ray is not None and ray.is_initialized() else "messages"


class Collection:
    """One training and the conditions that serve what it made."""

    def __init__(
        self, federation: Federation, grid: ValidatingGrid, sink: Sink, run_context: RunContext, training: int
    ) -> None:
        self.federation, self.grid, self.sink, self.run_context, self.training = (
            federation,
            grid,
            sink,
            run_context,
            training,
        )
        self.experiment = federation.experiment
        self.images, self.labels = evaluated(federation)

    def rows(self, conditions: Sequence[int]) -> list[Row]:
        """Train, then serve each of the conditions that is not over: one row a condition."""
        folder = self.run_context.folder
        known = {condition: kept_row(folder, condition) for condition in conditions}
        if all(known.values()):
            return [row for row in known.values() if row]
        trained, rows = self._trained()
        files.write_tensors(weights_file(folder, self.training), unpack(trained))
        clean = self._clean(unpack(trained))
        return [known[condition] or self._serve(condition, trained, rows, clean) for condition in conditions]

    def _trained(self) -> tuple[ArrayRecord, list[Row]]:
        path = entry(self.federation, self.training)
        if path is None:
            return self._fresh()
        with alone(path, self.run_context.note):
            known = recall(path, self.run_context.note)
            if known is not None:
                self.run_context.note(
                    f"{self.experiment.conditions[self.training].trained.label}: trained before, in the cache"
                )
                return pack(known[0]), known[1]
            trained, rows = self._fresh()
            keep(path, identity(self.federation, self.training), unpack(trained), rows)
            return trained, rows

    def _fresh(self) -> tuple[ArrayRecord, list[Row]]:
        return self._learn(self.training, self.experiment.rounds, pack(self.federation.model().state_dict()))

    def _serve(self, condition: int, trained: ArrayRecord, rows: list[Row], clean: Tensor) -> Row:
        chosen = self.experiment.conditions[condition]
        if epochs := fixed_epochs(chosen):
            trained, more = self._learn(condition, epochs, trained, fixed=True)
            files.write_tensors(weights_file(self.run_context.folder, f"{condition}_retrained"), unpack(trained))
            rows = [*rows, *({**row, "round": row["round"] + self.experiment.rounds} for row in more[1:])]
        strategy = self._strategy(condition, self.experiment.clients)
        chains = self._chains(strategy, condition, clean.shape[1:])
        last, start = rows[-1]["round"] + 1, len(self.grid.rounds)
        for query in range(1, chosen.settings(SplitProtocol).queries + 1):
            config = ConfigRecord({"condition": condition})
            for seen in strategy.infer(self.grid, trained, last + query, config):
                self.sink(condition, replace(seen, round=query))
        released = self._released(clean, chains, condition, last)
        scores = self._scores(unpack(trained), released) | self._correlations(clean, released)
        self.run_context.note(f"defence {chosen.label}: served with accuracy {scores['accuracy']:.1%}")
        row = {"defence": chosen.label, "rounds": [*rows, _inference_row(last, scores, self.grid.rounds[start:])]}
        keep_row(self.run_context, condition, row, chosen.settings(SplitProtocol).queries)
        return row

    def _learn(
        self, condition: int, rounds: int, start: ArrayRecord, fixed: bool = False
    ) -> tuple[ArrayRecord, list[Row]]:
        strategy = self._strategy(condition, self.experiment.clients_per_round, fixed)
        inner = self.grid.inner
        # what the clients of Flower's own engine keep cannot be reached
        state = StateWithClients(strategy, inner) if isinstance(inner, KnownClients) else None
        name = f"retrained_{condition}" if fixed else f"training_{condition}"
        learning = resumable(self.run_context.folder, name, strategy, state)
        with closing(strategy):
            result = learning.start(
                self.grid,
                start,
                num_rounds=rounds,
                timeout=self.experiment.timeout,
                train_config=ConfigRecord({"condition": condition, "fixed": fixed}),
                evaluate_fn=partial(self._evaluate, strategy, condition, fixed),
            )
        if not result.train_metrics_clientapp:
            raise RuntimeError(
                f"no client finished a turn under '{self.experiment.condition_labels[condition]}', so nothing "
                "was trained: " + summarise_reasons(reason for _, each in learning.counts for reason in each.reasons)
            )
        return result.arrays, round_rows(rounds, result, learning.counts)

    def _strategy(self, condition: int, clients: int, fixed: bool = False) -> SplitLearning:
        chosen = self.experiment.conditions[condition]
        rules = chosen.settings(SplitProtocol)
        settings = SplitSettings(
            link=link_of(rules, self.grid),
            clients_per_round=clients,
            parallel=rules.parallel,
            together=rules.together,
            seed=subseed(self.experiment.seed, "rounds", chosen.label if fixed else chosen.trained.label),
            adversary_knowledge=frozenset(),
            device=self.experiment.device,
        )
        shared = rules.rules(self.experiment.learning_rate, fixed)
        return SplitLearning(self.federation.model, shared, settings, self.federation.spec)

    def _chains(self, strategy: SplitLearning, condition: int, shape: torch.Size) -> list[Chain]:
        """The serving chains of all clients, each with what it has learnt there; of defences that learn nothing, one.

        What they have learnt is written down beside the models.
        """
        chain = self.experiment.conditions[condition].released
        if not learns(chain):
            return [chain]
        told = strategy.learnt(self.grid, 0, ConfigRecord({"condition": condition}))
        named = {f"{client}/{name}": value for client, learnt in told.items() for name, value in learnt.items()}
        if not named:
            return [chain]
        files.write_tensors(learnt_file(self.run_context.folder, condition), named)
        images = self.images.shape[1:]
        return [with_learnt(chain, learnt, images, shape) for learnt in told.values() if learnt]

    def _evaluate(
        self, strategy: SplitLearning, condition: int, fixed: bool, round: int, arrays: ArrayRecord
    ) -> MetricRecord:
        """Accuracy under the chain of this training; Flower calls it after every round."""
        chosen = self.experiment.conditions[condition]
        state = unpack(arrays)
        clean, chains = self._clean(state), [chosen.trained]
        if fixed:
            begun = round > 0 or not learns(chosen.released)  # else nothing is learnt yet
            chains = self._chains(strategy, condition, clean.shape[1:]) if begun else [Chain()]
        released = self._released(clean, chains, condition, round)
        scores = self._scores(state, released)
        self._tell(condition, fixed, round, scores)
        return MetricRecord({**scores})

    def _tell(self, condition: int, fixed: bool, round: int, scores: dict[str, float]) -> None:
        chosen = self.experiment.conditions[condition]
        rules = chosen.settings(SplitProtocol)
        rounds = fixed_epochs(chosen) if fixed else self.experiment.rounds
        which = "training" if not fixed else "the server alone" if rules.server_epochs else "the defences alone"
        words = f"accuracy {scores['accuracy']:.1%}, loss {scores['loss']:.3f}"
        step(
            self.run_context.note,
            "rounds",
            round,
            rounds,
            f"{which} under {chosen.trained.label}, round {round}: {words}",
        )

    @torch.no_grad()
    def _clean(self, state: Tensors) -> Tensor:
        """The activations (N, ...) of the evaluated images, before any defence."""
        with one_thread():
            front = self._segments(state)[0]
            return torch.cat([front(part) for part in torch.split(self.images, SERVED_AT_ONCE)])

    @torch.no_grad()
    def _scores(self, state: Tensors, released: Tensor) -> dict[str, float]:
        with one_thread():
            rest = self._segments(state)[1]
            # copies, because a first stage that works in place would change what is measured next
            logits = torch.cat([rest(part.clone()) for part in torch.split(released, SERVED_AT_ONCE)])
            hits = float((logits.argmax(1) == self.labels).float().mean())
            return {"accuracy": hits, "loss": float(F.cross_entropy(logits, self.labels))}

    def _released(self, clean: Tensor, chains: Sequence[Chain], condition: int, round: int) -> Tensor:
        """What is released of the evaluated images' activations (N, ...): by each client's chain an equal share."""
        seed = subseed(self.experiment.seed, "evaluate", condition, round)
        shares = zip(chains, torch.tensor_split(clean, len(chains)), strict=True)
        return torch.cat([chain.on_release({ACTIVATION: share}, seed)[ACTIVATION] for chain, share in shares])

    def _segments(self, state: Tensors) -> tuple[nn.Sequential, ...]:
        model = self.federation.model()
        model.load_state_dict(state)
        return cut(model.eval(), self.experiment.conditions[self.training].settings(SplitProtocol).cut[0])

    def _correlations(self, clean: Tensor, released: Tensor) -> dict[str, float]:
        """Distance correlation of images with activations: as published before the noise, and of what was released."""
        rng, rows = stream(self.experiment.seed, "dcor"), self.experiment.resolved.settings(SplitProtocol).dcor_rows
        chosen = self._measured()
        images = self.images[chosen]
        with one_thread():
            row = correlations("dcor", images, clean[chosen], rng, rows)
            return row | correlations("dcor_released", images, released[chosen], rng, rows)

    def _measured(self) -> Tensor | slice:
        """Which evaluated images: the named ones in their order, or a sample, whose batches hold every class."""
        named = bool(self.experiment.resolved.settings(SplitProtocol).evaluated) and len(self.images) <= MEASURED
        return slice(None) if named else class_sample(self.labels, MEASURED)


def _inference_row(round: int, scores: dict[str, float], exchanges: Sequence[Counts]) -> Row:
    """The row of the inference rounds, in the schema of `round_rows`."""
    empty: PlainTable = {"train_metrics": None, "evaluate_metrics_clientapp": None}
    return {"round": round, **empty, "evaluate_metrics_serverapp": scores, "counts": summed(exchanges)}


def collect(federation: Federation, grid: ValidatingGrid, sink: Sink, run_context: RunContext) -> list[Row]:
    """One row a condition, in the conditions' order, with every training done once."""
    rows: dict[int, Row] = {}
    for training, conditions in trainings(federation.experiment).items():
        rows |= dict(
            zip(conditions, Collection(federation, grid, sink, run_context, training).rows(conditions), strict=True)
        )
    return [rows[condition] for condition in sorted(rows)]
