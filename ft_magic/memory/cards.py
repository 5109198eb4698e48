"""Cards: their memory, and what the runtime takes before the first tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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
        source: where ``memory_bytes`` stands in a message of PyTorch: a GitHub issue; ``UNSEEN`` where none was found.
        cuda: whether CUDA's kernels run.
    """

    name: str
    memory_bytes: int
    context_bytes: int = 501 * MIB
    cublas_bytes: int = _CUBLAS_BYTES
    flash: bool = True
    rounding_bytes: int = 512
    cuda: bool = True
    source: str = ""

    @property
    def workspace_bytes(self) -> int:
        """Workspaces of the forward and of the backward pass, which run in threads of their own."""
        return 2 * self.cublas_bytes


# A total that no message confirms: nvidia-smi's figure less what the driver keeps on cards of the same kind.
UNSEEN = "no message found"


def _card(name: str, gib: float, source: str, **more: Any) -> Card:
    return Card(name, int(gib * GIB), source=source, **more)


# Context sizes: T4 141 MiB, L4 226 and A100 501 measured (fitcheck-llm, AgileRL); others take the A100's.
# Totals: the "total capacity" PyTorch prints when it runs out, a few hundred MiB less than nvidia-smi's. Where drivers
# differ, the smallest that was seen: a T4 has printed 14.75 GiB until 2025, and 14.56 since.
CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "T4": _card("T4", 14.56, "facebookresearch/tribev2#28", context_bytes=141 * MIB, flash=False),
        "L4": _card("L4", 22.03, UNSEEN, context_bytes=226 * MIB),
        "4090": _card("RTX 4090", 23.64, "ali-vilab/VGen#104"),
        "A100-40": _card("A100 40 GB", 39.50, "TianheWu/CoSeR#10"),
        "A100-80": _card("A100 80 GB", 79.25, "levihsu/OOTDiffusion#235"),
        "H100": _card("H100 80 GB", 79.11, "vllm-project/vllm#27508", cublas_bytes=_CUBLAS_HOPPER_BYTES),
        "H200": _card("H200", 139.72, UNSEEN, cublas_bytes=_CUBLAS_HOPPER_BYTES),
        "A10": _card("A10", 21.99, "zai-org/CogVLM#236"),
        "A10G": _card("A10G", 22.20, "XavierXiao/Dreambooth-Stable-Diffusion#18"),
        "A30": _card("A30", 23.53, "google/RB-Modulation#5"),
        "L40": _card("L40", 44.40, "NVlabs/Eagle#68"),
        "L40S": _card("L40S", 44.40, "vladmandic/sdnext#3656 (44.68 on Windows)"),
        "5090": _card("RTX 5090", 31.36, "TrajectoryCrafter/TrajectoryCrafter#20"),
        "3090": _card("RTX 3090", 23.68, "vllm-project/vllm#16343"),
        "4080": _card("RTX 4080", 15.70, UNSEEN),
        "4060TI": _card("RTX 4060 Ti 16 GB", 15.60, UNSEEN),
        "3060": _card("RTX 3060 12 GB", 11.75, "Kunhao-Liu/StyleGaussian#12"),
        "3070": _card("RTX 3070", 7.78, UNSEEN),
        "3080": _card("RTX 3080", 9.78, "zai-org/CogVideo#34"),
        "3080TI": _card("RTX 3080 Ti", 11.75, UNSEEN),
        "A2000": _card("RTX A2000 12 GB", 11.53, "vllm-project/vllm#12030"),
        "A4000": _card("RTX A4000", 15.61, "DengKaiCQ/VGGT-Long#6"),
        "A5000": _card("RTX A5000", 23.68, "zai-org/GLM-4#730"),
        "A6000": _card("RTX A6000", 47.54, UNSEEN),
        "6000ADA": _card("RTX 6000 Ada", 44.43, "DINGYANB/MTVCrafter#21"),
        "V100": _card("V100 16 GB", 15.77, "nomic-ai/gpt4all#544", flash=False),
        "V100-32": _card("V100 32 GB", 31.74, "liucongg/ChatGLM-Finetuning#73", flash=False),
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
    if "V100" in plain:
        return CARDS["V100-32" if "32G" in plain or plain.endswith("32") else "V100"]
    for key in sorted(CARDS, key=len, reverse=True):
        if key.upper().replace("-", "") in plain:
            return CARDS[key]
    return UNKNOWN
