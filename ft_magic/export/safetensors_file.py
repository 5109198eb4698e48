"""Safetensors files read without torch: names, types, shapes, and the largest number of each tensor.

A file is 8 bytes of header length, a JSON header, the data: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_magic.errors import ExportError

CHUNK_ELEMENTS = 16 * 2**20  # 32 MiB of bf16 at a time
FLOATS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Weight:
    """One tensor.

    Attributes:
        name: its name in the model.
        path: the file that holds it.
        dtype: safetensors' name of its type, e.g. ``BF16``.
        shape: its sizes, rows first.
        at: where its data begins in the file, in bytes.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    at: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def weights_of(path: Path) -> Iterator[Weight]:
    """Iterate over the tensors of a file.

    Raises:
        ExportError: it is no safetensors file, or it was cut short.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
    except (struct.error, ValueError) as error:
        raise ExportError(
            f"'{path}' is no whole safetensors file: {error}.", "Save or merge the model again."
        ) from error
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if path.stat().st_size < end:
        raise ExportError(
            f"'{path}' ends at byte {path.stat().st_size:,}, its tensors at byte {end:,}.",
            "It was cut short: save or merge the model again.",
        )
    for name, entry in header.items():
        at = 8 + length + entry["data_offsets"][0]
        yield Weight(name, path, entry["dtype"], tuple(entry["shape"]), at)


def largest(weight: Weight) -> float:
    """Return the largest absolute value of a tensor; NaN or infinity where it holds one, 0 for integers."""
    if weight.dtype not in FLOATS:
        return 0.0
    worst = 0.0
    for first in range(0, weight.elements, CHUNK_ELEMENTS):
        found = _largest(weight, first, min(CHUNK_ELEMENTS, weight.elements - first))
        if not math.isfinite(found):
            return found
        worst = max(worst, found)
    return worst


def _largest(weight: Weight, first: int, count: int) -> float:
    import numpy as np

    kind: np.dtype[Any] = np.dtype(FLOATS[weight.dtype])
    values = np.fromfile(weight.path, dtype=kind, count=count, offset=weight.at + first * kind.itemsize)
    if weight.dtype == "BF16":  # without its sign bit a bf16 number orders like an integer; NaN comes last
        top = (values & 0x7FFF).max().astype(np.uint32)
        return float((top << 16).view(np.float32))
    return float(np.abs(values).max())
