"""The guard lets no malformed reply through, and each costs only its sender."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from flower_apps import CLIENTS, clients, initial, local, model, one_round
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_schema
from fl_privacy.strategies.records import (
    ARRAYS,
    METRICS,
    BadWeight,
    DtypeMismatch,
    KeysMismatch,
    NonFinite,
    Rejected,
    Schema,
    ShapeMismatch,
    TooLarge,
    Undecodable,
    ValidatingGrid,
    WrongClient,
    check_reply,
    pack,
    schema_of,
    unpack,
)

# -- the guard, one fault at a time ------------------------------------------------------------------------------------

FIRST = "1.weight"  # (8, 16) float32


def _array(values) -> Array:
    return Array(np.asarray(values))


def _raw(data: bytes) -> Array:
    return Array("float32", (8, 16), "numpy.ndarray", data)


def _pickled() -> Array:
    data = io.BytesIO()
    np.save(data, np.array([object], dtype=object), allow_pickle=True)
    return _raw(data.getvalue())


def _declaring(shape: tuple[int, ...]) -> Array:
    """A .npy header that declares `shape`, with no values behind it."""
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return _raw(data.getvalue())


def _set_array(value: Array):
    return lambda content: content[ARRAYS].__setitem__(FIRST, value)


def _set_metric(name: str, value):
    return lambda content: content[METRICS].__setitem__(name, value)


def _filled(value: float, dtype=np.float32) -> Array:
    return _array(np.full((8, 16), value, dtype=dtype))


FAULTS = {
    "NaN": (_set_array(_filled(np.nan)), NonFinite),
    "infinity": (_set_array(_filled(np.inf)), NonFinite),
    "wrong shape": (_set_array(_array(np.zeros((16, 8), np.float32))), ShapeMismatch),
    "one value that would broadcast": (_set_array(_array(np.ones(1, np.float32))), ShapeMismatch),
    "float64, huge": (_set_array(_filled(1e30, np.float64)), DtypeMismatch),
    "extra array": (
        lambda content: content[ARRAYS].__setitem__("extra", _array(np.zeros(1, np.float32))),
        KeysMismatch,
    ),
    "missing array": (lambda content: content[ARRAYS].pop(FIRST), KeysMismatch),
    "missing metric": (lambda content: content[METRICS].pop("train_loss"), KeysMismatch),
    "weight of 1e12": (_set_metric("num-examples", 10**12), BadWeight),
    "weight of -20": (_set_metric("num-examples", -20), BadWeight),
    "oversize": (_set_array(_array(np.zeros(10**7, np.float32))), TooLarge),
    "pickled objects": (_set_array(_pickled()), Undecodable),
    "garbage bytes": (_set_array(_raw(b"garbage")), Undecodable),
    "a terabyte declared": (_set_array(_declaring((500_000, 500_000))), Undecodable),
    "negative sides": (_set_array(_declaring((-8, -16))), Undecodable),
    "weight as a list": (_set_metric("num-examples", [3]), BadWeight),
    "weight as a fraction": (_set_metric("num-examples", 0.5), BadWeight),
    "NaN loss": (_set_metric("train_loss", float("nan")), NonFinite),
    "extra metric": (_set_metric("extra", 1), KeysMismatch),
    "extra record": (lambda content: content.__setitem__("more", ArrayRecord()), KeysMismatch),
    "no metrics": (lambda content: content.pop(METRICS), KeysMismatch),
    "somebody else's name": (_set_metric("client", 3), WrongClient),
}


class Hostile(LocalGrid):
    """Honest clients, of which `client` has its replies rewritten."""

    def __init__(self, fault, client: int) -> None:
        super().__init__(clients(), CLIENTS)
        self.fault, self.client = fault, client

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        for reply in replies:
            mine = reply.metadata.src_node_id == 1000 + self.client
            if mine and reply.metadata.message_type.startswith("train"):
                self.fault(reply.content)
        return replies


def _honest_without(client: int) -> dict[str, torch.Tensor]:
    """The same round where `client` is simply left out, by a plain loop."""
    grid = local()
    strategy = GradientSharing(CLIENTS, 0.1, seed=0)
    replies = grid.send_and_receive(strategy.configure_train(1, initial(), ConfigRecord(), grid))
    kept = [reply for reply in replies if reply.content[METRICS]["client"] != client]
    return unpack(strategy.aggregate_train(1, kept)[0])


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_rejected_by_its_own_name_and_costs_only_its_sender(name):
    fault, error = FAULTS[name]
    grid = ValidatingGrid(Hostile(fault, client=2), CLIENTS, schemas={"train.gradient": gradient_schema(model())})
    arrays = one_round(grid)
    counts = grid.rounds[0]
    assert (counts.expected, counts.received, counts.rejected) == (CLIENTS, CLIENTS - 1, 1)
    assert len(counts.reasons) == 1
    assert counts.reasons[0].startswith(f"client 2 rejected: {error.__name__}: ")
    expected = _honest_without(2)
    assert all(torch.equal(arrays[key], expected[key]) for key in expected)


def test_an_honest_reply_passes():
    grid = local()
    one_round(grid)
    assert grid.rounds[0].received == CLIENTS
    assert grid.rounds[0].reasons == []


def test_the_limit_of_the_weight_is_the_schemas():
    record = pack({"w": torch.zeros(2)})
    content = RecordDict({ARRAYS: record, METRICS: MetricRecord({"num-examples": 4, "client": 0, "train_loss": 0.5})})
    check_reply(_message(content), schema_of(record, max_examples=4))
    with pytest.raises(BadWeight, match="4, not a whole number from 1 to 3"):
        check_reply(_message(content), schema_of(record, max_examples=3))


# -- the guard, on anything --------------------------------------------------------------------------------------------


def _message(content: RecordDict) -> Message:
    LocalGrid(clients(), 1)  # messages cannot be built before a run has an identity
    return Message(content, dst_node_id=1, message_type="train")


names = st.sampled_from([ARRAYS, METRICS, "w", "num-examples", "client", "train_loss", "x" * 10_000, ""])
numpy_arrays = st.builds(
    lambda shape, dtype, value: np.full(
        shape, abs(np.nan_to_num(value, posinf=7)) if dtype in ("i8", "u1") else value
    ).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", "c8", "S3", ">f4"]),
    st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf")]),
)
arrays = st.one_of(
    numpy_arrays.map(Array),
    st.builds(lambda data, kind: Array("float32", (2,), kind, data), st.binary(max_size=200), st.text(max_size=9)),
    st.builds(
        lambda array, cut: Array(array.dtype, array.shape, array.stype, array.data[: -cut or None]),
        numpy_arrays.map(Array),
        st.integers(0, 150),
    ),
)
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats())
metric_values = st.one_of(numbers, st.lists(st.floats(), max_size=3))
records = st.one_of(
    st.dictionaries(names, arrays, max_size=3).map(ArrayRecord),
    st.dictionaries(names, metric_values, max_size=4).map(MetricRecord),
    st.dictionaries(names, st.text(max_size=3), max_size=2).map(ConfigRecord),
)
plausible = st.builds(
    lambda array, weight, loss: {
        ARRAYS: ArrayRecord({"w": array}),
        METRICS: MetricRecord({"num-examples": weight, "client": 0, "train_loss": loss}),
    },
    arrays,
    st.one_of(st.just(3), numbers),
    st.one_of(st.just(0.5), metric_values),
)
WANTED = schema_of(pack({"w": torch.zeros(2, 3)}))


@settings(max_examples=300, deadline=None)
@given(st.one_of(plausible, st.dictionaries(names, records, max_size=3)), st.booleans())
def test_random_records_never_crash_the_guard_and_what_passes_is_finite_and_as_asked(content, anything):
    schema = Schema(metrics=None) if anything else WANTED
    message = _message(RecordDict(content))
    try:
        check_reply(message, schema)
    except Rejected:
        return
    for record in message.content.array_records.values():
        for array in record.values():
            assert np.isfinite(array.numpy()).all()
    if not anything:
        assert message.content[ARRAYS]["w"].numpy().shape == (2, 3)
        assert message.content[ARRAYS]["w"].numpy().dtype == np.float32
        assert 1 <= message.content[METRICS]["num-examples"] <= schema.max_examples


@settings(max_examples=100, deadline=None)
@given(numpy_arrays, st.integers(0, 300), st.integers(0, 255))
def test_a_flipped_byte_never_crashes_the_guard(values, position, byte):
    good = Array(values)
    data = bytearray(good.data)
    data[position % len(data)] ^= byte
    record = ArrayRecord({"w": Array(good.dtype, good.shape, good.stype, bytes(data))})
    content = RecordDict({ARRAYS: record, METRICS: MetricRecord({"num-examples": 1, "client": 0, "train_loss": 0.1})})
    try:
        check_reply(_message(content), Schema())
    except Rejected:
        return
    assert np.isfinite(record["w"].numpy()).all()
