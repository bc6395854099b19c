"""Plain Flower under the faults of the scorecard that need no run: its own FedAvg, its own mods, its own accountant."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.differential_privacy import add_gaussian_noise_inplace, compute_clip_model_update
from scipy import stats

from benchmarks.epsilon_audit import epsilon_found
from benchmarks.plain_outcome import Outcome, judged, not_offered
from fl_privacy.simulations.backends.clients import identify, server_context

HONEST, SHAPE = 3, (4, 4)


class Sentinel:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path(self.path),)


def _reply(changes: Callable[[RecordDict], object] | None = None) -> Message:
    """A reply as a client sends it, and what is changed in it."""
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    content = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.ones(SHAPE, np.float32))}),
            "metrics": MetricRecord({"num-examples": 20, "loss": 1.0}),
        }
    )
    if changes:
        changes(content)
    return Message(content, reply_to=asked)


def _array(value: np.ndarray[Any, Any]) -> Callable[[RecordDict], object]:
    return lambda content: content.array_records["arrays"].__setitem__("w", Array(value))


def _metric(name: str, value: float) -> Callable[[RecordDict], object]:
    """A model of its own, and this in its metrics."""

    def change(content: RecordDict) -> None:
        _array(np.full(SHAPE, 7, np.float32))(content)
        content.metric_records["metrics"][name] = value

    return change


def _objects(path: Path) -> Array:
    content = io.BytesIO()
    np.save(content, np.array([Sentinel(str(path))], dtype=object), allow_pickle=True)
    return Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=content.getvalue())


def malformed(folder: Path) -> dict[int, Outcome]:
    """Eleven ways to reply, beside three honest clients: is the model that of the honest?"""
    faults: dict[str, Callable[[RecordDict], object]] = {
        "NaN": _array(np.full(SHAPE, np.nan, np.float32)),
        "infinity": _array(np.full(SHAPE, np.inf, np.float32)),
        "another shape": _array(np.ones((2, 8), np.float32)),
        "one value": _array(np.full(1, 7, np.float32)),
        "float64, huge": _array(np.full(SHAPE, 1e30)),
        "extra array": lambda content: content.array_records["arrays"].__setitem__("more", Array(np.ones(1))),
        "missing array": lambda content: content.array_records["arrays"].pop("w"),
        "extra metric": _metric("more", 1.0),
        "weight of 1e12": _metric("num-examples", 10**12),
        "weight of -20": _metric("num-examples", -20),
        "pickled objects": lambda content: content.array_records["arrays"].__setitem__("w", _objects(folder / "run")),
    }
    ended, changed, held = list[str](), list[str](), list[str]()
    for name, fault in faults.items():
        replies = [*(_reply() for _ in range(HONEST)), _reply(fault)]
        try:
            arrays, _ = FedAvg().aggregate_train(1, replies)
        except Exception:
            ended.append(name)
            continue
        model = None if arrays is None else arrays["w"].numpy()
        same = model is not None and model.shape == SHAPE and np.allclose(model, 1)
        (held if same else changed).append(name)
    words = f"end the run: {', '.join(ended)}; go into the model: {', '.join(changed)}"
    return {3: judged(len(held) == len(faults), f"{len(held)} of {len(faults)} contained; {words}")}


def few_replies(folder: Path) -> dict[int, Outcome]:
    arrays, _ = FedAvg(min_train_nodes=4, min_available_nodes=4).aggregate_train(1, [_reply()])
    words = "one reply of four makes the model" if arrays is not None else "the model is kept"
    return {
        7: not_offered(f"FedAvg takes no least number of replies (of Flower's older API one strategy does): {words}")
    }


def pickles(folder: Path) -> dict[int, Outcome]:
    try:
        _objects(folder / "run").numpy()
        refused = False
    except ValueError:
        refused = True
    passed = refused and not (folder / "run").exists()
    return {11: judged(passed, "arrays are read with allow_pickle=False: an array of objects is refused")}


def streams(folder: Path) -> dict[int, Outcome]:
    draw = "import numpy as np; from flwr.supercore.differential_privacy import add_gaussian_noise_inplace as noise;"
    draw += "a = np.zeros(3); noise([a], 1.0); print(a)"
    found = {subprocess.run([sys.executable, "-c", draw], capture_output=True, text=True).stdout for _ in range(2)}
    words = "noise comes from numpy's global generator, which no seed of a run reaches: two workers differ"
    return {14: judged(len(found) == 2, words)}


def noise_law(folder: Path) -> dict[int, Outcome]:
    np.random.seed(3)  # noqa: NPY002 -- the generator that Flower draws from
    draws = np.zeros(20_000)
    add_gaussian_noise_inplace([draws], 0.7)
    passed = stats.kstest(draws, stats.norm(0, 0.7).cdf).pvalue > 1e-3 and abs(stats.kurtosis(draws)) < 0.6
    return {15: judged(bool(passed), "Gaussian noise, the one law that is offered: 20,000 draws, Kolmogorov-Smirnov")}


def epsilon(folder: Path) -> dict[int, Outcome]:
    """Its accountant against the one that it wraps."""
    from dp_accounting import GaussianDpEvent
    from dp_accounting.rdp import RdpAccountant as Original

    try:
        from flwr.serverapp import NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod
        from flwr.supercore.privacy_accounting import GaussianPrivacyEvent
    except ImportError:
        return {16: not_offered("this release has no accountant")}
    told = PrivacyConfig(1e-5, 100, NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION)
    mine, wanted = RdpAccountant(told), Original()
    mine.compose(GaussianPrivacyEvent(4.0, 10, 100), 30)
    wanted.compose(GaussianDpEvent(4.0), 30)
    found, true = mine.get_epsilon(1e-5), wanted.get_epsilon(1e-5)
    return {16: judged(abs(found / true - 1) < 1e-3, f"its accountant says {found:.3f}, dp-accounting {true:.3f}")}


def audited(folder: Path) -> dict[int, Outcome]:
    """3,000 releases of LocalDpMod, of two updates as far apart as its sensitivity says, at a claim of epsilon = 1."""
    np.random.seed(5)  # noqa: NPY002 -- the generator that Flower draws from
    delta = 0.1
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=1.0, delta=delta)

    def released(update: float) -> float:
        start = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2, np.float32))}), "config": ConfigRecord()})
        asked = Message(start, dst_node_id=1, message_type="train")
        made = RecordDict({"arrays": ArrayRecord({"w": Array(np.array([update, 1e-3], np.float32))})})
        out = mod(asked, server_context(), lambda message, context: Message(made, reply_to=message))
        return float(out.content.array_records["arrays"]["w"].numpy()[0])

    made, other = (torch.tensor([released(update) for _ in range(3000)]) for update in (1.0, 0.0))
    found = epsilon_found(made, other, delta)
    return {
        17: judged(found <= 1.0, f"LocalDpMod claims epsilon 1 at delta {delta}; the audit finds at least {found:.2f}")
    }


def clips(folder: Path) -> dict[int, Outcome]:
    zero = [np.zeros(3, np.float32)]
    cases = {
        "an update of zeros": [np.zeros(3, np.float32)],
        "NaN": [np.array([np.nan, 1, 1], np.float32)],
        "an ordinary one": [np.full(3, 5, np.float32)],
    }
    wrong = []
    for name, update in cases.items():
        try:
            compute_clip_model_update(update, zero, 1.0)
            norm = float(np.linalg.norm(update[0]))
            if not norm <= 1 + 1e-5:
                wrong.append(f"{name} is released with norm {norm:g}")
        except ZeroDivisionError:
            wrong.append(f"{name} ends in a ZeroDivisionError")
    scalar = np.array(5.0, np.float32)
    update = [scalar]
    compute_clip_model_update(update, [np.array(0.0, np.float32)], 1.0)
    if float(update[0]) > 1:
        wrong.append(f"a single number is released as {float(update[0]):g}")
    return {18: judged(not wrong, "; ".join(wrong) or "zeros, NaN, a single number and an ordinary update are clipped")}


def settings(folder: Path) -> dict[int, Outcome]:
    """Settings that cannot be meant, each of which should be named before anything starts."""
    unknown: dict[str, Any] = {"unknown": 1}
    bad: dict[str, Callable[[], object]] = {
        "FedAvg(unknown=1)": lambda: FedAvg(**unknown),
        "FedAvg(fraction_train=2)": lambda: FedAvg(fraction_train=2.0),
        "FedAvg(fraction_train=nan)": lambda: FedAvg(fraction_train=float("nan")),
        "FedAvg(min_train_nodes=-3)": lambda: FedAvg(min_train_nodes=-3),
        "LocalDpMod(clipping_norm=-1)": lambda: LocalDpMod(-1.0, 1.0, 1.0, 1e-5),
        "LocalDpMod(delta=2)": lambda: LocalDpMod(1.0, 1.0, 1.0, 2.0),
        "LocalDpMod(epsilon=nan)": lambda: LocalDpMod(1.0, 1.0, float("nan"), 1e-5),
    }
    taken, start = [], time.monotonic()
    for name, make in bad.items():
        try:
            make()
            taken.append(name)
        except (TypeError, ValueError):
            continue
    words = f"{len(bad) - len(taken)} of {len(bad)} refused by name in {time.monotonic() - start:.1f} s; "
    return {26: judged(not taken, f"{words}taken: {', '.join(taken)}" if taken else words)}


logging.getLogger("flwr").setLevel(logging.WARNING)
identify()  # messages cannot be built by hand before a process has an identity
