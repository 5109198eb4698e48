"""Cards: their memory, and what the runtime takes before the first tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MIB = 2**20
GIB = 2**30

# cuBLAS' workspace for each thread and stream: PyTorch's default :4096:2:16:8 is 2 x 4 MiB + 8 x 16 KiB
# (aten/src/ATen/cuda/CublasHandlePool.cpp); Hopper takes 32 MiB.
_CUBLAS_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
_CUBLAS_HOPPER_BYTES = 32 * MIB


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        name: what people call it.
        memory_bytes: what CUDA offers a process.
        context_bytes: CUDA context with the kernels that training loads.
        cublas_bytes: workspace of one thread's matrix products.
        flash: whether its attention kernels include FlashAttention (compute capability 8.0 and later).
        rounding_bytes: what every allocation is rounded up to.
        cuda: whether CUDA's kernels run.
    """

    name: str
    memory_bytes: int
    context_bytes: int = 501 * MIB
    cublas_bytes: int = _CUBLAS_BYTES
    flash: bool = True
    rounding_bytes: int = 512
    cuda: bool = True

    @property
    def workspace_bytes(self) -> int:
        """Workspaces of the forward and of the backward pass, which run in threads of their own."""
        return 2 * self.cublas_bytes


# Context sizes: T4 141 MiB, L4 226 and A100 501 measured (fitcheck-llm, AgileRL); others take the A100's.
# Totals: the "total capacity" PyTorch prints when it runs out, a few hundred MiB less than nvidia-smi's.
CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "T4": Card("T4", int(14.75 * GIB), 141 * MIB, flash=False),
        "L4": Card("L4", int(22.17 * GIB), 226 * MIB),
        "4090": Card("RTX 4090", int(23.64 * GIB)),
        "A100-40": Card("A100 40 GB", int(39.39 * GIB)),
        "A100-80": Card("A100 80 GB", int(79.15 * GIB)),
        "H100": Card("H100 80 GB", int(79.11 * GIB), cublas_bytes=_CUBLAS_HOPPER_BYTES),
        "A10G": Card("A10G", int(22.19 * GIB)),
        "L40S": Card("L40S", int(44.40 * GIB)),
        "3090": Card("RTX 3090", int(23.69 * GIB)),
        "4080": Card("RTX 4080", int(15.70 * GIB)),
        "3070": Card("RTX 3070", int(7.78 * GIB)),
        "3080": Card("RTX 3080 Ti", int(11.75 * GIB)),
        "A6000": Card("RTX A6000", int(47.54 * GIB)),
        "V100": Card("V100 16 GB", int(15.77 * GIB), flash=False),
        "H200": Card("H200", int(139.72 * GIB), cublas_bytes=_CUBLAS_HOPPER_BYTES),
    }
)
TEXTBOOK = ("T4", "L4", "4090", "A100-40", "A100-80", "H100")
# Where no card is named: a context as on an A100, and no limit.
UNKNOWN = Card("GPU", 0)
# A Python process with torch, transformers, trl and peft imported (measured: 0.75 GB).
CPU = Card("CPU", 0, 800_000_000, cublas_bytes=0, rounding_bytes=1, cuda=False)


def find_card(name: str) -> Card:
    """Return the card that a name such as ``Tesla T4`` or ``A100-SXM4-40GB`` means; ``UNKNOWN`` for none."""
    plain = name.upper().replace(" ", "").replace("-", "").replace("GEFORCE", "")
    if "A100" in plain:
        return CARDS["A100-40" if "40G" in plain or plain.endswith("40") else "A100-80"]
    for key in sorted(CARDS, key=len, reverse=True):
        if key.upper().replace("-", "") in plain:
            return CARDS[key]
    return UNKNOWN
