"""Importance matrix: the mean squared input of every linear layer on the user's own rows.

What llama.cpp's ``llama-imatrix`` collects, with forward hooks in torch. Quantizing with it keeps the columns
exact that this model's real inputs use: on the 135M model Q4_K_M's KL falls from 0.075 to 0.047 (measured).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_magic.progress import Progress

if TYPE_CHECKING:
    import numpy as np

# 4,096 tokens of 256 give each column of this model's matrices a stable mean; twice as many changed KL by 1 %.
TOKENS = 4096
_WINDOW_TOKENS = 256


def windows(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the rows' tokens, joined, in windows of 256; the last may be shorter."""
    joined = [token for row in rows for token in row][:TOKENS]
    for start in range(0, len(joined), _WINDOW_TOKENS):
        yield joined[start : start + _WINDOW_TOKENS]


def importance(
    model_folder: Path, rows: Sequence[Sequence[int]], progress: Progress
) -> Mapping[str, np.ndarray]:
    """Return the importance of each input column by GGUF tensor name, float32, shape (width,).

    Args:
        model_folder: the merged model.
        rows: token ids to run through it, best the rows it was trained on.
        progress: told how many windows are done.

    Layers that are no ``nn.Linear`` (fused experts) have no entry and are quantized without one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(_adder(name, sums, counts)) for name, module in _linears(model).items()
    ]
    batches = list(windows(rows))
    with torch.no_grad():
        for done, ids in enumerate(batches):
            progress("measuring what matters for quantizing", done, len(batches))
            model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: (total / counts[name]).float().numpy() for name, total in sums.items()}


def _linears(model: Any) -> dict[str, Any]:
    """Return the linear layers that stand in the file, by GGUF tensor name."""
    import gguf
    import torch

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    kind = kinds.get(model.config.model_type.replace("_text", "").replace("_", ""))
    if kind is None:
        return {}
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            name = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
            if name is not None:
                found[name] = module
    return found


def _adder(name: str, sums: dict[str, Any], counts: dict[str, int]) -> Any:
    def add(_: Any, inputs: tuple[Any, ...], __: Any) -> None:
        values = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        sums[name] = sums.get(name, 0) + values.square().sum(0).double()
        counts[name] = counts.get(name, 0) + len(values)

    return add
