"""What matrix products of the demo model's shapes reach here, in GFLOP/s: PyTorch's own, oneDNN's, and in bf16.

python bench/matmul_rates.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

# (tokens, inner, outer) of SmolLM2-135M: attention, feed-forward, output layer.
SHAPES = ((200, 576, 576), (200, 576, 1536), (200, 1536, 576), (64, 576, 49152))
_TURNS = 12


def main() -> None:
    product = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001  the one name torch gives it
    ways: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "torch": torch.nn.functional.linear,
        "onednn": lambda rows, weight: product(rows, weight, None, "none", [], ""),
    }
    found = {name: rate(way, torch.float32) for name, way in ways.items()}
    found["bf16"] = rate(ways["torch"], torch.bfloat16)
    print(json.dumps(found))


def rate(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], dtype: torch.dtype) -> float:
    """Return the rate over all shapes, each at its fastest."""
    flops = seconds = 0.0
    for tokens, inner, outer in SHAPES:
        rows, weight = torch.randn(tokens, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)
        times = []
        for _ in range(_TURNS):
            begun = time.perf_counter()
            way(rows, weight)
            times.append(time.perf_counter() - begun)
        flops, seconds = flops + 2 * tokens * inner * outer, seconds + min(times)
    return flops / seconds / 1e9


if __name__ == "__main__":
    main()
