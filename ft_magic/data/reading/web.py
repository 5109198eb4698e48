"""Fetches a file from a web address into the cache; asks again next time, and takes the copy if it is the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ft_magic.data.reading.files import suffix_of
from ft_magic.data.reading.kinds import SUFFIXES
from ft_magic.data.row import shortened
from ft_magic.errors import DataError
from ft_magic.paths import cache_dir
from ft_magic.progress import Progress

if TYPE_CHECKING:
    import httpx

_CONNECT_S, _READ_S = 10.0, 60.0  # httpx waits 5 s for each by default: little for a slow server
_CHUNK_BYTES = 1 << 20
_STAMP = "from.json"
_HUB_PAGE = re.compile(r"https?://(?:www\.)?huggingface\.co/datasets/([\w.-]+/[\w.-]+)/?(?:\?|#|$)")
_SAME = ("etag", "last-modified")
# Where the name says nothing: what the server calls the content.
_SUFFIX_OF_TYPE = {
    "application/json": ".json", "application/jsonl": ".jsonl", "application/x-ndjson": ".jsonl",
    "application/x-jsonlines": ".jsonl", "text/csv": ".csv", "text/tab-separated-values": ".tsv",
    "text/plain": ".txt", "text/markdown": ".md", "application/vnd.apache.parquet": ".parquet",
    "application/vnd.apache.arrow.file": ".arrow", "application/vnd.apache.arrow.stream": ".arrow",
    "application/vnd.sqlite3": ".sqlite", "application/vnd.ms-excel": ".xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
}  # fmt: skip


def is_address(text: str) -> bool:
    """Return whether a text is a web address."""
    return text.lower().startswith(("http://", "https://"))


def shown(address: str) -> str:
    """Return an address without what may be secret in it: user, password and query."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")


def fetch(address: str, progress: Progress) -> tuple[Path, str]:
    """Return the local copy of a file and what to say about it.

    A copy that the server calls unchanged (ETag or date) is used again; also where the server cannot be reached.

    Raises:
        DataError: httpx is not installed, the address does not answer or refuses, or holds no kind that is read.
    """
    if importlib.util.find_spec("httpx") is None:
        raise DataError(
            f"{shown(address)} needs the package httpx, which is not installed.",
            "Install it (pip install httpx), or download the file and give its path.",
        )
    import httpx

    folder = cache_dir() / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16]
    stamp = _stamp(folder)
    held = folder / stamp.get("name", "")
    asking = {"If-None-Match": stamp["etag"]} if "etag" in stamp else {}
    if "last-modified" in stamp:
        asking["If-Modified-Since"] = stamp["last-modified"]
    try:
        with _client() as client, client.stream("GET", address, headers=asking if stamp else {}) as answer:
            if answer.status_code == httpx.codes.NOT_MODIFIED and stamp:
                return held, "the copy fetched before is still the same"
            _check(answer, address)
            return _stored(answer, folder, address, progress), "fetched"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if stamp and isinstance(error, httpx.TransportError):
            return (
                held,
                f"the address did not answer ({type(error).__name__}): the copy fetched before is used",
            )
        raise DataError(
            f"{shown(address)} cannot be fetched: {shortened(str(error) or type(error).__name__, 120)}.",
            "Check the address and the network, or download the file and give its path.",
        ) from error


def _client() -> httpx.Client:
    import httpx

    limits = httpx.Timeout(_READ_S, connect=_CONNECT_S)
    return httpx.Client(follow_redirects=True, timeout=limits)


def _stamp(folder: Path) -> dict[str, str]:
    """Return what is known about the copy in a folder; empty where there is none that is whole."""
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and (folder / str(stamp.get("name"))).is_file() else {}


def _check(answer: httpx.Response, address: str) -> None:
    if not answer.is_success:
        refused = answer.status_code in (401, 403)
        raise DataError(
            f"{shown(address)} answers {answer.status_code} {answer.reason_phrase}.",
            "It wants a login: download the file and give its path." if refused else "Check the address.",
        )
    if _type(answer) == "text/html":
        page = _HUB_PAGE.match(address)
        raise DataError(
            f"{shown(address)} is a web page, not a data file.",
            f"Give the hub id: {page[1]}"
            if page
            else "Give the address of the file itself: on GitHub 'Raw', on the hub /resolve/ in place of /blob/.",
        )


def _type(answer: httpx.Response) -> str:
    return str(answer.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _name(answer: httpx.Response, address: str) -> str:
    """Return the file's name: of the header, the address, or made of the type the server gives."""
    given = re.search(r'filename="?([^";]+)', answer.headers.get("content-disposition", ""))
    names = [given[1]] if given else []
    names += [unquote(urlsplit(url).path) for url in (address, str(answer.url))]
    safe = [re.sub(r"[^\w.-]", "_", name.rpartition("/")[2]) for name in names]
    for name in safe:
        if suffix_of(Path(name)) in SUFFIXES:
            return name
    suffix = _SUFFIX_OF_TYPE.get(_type(answer))
    if suffix is None:
        raise DataError(
            f"{shown(address)} gives no file of a kind that is read ({_type(answer) or 'no content type'}).",
            f"Kinds that are: {' '.join(SUFFIXES)}. Download it and give the file with its suffix.",
        )
    return (safe[-1] or "download") + suffix


def _stored(answer: httpx.Response, folder: Path, address: str, progress: Progress) -> Path:
    """Write the answer's body below its name, whole or not at all, and the stamp beside it."""
    name = _name(answer, address)
    # Bytes decoded by httpx have another length than the header says.
    total = 0 if "content-encoding" in answer.headers else int(answer.headers.get("content-length", 0))
    half = folder / f".{name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = 0
        with half.open("wb") as file:
            for chunk in answer.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(f"downloading {name} (bytes)", done, total)
        # A server that calls a .gz file "encoded" has it decompressed on the way.
        final = name if _is_gzip(half) else re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)
        (folder / _STAMP).unlink(missing_ok=True)
        half.replace(folder / final)
        same = {key: answer.headers[key] for key in _SAME if key in answer.headers}
        (folder / _STAMP).write_text(json.dumps({"name": final, **same}), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{shown(address)} cannot be stored in {folder}: {error.strerror or error}.",
            "Free some space, or set FT_MAGIC_CACHE to a folder you can write to.",
        ) from error
    finally:
        half.unlink(missing_ok=True)
    return folder / final


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
