"""Arrays that come in from the coordinator: hostile until they fit the schema exactly."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from fl_client.egress import Schema
from fl_shared.wire import Arrays, from_npy


class HostileInputError(Exception):
    """Incoming bytes that are not what the study says."""


def read_arrays(data: Mapping[str, bytes], schema: Schema) -> Arrays:
    """Decode ``.npy`` bytes, header first, so that nothing is allocated for a shape that the schema lacks.

    Raises:
        HostileInputError: other names, shapes, dtypes or lengths, pickled content, values that are not finite.
    """
    if data.keys() != schema.keys():
        raise HostileInputError(f"names differ from the schema: {sorted(data.keys() ^ schema.keys())[:8]}")
    return {name: _read(name, data[name], *schema[name]) for name in sorted(data)}


def _read(name: str, data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray[tuple[int, ...], np.dtype]:
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not .npy version 1.0")
        came = np.lib.format.read_array_header_1_0(stream)
        if came != (tuple(shape), False, np.dtype(dtype)):
            raise ValueError(f"is {came[2]}{came[0]}, the schema says {dtype}{shape}")
        if len(data) - stream.tell() != int(np.prod(shape)) * np.dtype(dtype).itemsize:
            raise ValueError("length does not fit the shape")
        array = from_npy(data)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise HostileInputError(f"{name}: {error}") from error
    if not np.isfinite(array).all():
        raise HostileInputError(f"{name}: not finite")
    return array
