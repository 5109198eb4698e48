"""Reads parquet, arrow and feather files into records, batch by batch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_magic.data.reading.files import Raw, explained, stem_of
from ft_magic.data.row import shortened
from ft_magic.errors import DataError

_FILE_MAGIC = b"ARROW1"  # begins the IPC file format, which feather version 2 is; the stream format has none
_FEATHER_1_MAGIC = b"FEA1"
_BATCH_ROWS = 4096  # pyarrow's default of 65,536 holds 64 MiB of 1 KB rows twice while they become dicts


def read_parquet(path: Path, limit: int | None = None) -> Raw:
    """Read a parquet file through pyarrow (pandas has no reader of its own), at most ``limit`` rows.

    Raises:
        DataError: pyarrow is not installed, or the file is no parquet.
    """
    return _read(path, limit, "parquet", "DataFrame.to_parquet")


def read_arrow(path: Path, limit: int | None = None) -> Raw:
    """Read an arrow or feather file (IPC file or stream format, as ``datasets`` writes), at most ``limit`` rows.

    Raises:
        DataError: pyarrow is not installed, or the file is no arrow file.
    """
    return _read(path, limit, "arrow", "DataFrame.to_feather")


def _read(path: Path, limit: int | None, kind: str, writer: str) -> Raw:
    if importlib.util.find_spec("pyarrow") is None:
        raise DataError(
            f"{path.name} needs the package pyarrow, which is not installed.",
            "Install it (pip install pyarrow), or save the data as .jsonl or .csv.",
        )
    import pyarrow as pa

    batches = _parquet_batches(path) if kind == "parquet" else _arrow_batches(path)
    records: list[dict[str, Any]] = []
    with explained(path):
        try:
            for batch in batches:
                part = batch if limit is None else batch.slice(0, limit - len(records))
                records.extend(part.to_pylist())
                if limit is not None and len(records) >= limit:
                    break
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, PermissionError):
                raise
            raise DataError(
                f"{path.name} is no readable {kind} file: {shortened(str(error), 120)}",
                f"Write it again, for example with {writer}.",
            ) from error
    return Raw(stem_of(path), str(path), records)


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_BATCH_ROWS)


def _arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with path.open("rb") as file:
        magic = file.read(len(_FILE_MAGIC))
    if magic.startswith(_FEATHER_1_MAGIC):
        from pyarrow import feather

        yield from feather.read_table(path).to_batches()
        return
    with pa.memory_map(str(path)) as source:
        if magic != _FILE_MAGIC:
            with pa.ipc.open_stream(source) as stream:
                yield from stream
            return
        with pa.ipc.open_file(source) as blocks:
            for index in range(blocks.num_record_batches):
                yield blocks.get_batch(index)
