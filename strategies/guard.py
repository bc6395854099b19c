"""The reply guard: what a server checks before it lets a client's message near the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

ARRAYS, CONFIG, METRICS, RELEASE = "arrays", "config", "metrics", "release"
APPLIED = "defences"
"""The one key of the release record: the label of the chain that the client ran."""
LONGEST_LABEL = 10_000
TRAIN_METRICS = frozenset({"num-examples", "client", "train_loss"})
EVALUATE_METRICS = frozenset({"num-examples", "client", "eval_loss", "eval_accuracy"})


class Rejected(ValueError):
    """A reply that must not be used; the subclass says why."""


class NonFinite(Rejected):
    """NaN or infinity in an array or a metric."""


class ShapeMismatch(Rejected):
    """An array of another shape than the server asked for."""


class DtypeMismatch(Rejected):
    """An array of another element type than the server asked for."""


class KeysMismatch(Rejected):
    """Records, arrays or metrics are missing, or there are some that nobody asked for."""


class BadWeight(Rejected):
    """'num-examples', the sender's own claim that decides the average, is no whole number from 1 to the limit."""


class TooLarge(Rejected):
    """More bytes than the schema could need."""


class Undecodable(Rejected):
    """Bytes that are no plain numeric array (such as pickled objects, which are never loaded)."""


class WrongClient(Rejected):
    """A reply that claims to come from another client than the one that was asked."""


@dataclass(frozen=True)
class Schema:
    """What a reply must look like; None for `arrays` or `metrics` lets any through that decode and are finite.

    `arrays` has shape and dtype by name, `max_examples` bounds 'num-examples', `max_bytes` the arrays' total size.
    """

    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None
    metrics: frozenset[str] | None = TRAIN_METRICS
    max_examples: int = 1_000_000
    max_bytes: int = 2**30


def schema_of(
    record: ArrayRecord, metrics: frozenset[str] | None = TRAIN_METRICS, max_examples: int = 1_000_000
) -> Schema:
    """The schema of replies whose arrays have the names, shapes and dtypes of `record`."""
    size = sum(len(array.data) for array in record.values())
    arrays = {name: header(array) for name, array in record.items()}
    return Schema(arrays, metrics, max_examples, max_bytes=2 * size + 2**20)


def header(array: Array) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that the bytes declare (an Array's own fields are only claims), without loading the values.

    Raises:
        Undecodable: no plain numeric NumPy array, or more or fewer bytes than it declares.
    """
    if array.stype != "numpy.ndarray":
        raise Undecodable(f"arrays travel as 'numpy.ndarray', not as {array.stype[:40]!r}")
    data = BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(data)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(data)
    except Exception as error:  # hostile bytes can fail anywhere in numpy's parser
        raise Undecodable(f"not in NumPy's format: {type(error).__name__}: {str(error)[:200]}") from error
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative:
        raise Undecodable(f"dtype {str(dtype)[:40]} is no plain number: objects and structures are never loaded")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(array.data) - data.tell():
        raise Undecodable(f"declares shape {str(shape)[:80]} but holds {len(array.data) - data.tell()} bytes of values")
    return shape, dtype


def check_reply(message: Message, schema: Schema) -> None:
    """Check one reply with content against `schema`, cheapest test first.

    Raises:
        Rejected: the subclass names the fault.
    """
    content = message.content
    wanted = {METRICS} if schema.arrays is None else {ARRAYS, METRICS}
    optional = {RELEASE} | ({ARRAYS} if schema.arrays is None else set())
    _check_keys("records", set(content) - optional, wanted - optional)
    metrics, arrays = content[METRICS], content[ARRAYS] if ARRAYS in content else ArrayRecord()
    if not isinstance(metrics, MetricRecord) or not isinstance(arrays, ArrayRecord):
        raise KeysMismatch(f"'{ARRAYS}' must be an ArrayRecord and '{METRICS}' a MetricRecord")
    if RELEASE in content:
        _check_release(content[RELEASE])
    _check_arrays(arrays, schema)
    _check_metrics(metrics, schema)


def check_alike(message: Message, record: str, schema: Schema, weight: str) -> None:
    """Check a reply of any app against what it was sent: a `record` of arrays with the names and shapes of `schema`.

    Element types may differ, and there may be other records beside it; every number must be finite. `weight` is the
    metric by which an average weighs the reply, where it has one.

    Raises:
        Rejected: the subclass names the fault.
    """
    content = message.content
    if record not in content.array_records:
        raise KeysMismatch(f"there is no record of arrays '{record[:80]}', which was sent")
    for name, arrays in content.array_records.items():
        found = {each: header(array) for each, array in arrays.items()}
        shapes = found
        if name == record and schema.arrays is not None:
            _check_keys("arrays", arrays, schema.arrays)
            shapes = {each: (schema.arrays[each][0], dtype) for each, (_, dtype) in found.items()}
        _check_arrays(arrays, replace(schema, arrays=shapes))
    for metrics in content.metric_records.values():
        _check_finite(metrics)
        value = metrics.get(weight, 1)
        if isinstance(value, list) or not 0 < value <= schema.max_examples:
            raise BadWeight(f"'{weight}' is {str(value)[:40]}, no number above 0 and at most {schema.max_examples}")


def _check_release(release: object) -> None:
    if not isinstance(release, ConfigRecord):
        raise KeysMismatch(f"'{RELEASE}' must be a ConfigRecord")
    _check_keys("release", release, {APPLIED})
    label = release[APPLIED]
    if not isinstance(label, str) or len(label) > LONGEST_LABEL:
        raise KeysMismatch(f"'{APPLIED}' is no text of at most {LONGEST_LABEL} characters")


def _check_keys(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise KeysMismatch(f"{what}: missing {str(missing)[:200]}, not asked for {str(extra)[:200]}")


def _check_arrays(arrays: ArrayRecord, schema: Schema) -> None:
    size = sum(len(array.data) for array in arrays.values())
    if size > schema.max_bytes:
        raise TooLarge(f"{size} bytes of arrays, at most {schema.max_bytes} make sense here")
    if schema.arrays is not None:
        _check_keys("arrays", arrays, schema.arrays)
    for name, array in arrays.items():
        shape, dtype = header(array)
        wanted_shape, wanted_dtype = (shape, dtype) if schema.arrays is None else schema.arrays[name]
        if shape != wanted_shape:
            raise ShapeMismatch(f"'{name[:80]}' has shape {str(shape)[:80]}, expected {wanted_shape}")
        if dtype != wanted_dtype:
            raise DtypeMismatch(f"'{name[:80]}' is {dtype}, expected {wanted_dtype}")
        if dtype.kind == "f" and not np.isfinite(array.numpy()).all():
            raise NonFinite(f"'{name[:80]}' has NaN or infinite values")


def _check_metrics(metrics: MetricRecord, schema: Schema) -> None:
    if schema.metrics is not None:
        _check_keys("metrics", metrics, schema.metrics)
    _check_finite(metrics)
    weight = metrics.get("num-examples", 1)
    if type(weight) is not int or not 1 <= weight <= schema.max_examples:
        raise BadWeight(f"'num-examples' is {str(weight)[:40]}, not a whole number from 1 to {schema.max_examples}")


def _check_finite(metrics: MetricRecord) -> None:
    for name, value in metrics.items():
        if not np.isfinite(np.asarray(value, dtype=np.float64)).all():
            raise NonFinite(f"metric '{name[:80]}' is NaN or infinite")
