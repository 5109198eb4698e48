"""A 16- or 32-bit GGUF file made small: ``Q8_0``, ``Q4_K_M`` and the other file types.

The same input gives the same bytes as llama.cpp's ``llama-quantize``: ``policy.py`` says which tensor becomes
what, ``ggml.py`` computes it, and this module streams one file into the other. Rows pass in pieces of at most
16 MiB of float32 for each thread, so memory does not grow with the model.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ft_magic.errors import ExportError
from ft_magic.export import ggml, gguf_file, importance
from ft_magic.export.gguf_file import GgufFile, Tensor
from ft_magic.export.mixtures import FileType
from ft_magic.export.policy import choose_all, facts_of, find_file_type, in_file_order
from ft_magic.export.room import check_room
from ft_magic.export.tensor_types import TENSOR_TYPES
from ft_magic.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

CHUNK_ELEMENTS = 4 * 2**20  # 16 MiB of float32: large enough that a thread's start costs nothing
QUANTIZATION_VERSION = 2  # ggml.h GGML_QNT_VERSION
# Fields llama.cpp drops or writes anew. The alignment is always the default one in what we write.
REPLACED = frozenset(
    {
        "general.file_type", "general.quantization_version", "general.alignment",
        "split.no", "split.count", "split.tensors.count",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Quantized:
    """A quantized file.

    Attributes:
        path: the file.
        file_type: its kind, e.g. ``Q4_K_M``.
        bytes: its size.
        tensor_types: number of tensors by ggml type, most frequent first.
        fallbacks: tensors that got another type than the mixture wanted because their row width is no
            multiple of the type's block.
        seconds: time it took.
        kernel: distribution and version of the kernel.
        exact: whether the kernel passed its self-test to the byte.
    """

    path: Path
    file_type: str
    bytes: int
    tensor_types: Mapping[str, int]
    fallbacks: int
    seconds: float
    kernel: str
    exact: bool


@dataclass(frozen=True)
class _Piece:
    """Some rows of one tensor.

    Attributes:
        source: the tensor as it stands in the input.
        target: the tensor as it will stand in the output.
        first_row: the first row, counted over the whole tensor.
        rows: number of rows.
        matrix: which expert's matrix the rows belong to; 0 for two-dimensional tensors.
        last: whether these are the tensor's last rows.
    """

    source: Tensor
    target: Tensor
    first_row: int
    rows: int
    matrix: int
    last: bool


@dataclass(frozen=True)
class _Job:
    """Everything that is known before the first number is computed.

    Attributes:
        source: header of the input.
        file_type: the kind of file to make.
        targets: tensor records of the output, in order.
        head: header of the output.
        pieces: the work, in the order of the output.
        matrices: importance matrix by tensor name, shape (experts, width).
        fallbacks: tensors that get another type than the mixture wanted.
    """

    source: GgufFile
    file_type: FileType
    targets: Sequence[Tensor]
    head: bytes
    pieces: Sequence[_Piece]
    matrices: Mapping[str, np.ndarray]
    fallbacks: int

    @property
    def bytes(self) -> int:
        """Size of the output."""
        return len(self.head) + sum(t.bytes + gguf_file.padding(t.bytes) for t in self.targets)


def quantize(
    src: Path,
    out: Path,
    file_type: str,
    *,
    imatrix: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write a quantized copy of a GGUF file.

    Args:
        src: GGUF file whose weights are F32, F16 or BF16.
        out: where to write; an existing file is replaced at the very end.
        file_type: kind of file, e.g. ``Q4_K_M``, in any case.
        imatrix: importance of each input column by tensor name: float32, shape (width,) or, for tensors that
            hold several experts, (experts * width,). Without one, all columns count the same.
        threads: threads to compute with; all cores if not given.
        progress: told how many bytes of input are done.

    Raises:
        ExportError: unknown file type, unreadable or already quantized input, a matrix that is needed and
            missing or does not fit, a weight that is no finite number, no kernel, or no room.
    """
    started = time.monotonic()
    if out.exists() and src.exists() and out.samefile(src):
        raise ExportError(f"'{out}' is the input itself.", "Give another file to write to.")
    job = _prepare(src, find_file_type(file_type), imatrix)
    kernel = ggml.load()
    check_room(out.parent, job.bytes, f"'{out.name}'")
    _write(out, job, partial(_compute, job, kernel), threads or os.cpu_count() or 1, progress or silent)
    return Quantized(
        path=out,
        file_type=job.file_type.name,
        bytes=job.bytes,
        tensor_types=MappingProxyType(dict(Counter(t.kind.name for t in job.targets).most_common())),
        fallbacks=job.fallbacks,
        seconds=time.monotonic() - started,
        kernel=kernel.name,
        exact=kernel.exact,
    )


