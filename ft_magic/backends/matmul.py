"""Matrix products on processors where PyTorch's own library leaves half of the arithmetic unused.

PyTorch sends fp32 products to MKL, which takes its AVX-512 path on Intel processors alone: on others it computes
with AVX2. oneDNN, which PyTorch brings along, takes the widest units of any processor. Measured on one core of a
Zen 5 with the shapes of a 135M model: MKL 128 GFLOP/s, oneDNN 290 (``python bench/matmul_rates.py``).

``use_fastest`` puts oneDNN's products under the two operators every linear layer comes down to, forward and
backward, whoever calls them. Results differ in the order of sums alone (1e-6). Imported in heavy processes alone.
"""

from __future__ import annotations

import os
import warnings

import torch

from ft_magic import hardware

SWITCH = "FT_MAGIC_MATMUL"
# Below these oneDNN's start costs more than its arithmetic saves (measured as above): a product of a few rows is
# bound by reading its matrix, and one of 2 million operations takes 15 microseconds.
_LEAST_ROWS = 4
_LEAST_FLOPS = 2_000_000

_product = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001  the one name torch gives it
_held: list[torch.library.Library] = []  # an override lasts as long as its library object


def use_fastest() -> str:
    """Choose the library of fp32 products in this process and return its name: ``mkl``, ``onednn`` or ``torch``.

    ``FT_MAGIC_MATMUL=torch`` leaves everything as it is.
    """
    if _held:
        return "onednn"
    if os.environ.get(SWITCH) == "torch" or not torch.backends.mkl.is_available():
        return "torch"
    if not torch.backends.mkldnn.is_available() or not hardware.mkl_leaves_units():
        return "mkl"
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is replaced, which is what is meant
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    _held.append(library)
    return "onednn"


def _mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the product of (m, k) and (k, n)."""
    if _pays(left, right) and (made := _by_onednn(left, right, None)) is not None:
        return made
    return torch.mm(left, right, out=left.new_empty(left.shape[0], right.shape[1]))


def _addmm(
    bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """Return beta x bias + alpha x the product of (m, k) and (k, n)."""
    plain = beta == alpha == 1 and bias.dim() == 1 and bias.shape[0] == right.shape[1]
    fits = plain and bias.dtype == torch.float32 and bias.is_contiguous() and _pays(left, right)
    if fits and (made := _by_onednn(left, right, bias)) is not None:
        return made
    out = left.new_empty(left.shape[0], right.shape[1])
    return torch.addmm(bias, left, right, beta=beta, alpha=alpha, out=out)


def _by_onednn(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    """Return the product, or None where oneDNN finds no room for a kernel of its own: MKL needs none."""
    try:
        made: torch.Tensor = _product(_dense(left), _dense(right).t(), bias, "none", [], "")
    except RuntimeError as error:
        if "primitive" not in str(error):
            raise
        return None
    return made


def _pays(left: torch.Tensor, right: torch.Tensor) -> bool:
    rows, inner = left.shape
    narrow = left.dtype != torch.float32 or right.dtype != torch.float32
    return not narrow and rows >= _LEAST_ROWS and 2 * rows * inner * int(right.shape[1]) >= _LEAST_FLOPS


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix whose rows or columns lie without gaps: with gaps oneDNN is a thousand times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
