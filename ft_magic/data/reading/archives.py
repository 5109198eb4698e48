"""Opens files for reading, through gzip or zstd where their names say so."""

from __future__ import annotations

import gzip
import importlib.util
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ft_magic.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".gz", ".zst")
_CHUNK_BYTES = 1 << 17  # zstd's own recommended input size (ZSTD_DStreamInSize)


class BrokenArchiveError(OSError):
    """A compressed file that is damaged or ends too early."""


def without_archive(name: str) -> str:
    """Return a file name without its ``.gz`` or ``.zst``, whatever its case."""
    suffix = archive_of(name)
    return name[: len(name) - len(suffix)]


def archive_of(name: str) -> str:
    """Return the suffix that says how a file is compressed; empty where it is not."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed.

    Raises:
        DataError: it is a zstd file and the package zstandard is not installed.
    """
    archive = archive_of(path.name)
    if archive == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if archive == ".zst":
        return cast("IO[bytes]", io.BufferedReader(_ZstdFile(path), _CHUNK_BYTES))
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """A zstd file of one or several frames; unlike zstandard's own stream it says where the end is missing."""

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("zstandard") is None:
            raise DataError(
                f"{path.name} needs the package zstandard, which is not installed.",
                f"pip install zstandard, or decompress it first: zstd -d {path.name}",
            )
        import zstandard

        self._error: type[Exception] = zstandard.ZstdError
        self._library = zstandard.ZstdDecompressor()
        self._file = path.open("rb")
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Return True: it is there for reading."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer; return the number of bytes, 0 at the end.

        Raises:
            BrokenArchiveError: the file is damaged or cut.
        """
        view = memoryview(buffer).cast("B")
        while not self._ready:
            chunk = self._file.read(_CHUNK_BYTES)
            if not chunk:
                if self._frame is not None:
                    raise BrokenArchiveError("it ends before its end-of-stream marker")
                return 0
            self._ready = memoryview(self._decompressed(chunk))
        part = self._ready[: len(view)]
        view[: len(part)] = part
        self._ready = self._ready[len(part) :]
        return len(part)

    def _decompressed(self, chunk: bytes) -> bytes:
        found = []
        while chunk:
            self._frame = self._frame or self._library.decompressobj()
            try:
                found.append(self._frame.decompress(chunk))
            except self._error as error:
                raise BrokenArchiveError(str(error)) from error
            chunk = b""
            if self._frame.eof:
                chunk, self._frame = self._frame.unused_data, None
        return b"".join(found)

    def close(self) -> None:
        """Close the file below."""
        self._file.close()
        super().close()
