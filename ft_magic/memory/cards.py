"""Cards: their memory, and what the runtime takes before the first tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: what people call it.
        memory_bytes: what CUDA offers a process.
        context_bytes: CUDA context with the kernels that training loads.
        workspace_bytes: cuBLAS workspaces: 8,519,680 bytes a (thread, stream), two threads; 32 MiB on Hopper
            (aten/src/ATen/cuda/CUDABlas.cpp).
    """

    name: str
    memory_bytes: int
    context_bytes: int = 501 * MIB
    workspace_bytes: int = 2 * 8_519_680


# Context sizes: T4 141 MiB, L4 226 and A100 501 measured (fitcheck-llm, AgileRL); others take the A100's.
# Totals: the "total capacity" PyTorch prints when it runs out, a few hundred MiB less than nvidia-smi's.
CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "T4": Card("T4", int(14.75 * GIB), 141 * MIB),
        "L4": Card("L4", int(22.17 * GIB), 226 * MIB),
        "4090": Card("RTX 4090", int(23.64 * GIB)),
        "A100-40": Card("A100 40 GB", int(39.39 * GIB)),
        "A100-80": Card("A100 80 GB", int(79.15 * GIB)),
        "H100": Card("H100 80 GB", int(79.11 * GIB), workspace_bytes=2 * 32 * MIB),
        "A10G": Card("A10G", int(22.19 * GIB)),
        "L40S": Card("L40S", int(44.40 * GIB)),
        "3090": Card("RTX 3090", int(23.69 * GIB)),
        "4080": Card("RTX 4080", int(15.70 * GIB)),
        "3070": Card("RTX 3070", int(7.78 * GIB)),
        "3080": Card("RTX 3080 Ti", int(11.75 * GIB)),
        "A6000": Card("RTX A6000", int(47.54 * GIB)),
        "V100": Card("V100 16 GB", int(15.77 * GIB)),
        "H200": Card("H200", int(139.72 * GIB), workspace_bytes=2 * 32 * MIB),
    }
)
TEXTBOOK = ("T4", "L4", "4090", "A100-40", "A100-80", "H100")
# Where no card is named: a context as on an A100, and no limit.
UNKNOWN = Card("GPU", 0)
# A Python process with torch, transformers, trl and peft imported (measured: 0.75 GB).
CPU = Card("CPU", 0, 800_000_000, 0)


def find_card(name: str) -> Card:
    """Return the card that a name such as ``Tesla T4`` or ``A100-SXM4-40GB`` means; ``UNKNOWN`` for none."""
    plain = name.upper().replace(" ", "").replace("-", "").replace("GEFORCE", "")
    if "A100" in plain:
        return CARDS["A100-40" if "40G" in plain or plain.endswith("40") else "A100-80"]
    for key in sorted(CARDS, key=len, reverse=True):
        if key.upper().replace("-", "") in plain:
            return CARDS[key]
    return UNKNOWN
