"""Importance matrices: how much each input column of a weight matters, measured on the user's own text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ft_magic.errors import ExportError
from ft_magic.export.gguf_file import Tensor
from ft_magic.export.mixtures import FileType

if TYPE_CHECKING:
    import numpy as np

# Types whose kernel has no meaning without an importance matrix (ggml ends the process on a missing one).
NEEDED_BY = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})
EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})


def checked(
    imatrix: Mapping[str, np.ndarray] | None,
    tensors: Sequence[Tensor],
    targets: Sequence[Tensor],
    file_type: FileType,
) -> dict[str, np.ndarray]:
    """Return the matrices of the tensors that change type, each of shape (experts, width).

    Args:
        imatrix: matrix by tensor name, float32, shape (width,) or (experts * width,); None for none at all.
        tensors: tensors as they stand in the input.
        targets: the same tensors as they will stand in the output.
        file_type: the kind of file to make.

    Raises:
        ExportError: a matrix does not fit its tensor, is not finite, or is needed and missing.
    """
    found = {}
    for tensor, target in zip(tensors, targets, strict=True):
        if tensor.kind == target.kind:
            continue
        matrix = _fitting(imatrix.get(tensor.name), tensor) if imatrix else None
        if matrix is not None:
            found[tensor.name] = matrix.reshape(-1, tensor.shape[0])
        elif _is_needed(target, file_type):
            raise ExportError(
                f"{file_type.name} stores {tensor.name} as {target.kind.name}, "
                "which needs an importance matrix.",
                "Give imatrix=..., or choose Q2_K, Q3_K_M or Q4_K_M, which need none.",
            )
    return found


def _fitting(given: np.ndarray | None, tensor: Tensor) -> np.ndarray | None:
    """Return a tensor's matrix as float32, shape as given; None where there is none."""
    if given is None:
        return None
    import numpy as np

    width, experts = tensor.shape[0], tensor.shape[2] if len(tensor.shape) > 2 else 1
    values: np.ndarray = np.ascontiguousarray(given, dtype=np.float32)
    if values.size == width * experts and np.isfinite(values).all():
        return values
    if tensor.name in EMBEDDINGS:  # it has no inputs to measure; llama.cpp ignores a wrong one too
        return None
    raise ExportError(
        f"the importance matrix of {tensor.name} does not fit: {values.size} numbers for "
        f"{width * experts} columns, or some that are not finite.",
        "Measure it again on this very model.",
    )


def _is_needed(target: Tensor, file_type: FileType) -> bool:
    if target.name in EMBEDDINGS or target.name == "output.weight":
        return False
    return target.kind.name in NEEDED_BY or (target.kind.name == "Q2_K" and file_type.name == "Q2_K_S")
