"""ft.synthesise: rows from seed examples or documents, until there are enough or asking brings nothing more."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_magic.data import Data, Dropped, DroppedRow, load_data, provenance
from ft_magic.data.row import Row, shortened
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.judging.endpoint import Written
from ft_magic.paths import from_here, runs_dir
from ft_magic.progress import Progress, silent
from ft_magic.synthesis.folder import ROWS, Folder
from ft_magic.synthesis.form import check_signal, form_of, rows_in
from ft_magic.synthesis.passages import passages_of
from ft_magic.synthesis.request import Asker
from ft_magic.synthesis.sieve import Sieve
from ft_magic.synthesis.writer import Writer, read_writer
from ft_magic.ui.live import ProgressLine

# Self-Instruct's released code samples instructions at 0.7 (bootstrap_instructions.py).
_TEMPERATURE = 0.7
_EXAMPLES = 4  # the paper shows 8; half of it keeps a small model's request short
# A small model writes one row at a time; behind an endpoint several save repeating the examples.
_ROWS_ASKED_LOCAL, _ROWS_ASKED_ENDPOINT = 1, 4
_TOKENS_A_ROW = 256  # TRL's GRPOConfig gives an answer as many by default
# Requests in a row that bring nothing new: a model that has given one row in 24 requests is used up.
_PATIENCE = 24
# Of an answer's words of four letters and more, this share stands in the passage; else it is made up.
_SUPPORTED = 0.5
_SHOWN_DROPS = 5


@dataclass
class _Making:
    """Rows made so far, from the replies so far."""

    asker: Asker
    writer: Writer
    folder: Folder
    count: int
    sieve: Sieve
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[DroppedRow] = field(default_factory=list)
    asked: int = 0
    stored: int = 0
    fruitless: int = 0
    next_number: int = 0

    @property
    def rows(self) -> list[Row]:
        """Rows that stayed, at most as many as wanted."""
        return self.sieve.kept

    def take(self, reply: dict[str, Any]) -> None:
        """Read one reply: keep its good rows, count the others."""
        self.next_number = max(self.next_number, int(reply["number"]) + 1)
        rows, unread = rows_in(reply["text"], self.asker.form, whole=reply["whole"])
        self.left_out["not readable as a row"] += unread
        before = len(self.rows)
        supported = [row for row in rows if self._supported(row, reply["passage"])]
        for row in rows:
            if not any(row is other for other in supported):
                self._drop(row, "answer not found in the passage", reply)
        room = self.count - before
        for row, why in zip(supported[:room], self.sieve.take(supported[:room]), strict=True):
            if why:
                self._drop(row, why, reply)
            else:
                self.folder.keep(row, self._record(row, reply))
        self.fruitless = 0 if len(self.rows) > before else self.fruitless + 1

    def _supported(self, row: Row, passage: int | None) -> bool:
        if passage is None:
            return True
        answer = str(row.get("completion") or row.get("chosen") or row.get("answer") or "")
        return self.asker.passages[passage].supports(answer) >= _SUPPORTED

    def _drop(self, row: Row, why: str, reply: dict[str, Any]) -> None:
        self.left_out[why] += 1
        record = self._record(row, reply)
        self.folder.leave_out(row, why, record)
        if len(self.examples) < _SHOWN_DROPS:
            self.examples.append(DroppedRow(int(reply["number"]), why, shortened(row)))

    def _record(self, row: Row, reply: dict[str, Any]) -> dict[str, Any]:
        """Return where a row comes from."""
        record = {"row": provenance.row_key(row), "model": self.writer.name, "request": reply["number"]}
        record |= {key: reply[key] for key in ("prompt_sha256", "seeds", "made")}
        if reply["passage"] is not None:
            passage = self.asker.passages[reply["passage"]]
            record |= {"document": passage.document, "start": passage.start, "passage": passage.text}
        return record

    def ask(self, progress: Progress) -> None:
        """Make a few requests together and take their replies in order."""
        # As many as are needed at the yield so far, which begins at what a request asks for.
        rows_a_request = (len(self.rows) + self.asker.rows_asked) / (self.asked + self.stored + 1)
        some = min(self.writer.batch, math.ceil((self.count - len(self.rows)) / rows_a_request))
        requests = [self.asker.request(self.next_number + i, self.rows) for i in range(some)]
        replies: dict[int, dict[str, Any]] = {}

        def tell(place: int, written: Written) -> None:
            reply = {**requests[place].record(), "text": written.text, "whole": written.whole}
            self.folder.add_reply(reply)
            replies[place] = reply

        progress(f"{len(self.rows)} of {self.count} rows", len(self.rows), self.count)
        seeds = [self.asker.seed * 1_000_003 + request.number for request in requests]
        try:
            self.writer.write([request.chat for request in requests], seeds, tell)
        finally:
            self.asked += len(replies)
            for place in sorted(replies):
                self.take(replies[place])


def synthesise(  # noqa: PLR0913  the settings of one request, all by keyword and with defaults
    seeds: Any = None,
    documents: Any = None,
    *,
    count: int = 32,
    model: Any = "demo",
    signal: str = "demo",
    instructions: str = "",
    seed: int = 0,
    examples: int = _EXAMPLES,
    rows_asked: int | None = None,
    patience: int = _PATIENCE,
    temperature: float = _TEMPERATURE,
    max_new_tokens: int | None = None,
    folder: str | Path | None = None,
) -> Data:
    """Let a model write training rows like some examples, or from documents; return those that are new and sound.

    Every reply is on disk before the next is asked. The same call goes on where it stopped and asks nothing twice;
    with a higher ``count`` it goes on from the rows it has.

    Args:
        seeds: examples, anything ``load_data`` reads; or None where documents are given.
        documents: texts, files or folders to ask questions about; each row's record holds its passage.
        count: rows wanted.
        model: ``demo``, a hub id, a folder, a run; or an endpoint, ``{"base_url": ..., "model": ...,
            "api_key_env": "OPENAI_API_KEY"}``. A bigger model makes better rows.
        signal: ``demo``, ``prompt``, ``pair`` or ``text``.
        instructions: what the rows are about and how they should be, in words.
        seed: decides which examples and passages a request shows, and a local model's sampling.
        examples: how many examples a request shows.
        rows_asked: how many rows a request asks for; by default 1, of an endpoint 4.
        patience: stop after this many requests in a row without a new row.
        temperature: of the sampling.
        max_new_tokens: longest reply, in tokens; by default 256 for each row asked for.
        folder: where everything is kept; by default a folder beside the runs, named after what is asked.

    Returns:
        The rows; ``.dropped`` counts what was left out and why, ``.provenance`` says where each row comes from.

    Raises:
        SpecError: model or signal cannot be, or there is neither seed nor document.
        DataError: seeds or documents cannot be read, or no reply gave a usable row.
        RunError: the endpoint cannot be reached; what was written is kept.
    """
    each = rows_asked or (_ROWS_ASKED_ENDPOINT if isinstance(model, Mapping) else _ROWS_ASKED_LOCAL)
    longest = max_new_tokens or each * _TOKENS_A_ROW
    numbers = {"count": count, "examples": examples, "rows_asked": each, "patience": patience}
    _check(seeds, documents, numbers | {"max_new_tokens": longest})
    check_signal(signal)
    given = _seeds(seeds, signal)
    passages, about = passages_of(documents) if documents is not None else ([], "")
    form = form_of(signal, given.rows if given else (), passages=bool(passages))
    asker = Asker(form, given.rows if given else (), passages, instructions.strip(), examples, each, seed)
    with ProgressLine("Writing examples") as progress:
        writer = read_writer(model, temperature, longest, progress)
        request = _request(asker, writer)
        place = Folder(Path(folder).expanduser() if folder else _own_folder(request, given))
        place.begin(request)
        making = _Making(asker, writer, place, count, Sieve(signal, asker.seeds))
        _run(making, patience, progress)
    origin = [f"seeds: {len(given)} rows of {given.name}"] if given else []
    return _result(making, patience, [*origin, *([about] if about else [])])


def _run(making: _Making, patience: int, progress: Progress = silent) -> None:
    """Take the replies stored before, then ask until there are enough rows or asking brings nothing more."""
    for reply in making.folder.replies():
        making.stored += 1
        making.take(reply)
    try:
        while len(making.rows) < making.count and making.fruitless < patience:
            making.ask(progress)
    except RunError as error:
        kept = f"{len(making.rows)} rows are kept in {from_here(making.folder.path)}"
        way = f"{error.instead} Then run the same again: it goes on where it stopped, nothing is asked twice."
        raise RunError(f"{error.problem} {kept}.", way.strip()) from error


def _check(seeds: Any, documents: Any, numbers: Mapping[str, int]) -> None:
    if seeds is None and documents is None:
        raise SpecError(
            "synthesise got neither seeds nor documents.",
            "Give some examples, seeds=[{'prompt': ..., 'completion': ...}, ...], or documents='folder'.",
        )
    for name, number in numbers.items():
        if number < 1:
            raise SpecError(f"synthesise: {name} is {number}.", f"Write {name}=1 or more.")


def _seeds(seeds: Any, signal: str) -> Data | None:
    """Return the examples as rows of the signal."""
    return None if seeds is None else load_data(seeds, signal=None if signal == "text" else signal)


def _request(asker: Asker, writer: Writer) -> dict[str, Any]:
    """Return what is asked as plain values: the same values, the same synthesis."""
    return {
        "signal": asker.form.signal,
        "model": writer.name,
        "writer_sha256": writer.identity,
        "temperature": writer.temperature,
        "max_new_tokens": writer.max_new_tokens,
        "seeds_sha256": _digest(asker.seeds),
        "passages_sha256": _digest([passage.text for passage in asker.passages]),
        "instructions": asker.instructions,
        "examples": asker.examples,
        "rows_asked": asker.rows_asked,
        "seed": asker.seed,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _own_folder(request: dict[str, Any], given: Data | None) -> Path:
    name = "".join(char if char.isalnum() else "-" for char in (given.name if given else "documents"))[:40]
    return runs_dir() / f"synthetic-{name}-{_digest(request)[:8]}"


def _result(making: _Making, patience: int, origin: list[str]) -> Data:
    left = +making.left_out
    out = ", ".join(f"{count} x {why}" for why, count in left.most_common())
    here = from_here(making.folder.path)
    if not making.rows:
        raise DataError(
            f"No reply of {making.writer.name} gave a usable row in {making.stored + making.asked} requests "
            f"({out or 'no reply'}).",
            f"Use a stronger model, or clearer examples and instructions. The replies are in {here}.",
        )
    lineage = [
        *origin,
        f"{len(making.rows)} rows written by {making.writer.name} in {making.stored + making.asked} requests"
        + (f" ({making.stored} of them stored before)" if making.stored else ""),
    ]
    if out:
        lineage.append(f"{left.total()} pieces left out: {out}")
    if len(making.rows) < making.count:
        lineage.append(
            f"stopped with {len(making.rows)} of {making.count} rows: {making.fruitless} requests in a row "
            f"brought nothing new (patience={patience})"
        )
    lineage += making.sieve.notes
    return Data(
        tuple(making.rows),
        making.asker.form.signal,
        f"written by {making.writer.name}",
        str(making.folder.path / ROWS),
        "synthetic",
        dropped=Dropped(dict(left), tuple(making.examples)),
        lineage=tuple(lineage),
    )
