"""An attack call that is killed in one of its loops goes on there, and ends with the bits of one that was not."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

import pytest
import torch
from killed import Killed, killing, told, whole
from test_resume import GRADIENT
from torch import nn

from fl_privacy import checkpoints
from fl_privacy.attacks import unfinished
from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.activation.decoder_map import DecoderMap
from fl_privacy.attacks.gradient.dlg import DLG
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.output.decoders import OutputDecoder
from fl_privacy.attacks.unfinished import kept_in, steps
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, Observation, Spec
from fl_privacy.seeding import stream
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.report import write as report


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A checkpoint after every iteration."""
    monkeypatch.setattr(unfinished, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(unfinished, "LEAST_BETWEEN", 0)


def gradients(batch):
    model = build_model("lenet_dlg", (1, 16, 16), 10, 0, {"init": "wide"})
    spec = Spec(image_shape=(1, 16, 16), classes=10, batch_size=batch)
    found = []
    for client in range(2):
        x, y = torch.rand(batch, 1, 16, 16, generator=stream(client)), torch.arange(batch) + client
        payload, _ = gradient(model, x, y)
        found.append(
            Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=client, model=model)
        )
    return found


def answers(channel, name, network):
    """What a client released of one image, and an adversary who can ask it about images of its own."""
    network.eval()
    own = Images(torch.rand(24, 1, 8, 8, generator=stream(1)), torch.arange(24) % 3)
    spec = Spec(image_shape=(1, 8, 8), classes=3, batch_size=2)
    payload = {name: network(torch.rand(2, 1, 8, 8, generator=stream(2))).detach()}
    return [
        Observation(
            channel=channel,
            payload=payload,
            spec=spec,
            round=1,
            client=0,
            query=lambda x: network(x).detach(),
            public=own,
        )
    ]


def convolved():
    torch.manual_seed(0)
    return answers(ChannelName.ACTIVATION, "activation", nn.Conv2d(1, 4, 3, 2, 1))


def stolen():
    torch.manual_seed(0)
    net = nn.Conv2d(1, 4, 3, 2, 1)
    return [replace(each, model=net) for each in answers(ChannelName.ACTIVATION, "activation", net)]


def classified():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1))
    return answers(ChannelName.OUTPUT, "outputs", net)


CALLS = {
    "grnn": (GRNN(iterations=6, restarts=2, width=4), lambda: gradients(1)),
    "grnn, published": (
        GRNN(iterations=6, restarts=1, width=4, optimiser="rmsprop", objective="published", keep="snapshot"),
        lambda: gradients(2),
    ),
    "grnn that stops": (GRNN(iterations=40, restarts=1, width=4, patience=9, learning_rate=1e-6), lambda: gradients(1)),
    "inverting_gradients": (InvertingGradients(iterations=9), lambda: gradients(1)),
    "dlg": (DLG(iterations=7, restarts=2, history=3), lambda: gradients(1)),
    "dlg, no line search": (DLG(iterations=7, restarts=1, line_search=False), lambda: gradients(1)),
    "map on a batch": (MaximumAPosteriori(restarts=2, grnn=3, adam=4, lbfgs=12), lambda: gradients(3)),
    "decoder": (Decoder(steps=6, batch_size=8, width=4, blocks=1, members=2), convolved),
    "decoder_map": (DecoderMap(outer=2, inner=2, steps=6, batch_size=8, width=4, adam=4, lbfgs=12), stolen),
    "output_decoder": (OutputDecoder(steps=6, batch_size=8), classified),
}


def call(attack, seen):
    ready = attack.prepare(seen, stream(3, "prepare"))
    rng = stream(3, "attack")
    return ready(seen, rng), rng.get_state()


def same(one, other):
    (guesses, state), (others, another) = one, other
    for guess, twin in zip(guesses, others, strict=True):
        assert torch.equal(guess.inputs, twin.inputs)
        assert (guess.labels is None) == (twin.labels is None)
        assert guess.labels is None or torch.equal(guess.labels, twin.labels)
        assert guess.loss == twin.loss or guess.loss != guess.loss
        assert torch.equal(guess.trace, twin.trace)
        assert guess.iterations == twin.iterations
    assert torch.equal(state, another), "what is drawn afterwards is the same too"