def _prepare(src: Path, file_type: FileType, imatrix: Mapping[str, np.ndarray] | None) -> _Job:
    """Decide everything about the output but its numbers."""
    source = gguf_file.read(src)
    if source.get("split.count", 1) > 1:
        raise ExportError(
            f"'{src.name}' is one of {source.get('split.count')} parts of a model.",
            "Join them first: llama-gguf-split --merge, or convert the model to one file.",
        )
    tensors = in_file_order(source.tensors)
    choices = choose_all(tensors, file_type, facts_of(source, imatrix=imatrix is not None))
    targets = list(gguf_file.place(tensors, [TENSOR_TYPES[choice.type] for choice in choices]))
    _check_sources(tensors, targets)
    return _Job(
        source=source,
        file_type=file_type,
        targets=targets,
        head=gguf_file.header(_fields(source, file_type), targets),
        pieces=list(_pieces(tensors, targets)),
        matrices=importance.checked(imatrix, tensors, targets, file_type),
        fallbacks=sum(choice.fallback for choice in choices),
    )


def _fields(source: GgufFile, kind: FileType) -> list[bytes]:
    """Return the output's metadata records: the input's own, then the two that change, as llama.cpp does."""
    kept = [field.raw for key, field in source.fields.items() if key not in REPLACED]
    version = gguf_file.uint32_field("general.quantization_version", QUANTIZATION_VERSION)
    return [*kept, version, gguf_file.uint32_field("general.file_type", kind.number)]


def _check_sources(tensors: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Refuse to quantize what is already quantized: the loss would add up."""
    for tensor, target in zip(tensors, targets, strict=True):
        if tensor.kind != target.kind and tensor.kind.name not in ("F32", "F16", "BF16"):
            raise ExportError(
                f"tensor {tensor.name} is {tensor.kind.name} and cannot become {target.kind.name}: "
                "the file is already quantized.",
                "Quantize the bf16 (or f16, f32) file that the merged model was converted to.",
            )


def _pieces(tensors: Sequence[Tensor], targets: Sequence[Tensor]) -> Iterator[_Piece]:
    """Cut tensors into pieces of whole rows, none across two experts' matrices."""
    for source, target in zip(tensors, targets, strict=True):
        width, *rest = source.shape
        matrix_rows = rest[0] if rest else 1
        matrices = source.elements // (width * matrix_rows)
        step = max(1, CHUNK_ELEMENTS // width)
        for matrix in range(matrices):
            for row in range(0, matrix_rows, step):
                rows = min(step, matrix_rows - row)
                last = matrix == matrices - 1 and row + rows == matrix_rows
                yield _Piece(source, target, matrix * matrix_rows + row, rows, matrix, last)


def _compute(job: _Job, kernel: ggml.Kernel, piece: _Piece) -> bytes:
    """Return the output bytes of one piece, with the padding that follows a tensor's last rows."""
    import numpy as np

    tensor, target = piece.source, piece.target
    width = tensor.shape[0]
    row_bytes = tensor.kind.bytes_of(width)
    offset = job.source.data_at + tensor.offset_bytes + piece.first_row * row_bytes
    raw = np.fromfile(job.source.path, dtype=np.uint8, count=piece.rows * row_bytes, offset=offset)
    tail = bytes(gguf_file.padding(target.bytes) if piece.last else 0)
    if tensor.kind == target.kind:
        copied: bytes = raw.tobytes()
        return copied + tail
    rows = as_float32(raw, tensor.kind.name).reshape(piece.rows, width)
    if not np.isfinite(rows).all():
        raise ExportError(
            f"tensor {tensor.name} holds a number that is not finite (row {piece.first_row} or later).",
            "The training diverged, or an f16 file overflowed: evaluate the run, and convert to bf16.",
        )
    if target.kind.name == "F16" and float(np.abs(rows).max()) > 65504:  # the largest f16 number
        raise ExportError(
            f"tensor {tensor.name} holds {float(np.abs(rows).max()):.3g}, more than f16 can (65504).",
            "Write bf16 or q8_0 instead.",
        )
    weights = job.matrices.get(tensor.name)
    importance = None if weights is None else weights[min(piece.matrix, len(weights) - 1)]
    return kernel.quantize(rows, target.kind, importance) + tail


def as_float32(raw: np.ndarray, kind: str) -> np.ndarray:
    """Return the float32 numbers that bytes of type F32, F16 or BF16 stand for, exactly."""
    import numpy as np

    values: np.ndarray
    if kind == "BF16":  # the upper half of a float32
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = raw.view(np.float16).astype(np.float32) if kind == "F16" else raw.view(np.float32)
    return values


def _write(out: Path, job: _Job, work: Callable[[_Piece], bytes], threads: int, progress: Progress) -> None:
    """Compute pieces in threads, write them in order under a temporary name, then rename."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    total = sum(_input_bytes(piece) for piece in job.pieces)
    done = 0
    try:
        with part.open("wb") as file, ThreadPoolExecutor(threads) as pool:
            file.write(job.head)
            for piece, data in _in_order(pool, work, job.pieces, ahead=2 * threads):
                file.write(data)
                done += _input_bytes(piece)
                progress(f"quantizing to {job.file_type.name}", done, total)
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Piece], bytes], pieces: Sequence[_Piece], *, ahead: int
) -> Iterator[tuple[_Piece, bytes]]:
    """Iterate over results in order, at most ``ahead`` in flight: memory stays bounded, no thread idles."""
    waiting: deque[tuple[_Piece, Future[bytes]]] = deque()
    try:
        for piece in pieces:
            waiting.append((piece, pool.submit(work, piece)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _input_bytes(piece: _Piece) -> int:
    return piece.rows * piece.source.kind.bytes_of(piece.source.shape[0])
