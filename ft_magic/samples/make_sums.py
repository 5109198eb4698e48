"""Make the sums sample: short word problems with their answers, for rewards that a program computes.

``python -m ft_magic.samples.make_sums`` writes the files beside this script; the seed is fixed, so they are the same
every time. Everything here was written for this package (Apache-2.0). Held-out rows use stories of their own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add, sub
from pathlib import Path

SEED = 20261122
TRAIN_EXAMPLES, HELD_OUT_EXAMPLES = 120, 24
ENDING = "Answer with the number alone."


@dataclass(frozen=True)
class Story:
    """A word problem with two numbers, the larger one first.

    Attributes:
        text: with ``{a}`` and ``{b}``.
        subtracts: whether the answer is a - b; else a + b.
    """

    text: str
    subtracts: bool = False


TRAIN = (
    Story("A baker sold {a} loaves in the morning and {b} in the afternoon. How many in all?"),
    Story("There are {a} red and {b} green apples in the basket. How many apples are there?"),
    Story("Tom had {a} coins and found {b} more. How many has he now?"),
    Story("The bus had {a} people and {b} got on. How many are on the bus?"),
    Story("We walked {a} miles on Monday and {b} on Tuesday. How many miles is that?"),
    Story("A shelf holds {a} books. Ann adds {b}. How many books are on it?"),
    Story("What is {a} plus {b}?"),
    Story("{a} + {b} = ?"),
    Story("A farmer has {a} cows and {b} goats. How many animals has he?"),
    Story("I paid {a} pounds for the cup and {b} for the plate. How much was it together?"),
    Story("The jar held {a} sweets. Ben ate {b}. How many are left?", subtracts=True),
    Story("{a} birds sat on a wire and {b} flew away. How many stayed?", subtracts=True),
    Story("What is {a} minus {b}?", subtracts=True),
    Story("{a} - {b} = ?", subtracts=True),
    Story("Mia has {a} stickers and gives {b} to Leo. How many does she keep?", subtracts=True),
    Story("A rope is {a} metres long. We cut off {b}. How long is it now?", subtracts=True),
    Story("The class has {a} children; {b} are ill today. How many came?", subtracts=True),
    Story("Of {a} eggs {b} broke. How many are whole?", subtracts=True),
)
HELD_OUT = (
    Story("The museum had {a} visitors on Friday and {b} on Saturday. How many were there?"),
    Story("A train has {a} old and {b} new coaches. How many coaches is that?"),
    Story("Add {a} and {b}."),
    Story("Sara picked {a} roses and {b} tulips. How many flowers did she pick?"),
    Story("The hotel has {a} rooms and {b} are taken. How many are free?", subtracts=True),
    Story("Take {b} away from {a}.", subtracts=True),
    Story("He baked {a} rolls and sold {b}. How many are left over?", subtracts=True),
    Story("{a} players started, {b} gave up. How many finished?", subtracts=True),
)


def rows(stories: Sequence[Story], count: int, rng: random.Random) -> list[dict[str, str]]:
    """Return ``count`` different problems; stories take turns, numbers have one digit or are up to twenty."""
    found: dict[str, str] = {}
    while len(found) < count:
        story = stories[len(found) % len(stories)]
        b = rng.randint(1, 9)
        a = rng.randint(b + 1, 19)
        answer = (sub if story.subtracts else add)(a, b)
        found[f"{story.text.format(a=a, b=b)} {ENDING}"] = str(answer)
    made = [{"prompt": prompt, "answer": answer} for prompt, answer in found.items()]
    rng.shuffle(made)
    return made


def write(folder: Path) -> None:
    """Write the two JSON-lines files into ``folder``."""
    rng = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
    for name, stories, count in (
        ("sums.jsonl", TRAIN, TRAIN_EXAMPLES),
        ("sums_heldout.jsonl", HELD_OUT, HELD_OUT_EXAMPLES),
    ):
        lines = (json.dumps(row) + "\n" for row in rows(stories, count, rng))
        (folder / name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
