"""ft.review: a person accepts, edits or rejects rows; each decision is on disk at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_magic.atomic import append_json_line
from ft_magic.axes import signal_of
from ft_magic.data import Data, load_data, provenance
from ft_magic.data.decisions import ACCEPTED, EDITED, REJECTED, UNDECIDED, Decision, Decisions
from ft_magic.data.report.row_checks import is_empty
from ft_magic.data.row import Row, answer_text, prompt_text, shortened
from ft_magic.errors import DataError, SpecError
from ft_magic.paths import from_here, runs_dir
from ft_magic.ui import widget
from ft_magic.ui.show import Shown, shown_table

_FILE = "review.jsonl"
_SHOWN_ROWS = 5


class Review:
    """Rows with what a person decided about each; in a notebook it shows itself as a widget.

    Nothing decided stays undecided: where nobody can click, all of it.

    Args:
        rows: the rows.
        path: file of the decisions; one that exists is gone on with.
    """

    def __init__(self, rows: Data, path: Path) -> None:
        self.rows = rows
        self.path = path
        self.decisions = Decisions(path)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows ``accepted``, ``edited``, ``rejected`` and ``undecided``."""
        return self.decisions.counts(self.rows.rows)

    def accept(self, *indices: int) -> None:
        """Accept rows as they are.

        Raises:
            DataError: there is no such row.
        """
        self._decide(indices, ACCEPTED)

    def reject(self, *indices: int) -> None:
        """Reject rows.

        Raises:
            DataError: there is no such row.
        """
        self._decide(indices, REJECTED)

    def undo(self, *indices: int) -> None:
        """Take back what was decided about rows.

        Raises:
            DataError: there is no such row.
        """
        self._decide(indices, UNDECIDED)

    def edit(self, index: int, row: Row) -> None:
        """Accept a row in another wording; the same wording accepts it as it is.

        Raises:
            DataError: there is no such row, or the new one is empty or carries another signal.
        """
        old = self._row(index)
        signal = signal_of(row)
        if signal is None or signal.name != self.rows.signal or row.keys() != old.keys():
            raise DataError(
                f"The edited row has the fields {', '.join(row)}, row {index} has {', '.join(old)}.",
                "Keep the fields and change their texts.",
            )
        if is_empty(row):
            raise DataError(
                f"Row {index} would have no prompt or no answer.", "Reject it, or write both of them."
            )
        if row == old:
            self.accept(index)
            return
        self.decisions.add(old, Decision(EDITED, row))
        self._note_origin(index, old, row)

    def data(self, undecided: str = "leave_out") -> Data:
        """Return the accepted rows and the edited ones in their new wording, in their order.

        Args:
            undecided: ``leave_out`` or ``keep`` the rows that nobody decided about.

        Raises:
            SpecError: undecided is something else.
            DataError: no row is left.
        """
        if undecided not in ("leave_out", "keep"):
            raise SpecError(
                f"undecided is {undecided!r}.", "Write undecided='leave_out' or undecided='keep'."
            )
        wanted = {ACCEPTED, EDITED} | ({UNDECIDED} if undecided == "keep" else set())
        words = [self.decisions.about(row) for row in self.rows.rows]
        kept = [index for index, word in enumerate(words) if word.state in wanted]
        if not kept:
            raise DataError(
                f"No row of {self.rows.name} is accepted: {self.summary}.",
                "Accept some, or write .data(undecided='keep') to take the rows nobody has decided about.",
            )
        done = "kept" if undecided == "keep" else "left out"
        part = self.rows.part(kept, f"review: {self.summary} and {done}; decisions in {from_here(self.path)}")
        rows = tuple(words[i].row or self.rows[i] for i in kept)
        return replace(part, rows=rows)

    def widget(self) -> Any:
        """Return the widget by itself.

        Raises:
            RunError: anywidget is not installed.
        """
        from ft_magic.ui.review_widget import review_widget

        return review_widget(self, lambda: None)

    @property
    def summary(self) -> str:
        """How many rows are accepted, edited, rejected and undecided, in words."""
        return ", ".join(f"{count} {state}" for state, count in self.counts.items())

    def shown(self) -> Shown:
        """Return the counts and the first rows, without any script."""
        head = ("row", "decision", "prompt", "answer")
        lines = [self._line(index) for index in range(min(len(self), _SHOWN_ROWS))]
        more = len(self) - len(lines)
        notes = [f"{more} more rows"] if more > 0 else []
        notes.append(f"Decisions are kept in {from_here(self.path)}; .data() returns what was accepted.")
        return shown_table(lines, head, title=f"Review of {self.rows.name}: {self.summary}", notes=notes)

    def _line(self, index: int) -> list[object]:
        word = self.decisions.about(self.rows[index])
        row = word.row or self.rows[index]
        return [index, word.state, shortened(prompt_text(row), 120), shortened(answer_text(row), 120)]

    def _decide(self, indices: Iterable[int], state: str) -> None:
        rows = [self._row(index) for index in indices]  # a wrong number decides nothing
        for row in rows:
            self.decisions.add(row, Decision(state))

    def _row(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise DataError(f"There is no row {index}.", f"Rows are 0 to {len(self) - 1}.")
        return self.rows[index]

    def _note_origin(self, index: int, old: Row, new: Row) -> None:
        """Let an edited row keep the record of where it comes from."""
        record = self.rows.part([index], "").provenance[0]
        if record is not None:
            line = {**record, "row": provenance.row_key(new), "edited_from": provenance.row_key(old)}
            append_json_line(provenance.file_of(self.rows.source), line)

    def _repr_mimebundle_(self, **_chosen: Any) -> dict[str, str]:
        shown = self.shown()
        return {"text/html": shown.html, "text/plain": shown.text}

    def _ipython_display_(self) -> None:
        """Show the widget where one is drawn; else IPython shows the table."""
        if not widget.drawable():
            raise NotImplementedError
        from ft_magic.ui.review_widget import show_review

        show_review(self)

    def __repr__(self) -> str:
        return self.shown().text


def review(data: Any, path: str | Path | None = None) -> Review:
    """Let a person accept, edit or reject rows; nothing waits for it.

    In a notebook the returned value shows itself as a widget. Elsewhere, and where nobody watches, it shows a
    table, and rows stay undecided until ``accept``, ``edit`` or ``reject`` is called.

    Args:
        data: ``Data``, or anything ``load_data`` reads.
        path: file of the decisions; by default beside synthetic rows, else in ``reviews`` beside the runs.

    Raises:
        DataError: the data cannot be read.
    """
    rows = load_data(data)
    return Review(rows, Path(path).expanduser() if path else _own_path(rows))


def _own_path(rows: Data) -> Path:
    if provenance.file_of(rows.source).exists() and Path(rows.source).suffix == ".jsonl":
        return Path(rows.source).with_name(_FILE)
    name = "".join(char if char.isalnum() else "-" for char in rows.name)[:40]
    return runs_dir() / "reviews" / f"{name}-{rows.sha256[:8]}.jsonl"
