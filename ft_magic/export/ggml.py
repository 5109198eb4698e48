"""The quantization kernels: ggml's own, called through ctypes, and tested before use.

``ggml_quantize_chunk`` turns rows of float32 into rows of any ggml type. It comes from libggml-python (plain
ggml shared libraries) or, where that is not installed, from the symbols that xllamacpp's extension exports on
Linux and macOS. ctypes releases the interpreter lock during a call, so several threads quantize at once.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ft_magic.errors import ExportError
from ft_magic.export.tensor_types import TENSOR_TYPES, TensorType

if TYPE_CHECKING:
    import numpy as np

# Where the shared library lies: distribution, importable package, patterns below its folder.
SOURCES = (
    (
        "libggml-python",
        "libggml",
        ("lib*/libggml-base*.so*", "lib*/libggml-base*.dylib", "**/ggml-base*.dll"),
    ),
    ("xllamacpp", "xllamacpp", ("xllamacpp*.so",)),
)
# SHA-256 of the self-test's output: libggml-python 0.20.2.post1 and xllamacpp 2026.10.11549 on x86-64 Linux.
SELF_TEST_SHA256 = "4fb02a861685ba094388dac346f6ae7f8f66f7441056f3f079a24916b11787f7"
# Relative root-mean-square error each type may have in the self-test: about twice what a sound kernel has.
SELF_TEST_ERRORS = (("Q8_0", 0.01), ("Q6_K", 0.04), ("Q5_0", 0.08), ("Q4_K", 0.16))


@dataclass(frozen=True)
class Kernel:
    """A loaded, tested quantization kernel.

    Attributes:
        name: distribution and version it comes from.
        exact: whether the self-test gave the recorded bytes. A sound kernel on another processor may round a
            last bit differently; its files are good but not byte-identical to recorded ones.
    """

    name: str
    exact: bool
    _chunk: ctypes._FuncPointer

    def quantize(self, rows: np.ndarray, kind: TensorType, weights: np.ndarray | None = None) -> bytes:
        """Return rows in a ggml type.

        Args:
            rows: float32, shape (rows, width), contiguous; width a multiple of the type's block.
            kind: the type to make.
            weights: importance of each column, float32, shape (width,); None for none.
        """
        out = ctypes.create_string_buffer(kind.bytes_of(rows.size))
        importance = None if weights is None else weights.ctypes.data
        count, width = rows.shape
        written = self._chunk(kind.number, rows.ctypes.data, out, 0, count, width, importance)
        if written != len(out):
            raise ExportError(
                f"{self.name} wrote {written:,} bytes of {kind.name} where {len(out):,} were due.",
                "Install the version ft_magic was tested with: pip install libggml-python==0.20.2.post1",
            )
        return out.raw


@functools.cache
def load() -> Kernel:
    """Load the first kernel there is and test it.

    Raises:
        ExportError: neither package is installed, or the kernel fails its self-test.
    """
    for name, function in _functions():
        output, errors = _self_test(Kernel(name, exact=False, _chunk=function))
        bad = [
            f"{kind} {errors[kind]:.3f} (at most {limit})"
            for kind, limit in SELF_TEST_ERRORS
            if errors[kind] > limit
        ]
        if bad:
            raise ExportError(
                f"the quantization kernel of {name} is broken here: relative error {', '.join(bad)}.",
                "Install the version ft_magic was tested with: pip install libggml-python==0.20.2.post1",
            )
        return Kernel(name, exact=output == SELF_TEST_SHA256, _chunk=function)
    raise ExportError(
        "no quantization kernel is installed (libggml-python or xllamacpp).",
        "Install one: pip install 'ft-magic[gguf]'. The converter alone makes bf16, f16 and q8_0.",
    )


def _functions() -> Iterator[tuple[str, ctypes._FuncPointer]]:
    """Iterate over the kernels that load, with the distribution's name and version."""
    for distribution, package, patterns in SOURCES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(path for pattern in patterns for path in Path(folder).glob(pattern)):
                function = _function(path)
                if function is not None:
                    yield f"{distribution} {importlib.metadata.version(distribution)}", function


def _function(path: Path) -> ctypes._FuncPointer | None:
    """Load a library and return its quantizing function; None where it does not load or has none."""
    try:
        function = ctypes.CDLL(str(path)).ggml_quantize_chunk
    except (OSError, AttributeError):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (ctypes.c_int, pointer, pointer, number, number, number, pointer)
    function.restype = ctypes.c_size_t
    return function


def test_rows() -> np.ndarray:
    """Return the self-test's input: float32, shape (4, 512), the same on every machine."""
    import numpy as np

    # A multiplicative hash instead of a random generator, whose stream may change between numpy versions.
    mixed = (np.arange(2048, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(65536)
    rows: np.ndarray = mixed.astype(np.float32) / np.float32(32768) - np.float32(1)
    return rows.reshape(4, 512)


def _self_test(kernel: Kernel) -> tuple[str, dict[str, float]]:
    """Quantize the test rows; return the hash of all bytes and each type's relative error."""
    import gguf
    import numpy as np

    rows, digest, errors = test_rows(), hashlib.sha256(), {}
    for name, _ in SELF_TEST_ERRORS:
        kind = TENSOR_TYPES[name]
        data = kernel.quantize(rows, kind)
        digest.update(data)
        blocks = np.frombuffer(data, dtype=np.uint8).reshape(len(rows), -1)
        back = gguf.dequantize(blocks, gguf.GGMLQuantizationType(kind.number))
        errors[name] = float(np.sqrt(np.mean((back - rows) ** 2) / np.mean(rows**2)))
    return digest.hexdigest(), errors
