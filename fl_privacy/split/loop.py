"""The whole of split learning in one process, without messages: the reference for every link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from fl_privacy.federated.aggregation import weighted_mean
from fl_privacy.observation import Tensors
from fl_privacy.seeding import subseed
from fl_privacy.split.cutting import rejoin
from fl_privacy.split.rules import SplitClientTask
from fl_privacy.split.segments import ClientSegment, ServerSegment, client_step, segments


def step_seed(client_task: SplitClientTask, client: int, round: int, step: int) -> int:
    """The seed of one client's one mini-batch."""
    return subseed(client_task.seed, "split", client, round, step)


def turns(steps: Mapping[int, int], together: int) -> list[list[tuple[int, int]]]:
    """The fixed turn order: waves of at most `together` clients, each wave a list of (client, step), round robin."""
    clients = list(steps)
    waves = [clients[i : i + together] for i in range(0, len(clients), together)]
    return [
        [(client, step) for step in range(max(steps[c] for c in cohort)) for client in cohort if step < steps[client]]
        for cohort in waves
    ]


def mean_loss(losses: Sequence[tuple[int, float]]) -> float:
    """The mean over examples of (examples, their mean loss)."""
    return sum(count * loss for count, loss in losses) / sum(count for count, _ in losses)


def state_of(module: nn.Module) -> Tensors:
    """A copy of a module's state dict."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class SplitLoop:
    """Clients and server as live objects, stepped in the fixed turn order."""

    def __init__(self, client_task: SplitClientTask) -> None:
        self.client_task = client_task
        holder, module = segments(client_task.model(), client_task.rules)
        self.server = ServerSegment(module, client_task.rules, client_task.seed)
        self.state = state_of(holder.owned)
        self._clients: dict[int, ClientSegment] = {}

    def round(self, number: int, clients: Sequence[int], parallel: bool = False, together: int = 1) -> dict[int, float]:
        """Train one round and return each client's mean loss.

        Sequential: the segment travels from client to client. Parallel (SplitFed with one server segment): every client
        starts from the same segment and their mean, weighted by examples, is the next one.

        Source: Gupta and Raskar 2018; Thapa et al. 2022 (SplitFedV2).
        """
        steps = {client: self.client_task.steps(client) for client in clients}
        losses: dict[int, list[tuple[int, float]]] = {client: [] for client in clients}
        states = []
        for cohort in turns(steps, together if parallel else 1):
            for client, step in cohort:
                segment = self._client(client)
                if step == 0:
                    segment.owned.load_state_dict(self.state)
                x, y = self.client_task.batch(client, number, step)
                seed = step_seed(self.client_task, client, number, step)
                losses[client].append((len(y), client_step(segment, x, y, self.client_task.chain, self.server, seed)))
            finished = [state_of(self._client(client).owned) for client in dict(cohort)]
            states += finished
            if not parallel:
                self.state = finished[-1]
        if parallel:
            self.state = weighted_mean(states, [float(sum(count for count, _ in losses[client])) for client in clients])
        return {client: mean_loss(found) for client, found in losses.items()}

    def _client(self, client: int) -> ClientSegment:
        if client not in self._clients:
            self._clients[client], _ = segments(self.client_task.model(), self.client_task.rules)
        return self._clients[client]

    def model(self) -> nn.Sequential:
        """The joined model as it stands: a copy."""
        holder, module = segments(self.client_task.model(), self.client_task.rules)
        holder.owned.load_state_dict(self.state)
        module.load_state_dict(self.server.module.state_dict())
        return rejoin(holder.front, module, holder.head)
