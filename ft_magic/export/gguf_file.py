"""GGUF files: their header read and written byte for byte, without touching the tensors.

A GGUF file (version 3, little endian) is: magic, version, number of tensors, number of fields; the fields
(key, type, value); the tensor records (name, shape, type, offset); padding; the tensor data. Fields are kept
as the raw bytes they came in, so a vocabulary of 256,000 tokens is copied, not parsed. Specification:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_magic.errors import ExportError
from ft_magic.export.tensor_types import BY_NUMBER, TensorType

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT_BYTES = 32  # llama.cpp's GGUF_DEFAULT_ALIGNMENT; its converter and its quantizer write no other

# Field types of the specification: number -> struct format of a scalar.
SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
STRING, ARRAY, UINT32 = 8, 9, 4


@dataclass(frozen=True)
class Field:
    """One metadata field.

    Attributes:
        key: its name, e.g. ``general.architecture``.
        kind: field type number of the specification.
        raw: the whole record as it stands in the file, key included.
        value_at: where in ``raw`` the value begins.
    """

    key: str
    kind: int
    raw: bytes
    value_at: int

    def value(self) -> Any:
        """Return the decoded value: a number, a bool, a string, or a list of them."""
        return _decode(self.raw, self.value_at, self.kind)[0]

    def item(self, index: int) -> Any:
        """Return one element of an array field without decoding those behind it.

        Raises:
            IndexError: the field is no array, or has no such element.
        """
        if self.kind != ARRAY:
            raise IndexError(f"{self.key} is no array")
        kind, count = struct.unpack_from("<IQ", self.raw, self.value_at)
        if not 0 <= index < count:
            raise IndexError(f"{self.key} has {count} elements, no element {index}")
        at = _skip(self.raw, self.value_at + 12, kind, index)
        return _decode(self.raw, at, kind)[0]


@dataclass(frozen=True)
class Tensor:
    """One tensor record.

    Attributes:
        name: llama.cpp's tensor name.
        shape: sizes in ggml order, the row width first, without trailing sizes of 1.
        kind: how its numbers are stored.
        offset_bytes: where its data begins, counted from the start of the data section.
    """

    name: str
    shape: tuple[int, ...]
    kind: TensorType
    offset_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """Bytes of its data, without padding."""
        return self.kind.bytes_of(self.elements)


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file.

    Attributes:
        path: the file.
        fields: metadata by key, in file order.
        tensors: tensor records in file order.
        data_at: where in the file the data section begins, in bytes.
        bytes: size of the file.
    """

    path: Path
    fields: Mapping[str, Field]
    tensors: tuple[Tensor, ...]
    data_at: int
    bytes: int

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field's value, or ``default`` where the file has no such field."""
        return self.fields[key].value() if key in self.fields else default


