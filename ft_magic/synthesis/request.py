"""What a model is asked: some examples and the wish for more, or a passage and the wish for questions about it.

Examples are shown as turns of a conversation in which the model has written them already. So asked, the bundled
135M model writes a new readable row nearly every time; with all examples in one message it repeats them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_magic.data.row import Message, Row
from ft_magic.synthesis.form import Form, as_written
from ft_magic.synthesis.passages import Passage

_ONLY_THIS = "Use only what the passage says. The reader of a question does not see the passage."
# Of the examples shown, one in four is a made row: 2 of 8 in Self-Instruct (arXiv 2212.10560, section 2.2).
_MADE_SHARE = 4
# Examples longer than this together would leave no room in a context of 2,048 tokens.
_LONGEST_EXAMPLES_CHARACTERS = 3000


@dataclass(frozen=True)
class Request:
    """One request for rows.

    Attributes:
        number: its place in the synthesis, from 0.
        chat: what the model reads.
        seeds: which of the user's examples it shows.
        made: which of the rows made before it shows.
        passage: number of the passage it is about, or None.
    """

    number: int
    chat: tuple[Message, ...]
    seeds: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    passage: int | None = None

    def record(self) -> dict[str, Any]:
        """Return where its rows come from, as plain values; what was read is there as its digest."""
        digest = hashlib.sha256(json.dumps(self.chat, ensure_ascii=False).encode()).hexdigest()
        return {
            "number": self.number,
            "prompt_sha256": digest,
            "seeds": list(self.seeds),
            "made": list(self.made),
            "passage": self.passage,
        }


@dataclass(frozen=True)
class Asker:
    """Makes requests; the same number gives the same choice.

    Attributes:
        form: of the rows.
        seeds: the user's examples.
        passages: of the documents, empty without any.
        instructions: what the user wishes, in words.
        examples: how many rows a request shows.
        rows_asked: how many rows a request asks for.
        seed: decides what is chosen.
    """

    form: Form
    seeds: tuple[Row, ...]
    passages: Sequence[Passage]
    instructions: str
    examples: int
    rows_asked: int
    seed: int

    def request(self, number: int, made: Sequence[Row]) -> Request:
        """Return a request.

        Args:
            number: its place, from 0.
            made: rows made before it.
        """
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311  reproducible choice, not a secret
        later = self._sampled(chance, len(made), self.examples // _MADE_SHARE) if not self.passages else ()
        first = self._sampled(chance, len(self.seeds), self.examples - len(later))
        rows = [*(self.seeds[i] for i in first), *(made[i] for i in later)]
        shown = self._fitting(rows)
        first, later = first[: len(shown)], later[: max(0, len(shown) - len(first))]
        place = self._passage(number)
        chat: list[Message] = []
        for row in shown:
            chat.append({"role": "user", "content": self._wish(1, None)})
            chat.append({"role": "assistant", "content": self.form.text(row)})
        passage = None if place is None else self.passages[place].text
        chat.append({"role": "user", "content": self._wish(self.rows_asked, passage)})
        if self.instructions:
            chat[0]["content"] = f"{self.instructions}\n\n{chat[0]['content']}"
        return Request(number, tuple(chat), first, later, place)

    @staticmethod
    def _sampled(chance: random.Random, count: int, wanted: int) -> tuple[int, ...]:
        return tuple(chance.sample(range(count), min(count, max(wanted, 0))))

    def _fitting(self, rows: Sequence[Row]) -> list[dict[str, str]]:
        """Return the first examples that fit together; at least one, where there is one."""
        shown: list[dict[str, str]] = []
        room = _LONGEST_EXAMPLES_CHARACTERS
        for row in rows:
            written = as_written(row, self.form)
            room -= sum(map(len, written.values()))
            if shown and room < 0:
                break
            shown.append(written)
        return shown

    def _wish(self, rows: int, passage: str | None) -> str:
        """Return the words that ask for rows, with the form to fill in."""
        what = self.form.what if passage is None else self.form.from_passage
        if rows == 1:
            wish, form = f"Write a new example: {what}.", self.form.empty()
        else:
            wish = (
                f"Write {rows} new examples, each {what}. They differ from those above and from each other."
            )
            form = "\n\n".join(self.form.empty(number) for number in (1, 2)) + f"\n\nand so on to {rows}."
        own = "" if passage is None else f" {_ONLY_THIS}"
        head = "" if passage is None else f"Read this passage:\n\n{passage}\n\n"
        return f"{head}{wish}{own} Write nothing else. Use this form:\n\n{form}"

    def _passage(self, number: int) -> int | None:
        """Return which passage a request is about: all in a shuffled order, then all again in another."""
        if not self.passages:
            return None
        round_number, place = divmod(number, len(self.passages))
        order = list(range(len(self.passages)))
        random.Random(f"{self.seed}/passages/{round_number}").shuffle(order)  # noqa: S311  reproducible choice
        return order[place]
