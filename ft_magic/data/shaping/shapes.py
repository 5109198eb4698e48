"""The ways people write training data, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})

_CHATS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
_SYSTEM = ("system", "system_prompt", "system_message")
_PROMPTS = ("prompt", "question", "instruction", "query", "input", "problem", "request", "user", "human")
_ANSWERS = ("answer", "response", "output", "completion", "reply", "solution", "assistant", "target")
_CHOSEN = ("chosen", "preferred", "accepted", "response_chosen", "chosen_response", "answer_chosen")
_REJECTED = ("rejected", "dispreferred", "response_rejected", "rejected_response", "answer_rejected")
_TEXT = ("text", "content", "document", "page_content", "raw_text", "body")
# label: TRL and LLaMA-Factory's chat form; kto_tag: LLaMA-Factory's Alpaca form.
LABELS = ("label", "kto_tag", "thumbs_up", "thumbs", "desirable", "is_good", "feedback")

# Columns that can hold an answer: beside one of these a prompt is not taken for a prompt alone.
ANSWER_COLUMNS = frozenset((*_ANSWERS, *_CHOSEN, *_REJECTED))
# Names that mean a prompt even where no answer stands beside it ("input" or "user" alone may be anything).
PLAIN_PROMPTS = frozenset(("prompt", "question", "instruction", "query", "problem"))


@dataclass(frozen=True)
class Shape:
    """A way to write training data.

    Attributes:
        name: what people call it.
        signal: name of the signal it carries.
        required: role -> column names that may play it, best guess first.
        optional: the same for roles that may be absent.
        kinds: role -> kind of value it must hold (``messages``, ``sharegpt`` or ``label``), where names do not
            tell.
    """

    name: str
    signal: str
    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE)
    kinds: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role this shape knows."""
        return (*self.required, *self.optional)


_PAIRS = (
    Shape(
        "sharegpt pairs",
        "pair",
        {"messages": _CHATS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"messages": "sharegpt"},
    ),
    Shape(
        "messages pairs",
        "pair",
        {"messages": _CHATS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"messages": "messages"},
    ),
    Shape(
        "prompt, chosen and rejected",
        "pair",
        {"prompt": _PROMPTS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"input": ("input", "context"), "system": _SYSTEM},
    ),
    Shape(
        "chosen and rejected conversations",
        "pair",
        {"chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"chosen": "messages"},
    ),
)
_DEMOS = (
    Shape("messages", "demo", {"messages": _CHATS}, {"system": _SYSTEM}, {"messages": "messages"}),
    Shape("sharegpt", "demo", {"messages": _CHATS}, {"system": _SYSTEM}, {"messages": "sharegpt"}),
    Shape(
        "prompt and completion",
        "demo",
        {"prompt": ("prompt",), "completion": ("completion", "response", "answer", "output")},
        {"system": _SYSTEM},
    ),
    Shape(
        "alpaca",
        "demo",
        {"prompt": ("instruction",), "completion": ("output", "response", "answer", "completion")},
        {"input": ("input", "context"), "system": _SYSTEM, "history": ("history",)},
    ),
    Shape(
        "question and answer",
        "demo",
        {"prompt": _PROMPTS, "completion": _ANSWERS},
        {"input": ("context",), "system": _SYSTEM},
    ),
)


def _judged(demo: Shape) -> Shape:
    """Return a demonstration's shape with a column that says whether the answer is good."""
    required = {**demo.required, "label": LABELS}
    return Shape(
        f"{demo.name}, with label", "label", required, demo.optional, {**demo.kinds, "label": "label"}
    )


def _asked(demo: Shape) -> Shape:
    """Return a demonstration's shape read as a prompt; an answer beside it is kept for reward functions."""
    required = {role: names for role, names in demo.required.items() if role != "completion"}
    # A column called answer keeps its name, whatever else could be the answer.
    answers = tuple(dict.fromkeys(("answer", *demo.required.get("completion", ()))))
    optional = {"answer": answers, **demo.optional} if "completion" in demo.required else demo.optional
    return Shape(f"{demo.name}, prompts alone", "prompt", required, optional, demo.kinds)


# First fit wins. Prompts come last: what also holds answers is something else unless signal='prompt' asks.
SHAPES = (
    *_PAIRS,
    *map(_judged, _DEMOS),
    *_DEMOS,
    Shape("text", "text", {"text": _TEXT}),
    *map(_asked, _DEMOS),
)
ROLES = tuple(dict.fromkeys(role for shape in SHAPES for role in shape.roles))
