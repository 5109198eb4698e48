"""The model exactly as training left it, in torch: base, 4-bit base as it computes, adapter on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_magic import hardware
from ft_magic.errors import ExportError
from ft_magic.export.safetensors_file import weights_of

# Peak memory over the size of the weights while a model is loaded and adapted (135M model in float32: 1.5).
LOADING_FACTOR = 1.6


def load_trained(base: Path, adapter: Path | None, *, base_bits: int = 0, dtype: str = "float32") -> Any:
    """Return base + adapter on the processor, ready for evaluation.

    A 4-bit base is quantized the way training does it and then dequantized, so that every weight has the
    value training computed with.

    Args:
        base: folder of the base model, or of the fully fine-tuned model.
        adapter: folder of a PEFT adapter, or None.
        base_bits: 4 where training held the base in NF4, else 0.
        dtype: number format to hold and compute in: ``float32`` or ``bfloat16``.

    Raises:
        ExportError: a folder does not hold what it should.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from ft_magic.backends import matmul

    check_folders(base, adapter)
    matmul.use_fastest()
    extra: dict[str, Any] = {}
    if base_bits == 4:
        from ft_magic.backends.quantized import nf4_config

        extra["quantization_config"] = nf4_config("fp32")
    elif base_bits:
        raise ExportError(
            f"base_bits={base_bits} is not known.", "Write 4 for a base held in NF4, 0 for any other."
        )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), **extra)
    if base_bits == 4:
        # At once: the first forward pass of bitsandbytes on a CPU repacks the 4-bit weights, and what is
        # dequantized after that is another matrix (0.50.2: logits off by 46).
        model = model.dequantize()
    if adapter is not None:
        model = _with_adapter(model, adapter)
    return model.eval()


def _with_adapter(model: Any, adapter: Path) -> Any:
    from ft_magic.backends import adapters

    try:
        return adapters.load(model, adapter)
    except (RuntimeError, ValueError) as error:
        # PEFT reports each mismatched tensor on a line of its own; the first says enough.
        detail = " ".join(str(error).split())[:300]
        raise ExportError(
            f"The adapter in {adapter} does not fit this base model: {detail}",
            "Give the base model it was trained on.",
        ) from error


def logits(model: Any, ids: Sequence[int], last: int = 0) -> Any:
    """Return float32 logits of one sequence: (tokens, vocabulary), or of its ``last`` tokens alone."""
    import torch

    # Every causal model of transformers 5 can leave out the logits nobody asked for; most of the memory is
    # there.
    extra = {"logits_to_keep": last} if last else {}
    with torch.no_grad():
        return model(torch.tensor([list(ids)]), **extra).logits[0].float()


def kl_by_position(reference: Any, other: Any) -> Any:
    """Return KL(reference || other) over the full vocabulary, in nats: (positions,).

    Both are logits (positions, vocabulary). In float64: differences near 1e-6 drown in float32 sums over
    50,000 tokens.
    """
    import torch

    p = torch.log_softmax(reference.double(), -1)
    q = torch.log_softmax(other.double(), -1)
    return (p.exp() * (p - q)).sum(-1)


def working_dtype(base: Path) -> str:
    """Return the number format to work in: float32, or bfloat16 where float32 does not fit into memory.

    Raises:
        ExportError: not even bfloat16 fits; going on would end in a killed process.
    """
    weights, free_bytes = count_weights(base), hardware.read().memory_free_bytes
    if weights * 4 * LOADING_FACTOR <= free_bytes:
        return "float32"
    if weights * 2 <= free_bytes:
        return "bfloat16"
    raise ExportError(
        f"{base.name} takes {weights * 2 / 1e9:.1f} GB of memory in bfloat16, {free_bytes / 1e9:.1f} GB are free.",
        "Free memory (%ft unload, restart other notebooks), or merge on a machine with more.",
    )


def count_weights(folder: Path) -> int:
    """Return the number of weights of a model folder, read from the headers of its safetensors files.

    Raises:
        ExportError: the folder holds no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ExportError(
            f"{folder} holds no .safetensors file.", "Save the model with save_pretrained first."
        )
    return sum(weight.elements for file in files for weight in weights_of(file))


def check_folders(base: Path, adapter: Path | None) -> None:
    """Refuse folders that are not what they should be.

    Raises:
        ExportError: no model in ``base``, or no adapter in ``adapter``.
    """
    if not (base / "config.json").is_file():
        raise ExportError(
            f"{base} is no model folder: it has no config.json.", "Give the folder of the base model."
        )
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ExportError(
            f"{adapter} is no adapter folder: it has no adapter_config.json.",
            "Give the adapter folder of a run; a full fine-tune has none (adapter=None).",
        )