def read(path: Path) -> GgufFile:
    """Read the header of a GGUF file.

    Raises:
        ExportError: there is no such file, it is no GGUF version 3 file, or it was cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _parse(path, view)
    except FileNotFoundError:
        raise ExportError(f"'{path}' does not exist.", "Give the path of a GGUF file.") from None
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise ExportError(
            f"'{path}' cannot be read as a GGUF file: {error}.",
            "The file is damaged or was cut short: make or download it again.",
        ) from error


def _parse(path: Path, view: mmap.mmap) -> GgufFile:
    magic, version, tensor_count, field_count = struct.unpack_from("<4sIQQ", view, 0)
    if magic != MAGIC:
        raise ValueError("it does not begin with 'GGUF'")
    if version != VERSION:
        raise ValueError(f"it is version {version} (or big endian), only version {VERSION} is known")
    at, fields = 24, {}
    for _ in range(field_count):
        field, at = _field(view, at)
        fields[field.key] = field
    tensors = []
    for _ in range(tensor_count):
        tensor, at = _tensor(view, at)
        tensors.append(tensor)
    alignment = fields["general.alignment"].value() if "general.alignment" in fields else ALIGNMENT_BYTES
    data_at = at + -at % alignment
    end = max((data_at + t.offset_bytes + t.bytes for t in tensors), default=0)
    if end > len(view):
        raise ValueError(f"its tensors end at byte {end:,}, the file at byte {len(view):,}")
    return GgufFile(path, MappingProxyType(fields), tuple(tensors), data_at, len(view))


def _field(view: mmap.mmap, at: int) -> tuple[Field, int]:
    key, value_at = _decode(view, at, STRING)
    (kind,) = struct.unpack_from("<I", view, value_at)
    end = _skip(view, value_at + 4, kind, 1)
    return Field(key, kind, bytes(view[at:end]), value_at + 4 - at), end


def _tensor(view: mmap.mmap, at: int) -> tuple[Tensor, int]:
    name, at = _decode(view, at, STRING)
    (dimensions,) = struct.unpack_from("<I", view, at)
    shape = list(struct.unpack_from(f"<{dimensions}Q", view, at + 4))
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    number, offset_bytes = struct.unpack_from("<IQ", view, at + 4 + 8 * dimensions)
    if number not in BY_NUMBER:
        raise ValueError(f"tensor {name} has the unknown type {number}")
    return Tensor(name, tuple(shape), BY_NUMBER[number], offset_bytes), at + 16 + 8 * dimensions


def _skip(data: mmap.mmap | bytes, at: int, kind: int, count: int) -> int:
    """Return where the value after ``count`` values of one type begins."""
    if kind in SCALARS:
        return at + struct.calcsize(SCALARS[kind]) * count
    for _ in range(count):
        if kind == STRING:
            (length,) = struct.unpack_from("<Q", data, at)
            at += 8 + length
        elif kind == ARRAY:
            inner, length = struct.unpack_from("<IQ", data, at)
            at = _skip(data, at + 12, inner, length)
        else:
            raise ValueError(f"unknown field type {kind}")
    return at


def _decode(data: mmap.mmap | bytes, at: int, kind: int) -> tuple[Any, int]:
    """Return one value and where the next one begins."""
    if kind in SCALARS:
        return struct.unpack_from("<" + SCALARS[kind], data, at)[0], at + struct.calcsize(SCALARS[kind])
    if kind == STRING:
        (length,) = struct.unpack_from("<Q", data, at)
        text = data[at + 8 : at + 8 + length]
        if len(text) != length:
            raise ValueError("a string runs past its end")
        # Byte-level vocabularies may hold half a character; llama.cpp does not decode them either.
        return text.decode("utf-8", errors="replace"), at + 8 + length
    inner, count = struct.unpack_from("<IQ", data, at)
    at, values = at + 12, []
    for _ in range(count):
        value, at = _decode(data, at, inner)
        values.append(value)
    return values, at


def uint32_field(key: str, value: int) -> bytes:
    """Return the raw record of an unsigned 32-bit field."""
    name = key.encode()
    return struct.pack("<Q", len(name)) + name + struct.pack("<II", UINT32, value)


def header(fields: Sequence[bytes], tensors: Sequence[Tensor]) -> bytes:
    """Return a whole header, padded so that the data section follows at once.

    Args:
        fields: raw field records in the order to write.
        tensors: tensor records in the order to write, offsets already set (see ``place``).
    """
    parts = [struct.pack("<4sIQQ", MAGIC, VERSION, len(tensors), len(fields)), *fields]
    for tensor in tensors:
        name = tensor.name.encode()
        shape = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        parts.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape)) + shape)
        parts.append(struct.pack("<IQ", tensor.kind.number, tensor.offset_bytes))
    text = b"".join(parts)
    return text + b"\0" * padding(len(text))


def padding(size_bytes: int) -> int:
    """Return the bytes that fill ``size_bytes`` up to the alignment."""
    return -size_bytes % ALIGNMENT_BYTES


def place(tensors: Sequence[Tensor], kinds: Sequence[TensorType]) -> Iterator[Tensor]:
    """Give tensors new types, one behind the other, each at an aligned offset."""
    at = 0
    for tensor, kind in zip(tensors, kinds, strict=True):
        placed = Tensor(tensor.name, tensor.shape, kind, at)
        yield placed
        at += placed.bytes + padding(placed.bytes)
