"""Make the sample data set: customer messages of a small shop and their triage as one line of JSON.

``python -m ft_magic.samples.make_triage`` writes the files beside this script; the seed is fixed, so they are
the same every time. Everything here was written for this package (Apache-2.0).

The held-out messages use phrasings and things that occur in no training message: only a model that learned
the task, not the sentences, answers them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_magic.samples.triage_words import GREETINGS, HELD_OUT, MENTIONS, RUDE, TRAIN, Words

SEED = 20261121
TRAIN_EXAMPLES = 396
HELD_OUT_EXAMPLES = 60
REPEATED_EXAMPLES = 3
PAIR_EXAMPLES = 120
INSTRUCTION = "Turn this message into JSON with the keys intent, order, item and reply."
REPLIES = {
    "delivery": "We are looking for your {item}.",
    "refund": "We will refund the {item} within two days.",
    "exchange": "We will send you a label for the {item}.",
    "cancel": "We have stopped the {item}.",
    "damage": "We are sorry and will replace the {item}.",
    "question": "We will find out about the {item} for you.",
}
INTENTS = tuple(REPLIES)


@dataclass(frozen=True)
class Example:
    """One message and what the shop makes of it."""

    message: str
    intent: str
    order: str | None
    item: str

    @property
    def reply(self) -> str:
        """The shop's own wording for the intent."""
        return REPLIES[self.intent].format(item=self.item)

    @property
    def answer(self) -> str:
        """The answer to learn: one line of JSON."""
        fields = {"intent": self.intent, "order": self.order, "item": self.item, "reply": self.reply}
        return json.dumps(fields, ensure_ascii=False)


def examples(words: Words, count: int, rng: random.Random) -> list[Example]:
    """Return ``count`` different examples; intents take turns, so that each has its share."""
    found: dict[str, Example] = {}
    while len(found) < count:
        example = _example(words, INTENTS[len(found) % len(INTENTS)], rng)
        found.setdefault(example.message.lower(), example)
    made = list(found.values())
    rng.shuffle(made)
    return made


def _example(words: Words, intent: str, rng: random.Random) -> Example:
    has_order = intent != "question" and rng.random() < 0.75
    order = f"{rng.choice('ABCDEFGH')}-{rng.randint(1000, 9999)}" if has_order else None
    item = rng.choice(words.items)
    parts = [rng.choice(words.cores[intent]).format(item=item)]
    if order is not None:
        parts.insert(rng.randint(0, 1), rng.choice(MENTIONS).format(order=order))
    parts.insert(0 if rng.random() < 0.15 else len(parts), rng.choice(words.tones))
    message = _greeted(rng.choice(GREETINGS), " ".join(part for part in parts if part))
    if rng.random() < 0.1:  # some people write like this
        message = message.lower().rstrip(".")
    return Example(message, intent, order, item)


def _greeted(greeting: str, message: str) -> str:
    """Put a greeting before a message; after a comma the first letter is small, but for "I"."""
    if greeting.endswith(", ") and not message.startswith(("I ", "Order", "Ref")):
        message = message[0].lower() + message[1:]
    return greeting + message


def pairs(made: Sequence[Example], rng: random.Random) -> Iterator[dict[str, str]]:
    """Yield preference rows: the house's answer against what a chatty or rude one would be."""
    for number, example in enumerate(made):
        rejected = (
            f"Sure! Here is the JSON you asked for:\n{example.answer}",
            f"Thank you for your message. It sounds like {example.intent} to me. How can I help you?",
            json.dumps({**json.loads(example.answer), "reply": rng.choice(RUDE)}),
            json.dumps({"type": example.intent, "message": example.message}),
        )[number % 4]
        prompt = f"{INSTRUCTION}\n\n{example.message}"
        yield {"prompt": prompt, "chosen": example.answer, "rejected": rejected}


def rows(made: Sequence[Example]) -> Iterator[dict[str, str]]:
    """Yield the examples in the shape people have them: instruction, input, output."""
    for example in made:
        yield {"instruction": INSTRUCTION, "input": example.message, "output": example.answer}


def exported(made: Sequence[Example], rng: random.Random) -> list[dict[str, str]]:
    """Return rows as a real export has them: a few came twice, and one nobody has answered."""
    found = list(rows(made))
    found += rng.sample(found, REPEATED_EXAMPLES)
    found.append({**rng.choice(found), "input": "Hello?", "output": ""})
    rng.shuffle(found)
    return found


def write(folder: Path) -> None:
    """Write the three JSON-lines files into ``folder``."""
    rng = random.Random(SEED)  # noqa: S311  # repeatable, nothing secret
    train, held_out = examples(TRAIN, TRAIN_EXAMPLES, rng), examples(HELD_OUT, HELD_OUT_EXAMPLES, rng)
    for name, content in (
        ("triage.jsonl", exported(train, rng)),
        ("triage_heldout.jsonl", rows(held_out)),
        ("triage_pairs.jsonl", pairs(examples(TRAIN, PAIR_EXAMPLES, rng), rng)),
    ):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (folder / name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