@pytest.mark.parametrize("name", CALLS)
def test_killed_at_any_iteration_a_call_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    attack, made = CALLS[name]
    seen = made()
    wanted = call(attack, seen)
    save, written = checkpoints.save, []
    monkeypatch.setattr(unfinished.checkpoints, "save", lambda *given: written.append(given[0].name) or save(*given))
    with kept_in(tmp_path / "whole"):
        same(call(attack, seen), wanted)
    assert len(written) > 4
    for at in sorted({1, len(written), *random.Random(name).sample(range(1, len(written) + 1), 3)}):
        left = [at]

        def dying(*given, left=left):
            save(*given)
            left[0] -= 1
            if not left[0]:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(unfinished.checkpoints, "save", dying)
            with pytest.raises(Killed), kept_in(tmp_path / str(at)):
                call(attack, seen)
        whole_call = len(written)
        with kept_in(tmp_path / str(at)):
            same(call(attack, seen), wanted)
        assert len(written) - whole_call == whole_call - at, "what was done is not done again"
        del written[whole_call:]


def test_a_run_goes_on_in_the_middle_of_an_attack_call(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda *_: None)

    def of_a_call(name):
        return re.search(r"_r\d+_c\d+/1\.safetensors", name) is not None

    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        wanted = told(whole(GRADIENT, tmp_path / "whole").folder)
    middle = [place for place, name in enumerate(written, start=1) if of_a_call(name)]
    with monkeypatch.context() as patch:
        killing(patch, middle[0] + 1)
        with pytest.raises(Killed):
            whole(GRADIENT, tmp_path / "run")
    assert list((tmp_path / "run" / "unfinished").rglob("1.safetensors"))
    with monkeypatch.context() as patch:
        second = killing(patch, 0)
        assert told(whole(GRADIENT, tmp_path / "run", resume=True).folder) == wanted
    assert sum(map(of_a_call, second)) < sum(map(of_a_call, written))
    assert not (tmp_path / "run" / "unfinished").exists()


@dataclass
class Sum:
    value: int = 0

    def take(self) -> tuple[dict[str, torch.Tensor], PlainTable]:
        return {}, {"value": self.value}

    def give(self, tensors: dict[str, torch.Tensor], facts: PlainTable) -> None:
        self.value = facts["value"]


def test_without_a_folder_nothing_is_written_and_loops_have_files_of_their_own(tmp_path):
    assert list(steps(3, Sum())) == [0, 1, 2]
    with kept_in(tmp_path):
        for count in (2, 3):
            total = Sum()
            for number in steps(count, total):
                total.value += number
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.safetensors", "2.safetensors"]
    with kept_in(tmp_path):
        found = [Sum(), Sum()]
        assert [list(steps(count, each)) for count, each in zip((2, 3), found, strict=True)] == [[], []]
    assert [each.value for each in found] == [1, 3]


def test_what_is_of_another_attack_or_damaged_is_named(tmp_path):
    with kept_in(tmp_path):
        assert list(steps(2, Sum())) == [0, 1]
    with kept_in(tmp_path), pytest.raises(ValueError, match="its loop has 2 iterations, and this one 3"):
        list(steps(3, Sum()))
    (tmp_path / "1.safetensors").write_bytes(b"half")
    with kept_in(tmp_path), pytest.raises(ValueError, match="damaged"):
        list(steps(2, Sum()))


def test_checkpoints_are_far_apart_where_they_take_long(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(unfinished, "EVERY_SECONDS", 30.0)
    monkeypatch.setattr(unfinished, "LEAST_BETWEEN", 20)
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: clock[0])
    written = []

    def slow(path, tensors, facts):
        clock[0] += 5
        written.append(facts["done"])

    monkeypatch.setattr(unfinished.checkpoints, "save", slow)
    with kept_in(tmp_path):
        for _ in steps(100, Sum()):
            clock[0] += 10
    assert written == [3, 13, 23, 33, 43, 53, 63, 73, 83, 93, 100]


def test_an_attack_of_somebody_elses_with_a_step_that_is_a_function_runs_as_before(tmp_path):
    @dataclass(frozen=True)
    class Plain(GRNN):
        def stepper(self, guesses):
            inner = super().stepper(guesses)
            return lambda iteration, losses, again: inner(iteration, losses, again)

    seen = gradients(1)
    settings = {"iterations": 3, "restarts": 1, "width": 4}
    with kept_in(tmp_path / "here"):
        same(call(Plain(**settings), seen), call(GRNN(**settings), [replace(each) for each in seen]))
