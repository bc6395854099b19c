"""Evaluation of a split model: held-out inputs go the way that serving takes, defences included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from flwr.app import MetricRecord
from torch import Tensor, nn

from fl_privacy.observation import Tensors
from fl_privacy.seeding import one_thread
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ACTIVATION, segments
from fl_privacy.strategies.records import ARRAYS, METRICS, unpack
from fl_privacy.strategies.split.client_messages import LABELS, OUTPUTS
from fl_privacy.strategies.split.round import Asker


def evaluate(
    asker: Asker, clients: Sequence[int], model: nn.Module, state: Tensors, rules: SplitRules
) -> MetricRecord | None:
    """Accuracy and cross entropy over the held-out inputs of `clients`; None where nobody answered.

    Labels come to the server with the activations, or stay: then the server's outputs go back and the clients score.
    """
    model.load_state_dict(state)
    client, module = segments(model, rules)
    owned = {name: value.detach() for name, value in client.owned.state_dict().items()}
    replies = asker.ask("query.activation", {c: {"labels": True} for c in clients}, owned)
    rows = []
    for number, content in replies.items():
        arrays = unpack(content.array_records[ARRAYS])
        with torch.no_grad(), one_thread():
            outputs: Tensor = module.eval()(arrays[ACTIVATION])
        if rules.labels == "server":
            loss = float(F.cross_entropy(outputs, arrays[LABELS]))
            rows.append((len(outputs), float((outputs.argmax(1) == arrays[LABELS]).float().mean()), loss))
            continue
        answer = asker.ask("evaluate.split_outputs", {number: {}}, {**owned, OUTPUTS: outputs}).get(number)
        if answer is not None:
            scores = answer.metric_records[METRICS]
            rows.append((len(outputs), float(scores["eval_accuracy"]), float(scores["eval_loss"])))  # type: ignore[arg-type]
    total = sum(count for count, _, _ in rows)
    if total == 0:
        return None
    means = [sum(row[0] * row[i] for row in rows) / total for i in (1, 2)]
    return MetricRecord({"eval_accuracy": means[0], "eval_loss": means[1], "num-examples": total})
