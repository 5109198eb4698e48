"""What a device adds to the tensors of a step, as documented facts about its kernels and libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# cuBLAS' workspace for each thread and stream: PyTorch's default :4096:2:16:8 is 2 x 4 MiB + 8 x 16 KiB
# (aten/src/ATen/cuda/CublasHandlePool.cpp); Hopper takes 32 MiB.
_CUBLAS_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
_CUBLAS_HOPPER_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Card:
    """One kind of device.

    Attributes:
        name: how people call it.
        flash: whether its attention kernels include FlashAttention (compute capability 8.0 and later).
        cublas_bytes: workspace of one thread's matrix products.
        rounding_bytes: what every allocation is rounded up to.
        cuda: whether CUDA's kernels run.
    """

    name: str
    flash: bool = True
    cublas_bytes: int = _CUBLAS_BYTES
    rounding_bytes: int = 512
    cuda: bool = True


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "T4": Card("T4", flash=False),
        "V100": Card("V100", flash=False),
        "A100": Card("A100"),
        "L4": Card("L4"),
        "L40S": Card("L40S"),
        "4090": Card("4090"),
        "4080": Card("4080"),
        "3090": Card("3090"),
        "3070": Card("3070"),
        "H100": Card("H100", cublas_bytes=_CUBLAS_HOPPER_BYTES),
        "H200": Card("H200", cublas_bytes=_CUBLAS_HOPPER_BYTES),
        "cpu": Card("cpu", cublas_bytes=0, rounding_bytes=1, cuda=False),
    }
)


def card_named(text: str) -> Card:
    """Return the card a free text such as ``RTX 4080 16GB (Windows)`` names; an Ampere card where none is known."""
    return next((card for name, card in CARDS.items() if name.lower() in text.lower()), CARDS["A100"])
