"""How ggml stores numbers: names, enum values and block layouts (ggml.h, ggml-common.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class TensorType:
    """How ggml stores numbers.

    Attributes:
        name: ggml's name, upper case.
        number: ggml's enum value, as written in the file.
        block_elements: elements a block holds; a row must be a multiple of it.
        block_bytes: bytes a block takes.
    """

    name: str
    number: int
    block_elements: int
    block_bytes: int

    def bytes_of(self, elements: int) -> int:
        """Return the bytes that ``elements`` numbers take; ``elements`` is a multiple of the block."""
        return elements // self.block_elements * self.block_bytes


TENSOR_TYPES: Mapping[str, TensorType] = MappingProxyType(
    {
        row[0]: TensorType(*row)
        for row in (
            ("F32", 0, 1, 4),
            ("F16", 1, 1, 2),
            ("Q4_0", 2, 32, 18),
            ("Q4_1", 3, 32, 20),
            ("Q5_0", 6, 32, 22),
            ("Q5_1", 7, 32, 24),
            ("Q8_0", 8, 32, 34),
            ("Q2_K", 10, 256, 84),
            ("Q3_K", 11, 256, 110),
            ("Q4_K", 12, 256, 144),
            ("Q5_K", 13, 256, 176),
            ("Q6_K", 14, 256, 210),
            ("IQ2_XXS", 16, 256, 66),
            ("IQ2_XS", 17, 256, 74),
            ("IQ3_XXS", 18, 256, 98),
            ("IQ1_S", 19, 256, 50),
            ("IQ4_NL", 20, 32, 18),
            ("IQ3_S", 21, 256, 110),
            ("IQ2_S", 22, 256, 82),
            ("IQ4_XS", 23, 256, 136),
            ("I8", 24, 1, 1),
            ("I16", 25, 1, 2),
            ("I32", 26, 1, 4),
            ("I64", 27, 1, 8),
            ("F64", 28, 1, 8),
            ("IQ1_M", 29, 256, 56),
            ("BF16", 30, 1, 2),
            ("TQ1_0", 34, 256, 54),
            ("TQ2_0", 35, 256, 66),
            ("MXFP4", 39, 32, 17),
            ("NVFP4", 40, 64, 36),
        )
    }
)
BY_NUMBER: Mapping[int, TensorType] = MappingProxyType({kind.number: kind for kind in TENSOR_TYPES.values()})
