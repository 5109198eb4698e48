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
_CHOSEN = (
    "chosen", "preferred", "accepted", "response_chosen", "chosen_response", "answer_chosen", "response_j",
)  # fmt: skip
_REJECTED = (
    "rejected", "dispreferred", "response_rejected", "rejected_response", "answer_rejected", "response_k",
)  # fmt: skip
_TEXT = ("text", "content", "document", "page_content", "raw_text", "body")
# Several answers to one prompt; how they are ranked says a column beside them, or each answer itself.
_ANSWER_LISTS = (
    "completions", "responses", "answers", "candidates", "generations", "outputs", "ranked_responses",
    "ranked_answers", "ranked_completions", "ranked_outputs", "ranking", "output", "response", "answer",
)  # fmt: skip
# Two answers and a verdict that ends like the better one's column: model_a and response_a, 0 and response_0.
_FIRST = ("response_a", "answer_a", "completion_a", "output_a", "conversation_a", "response_0", "answer_0",
          "response_1", "answer_1", "output_1")  # fmt: skip
_SECOND = ("response_b", "answer_b", "completion_b", "output_b", "conversation_b", "response_1", "answer_1",
           "response_2", "answer_2", "output_2")  # fmt: skip
_BETTER = ("winner", "better", "better_response_id", "better_response", "preference", "verdict")
SCORES = ("scores", "ratings", "rewards")
RANKS = ("ranks", "rankings", "rank")
_TOOLS = ("tools", "functions")
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
        kinds: role -> kind of value it must hold, where names do not tell: ``messages``, ``sharegpt``, ``label``,
            ``transcript``, ``answers`` (a ranked list), ``segments``, ``tools`` or ``tree``.
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


_SAID_BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType({"system": _SYSTEM, "tools": _TOOLS})
_TREE = ("tree",)
_PAIRS = (
    Shape("conversation trees, ranked replies", "pair", {"tree": _TREE}, kinds={"tree": "tree"}),
    Shape(
        "sharegpt pairs",
        "pair",
        {"messages": _CHATS, "chosen": _CHOSEN, "rejected": _REJECTED},
        _SAID_BESIDE,
        {"messages": "sharegpt", "tools": "tools"},
    ),
    Shape(
        "messages pairs",
        "pair",
        {"messages": _CHATS, "chosen": _CHOSEN, "rejected": _REJECTED},
        _SAID_BESIDE,
        {"messages": "messages", "tools": "tools"},
    ),
    Shape(
        "prompt, chosen and rejected",
        "pair",
        {"prompt": _PROMPTS, "chosen": _CHOSEN, "rejected": _REJECTED},
        {"input": ("input", "context"), **_SAID_BESIDE},
        {"tools": "tools"},
    ),
    Shape(
        "chosen and rejected conversations",
        "pair",
        {"chosen": _CHOSEN, "rejected": _REJECTED},
        _SAID_BESIDE,
        {"chosen": "messages", "tools": "tools"},
    ),
    Shape(
        "chosen and rejected sharegpt conversations",
        "pair",
        {"chosen": _CHOSEN, "rejected": _REJECTED},
        _SAID_BESIDE,
        {"chosen": "sharegpt", "tools": "tools"},
    ),
    Shape(
        "chosen and rejected transcripts",
        "pair",
        {"chosen": _CHOSEN, "rejected": _REJECTED},
        {"system": _SYSTEM},
        {"chosen": "transcript", "rejected": "transcript"},
    ),
    Shape(
        "two answers and a verdict",
        "pair",
        {"prompt": _PROMPTS, "first": _FIRST, "second": _SECOND, "better": _BETTER},
        {"input": ("input", "context"), "system": _SYSTEM},
    ),
    Shape(
        "two conversations and a verdict",
        "pair",
        {"first": _FIRST, "second": _SECOND, "better": _BETTER},
        {"system": _SYSTEM},
        {"first": "messages", "second": "messages"},
    ),
    Shape(
        "ranked answers",
        "pair",
        {"prompt": _PROMPTS, "answers": _ANSWER_LISTS},
        {"scores": SCORES, "ranks": RANKS, "input": ("input", "context"), "system": _SYSTEM},
        {"answers": "answers", "scores": "list", "ranks": "list"},
    ),
)
_DEMOS = (
    Shape("messages", "demo", {"messages": _CHATS}, _SAID_BESIDE, {"messages": "messages", "tools": "tools"}),
    Shape("sharegpt", "demo", {"messages": _CHATS}, _SAID_BESIDE, {"messages": "sharegpt", "tools": "tools"}),
    Shape(
        "prompt and completion",
        "demo",
        {"prompt": ("prompt",), "completion": ("completion", "response", "answer", "output")},
        _SAID_BESIDE,
        {"tools": "tools"},
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
# Demonstrations that are never prompts alone.
_MORE_DEMOS = (
    Shape("conversation trees", "demo", {"tree": _TREE}, kinds={"tree": "tree"}),
    Shape("segments", "demo", {"segments": ("segments",)}, kinds={"segments": "segments"}),
    Shape(
        "transcripts",
        "demo",
        {"messages": (*_TEXT, *_CHATS, "transcript")},
        {"system": _SYSTEM},
        {"messages": "transcript"},
    ),
)
# What is taken where names say nothing: see ``guess``.
TWO_TEXTS = Shape("two columns of text", "demo", {"prompt": (), "completion": ()})


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
    _MORE_DEMOS[0],
    *_PAIRS,
    *map(_judged, _DEMOS),
    *_DEMOS,
    *_MORE_DEMOS[1:],
    Shape("text", "text", {"text": _TEXT}),
    *map(_asked, _DEMOS),
)
ROLES = tuple(dict.fromkeys(role for shape in SHAPES for role in shape.roles))
# Every column name that plays a role somewhere: a column so called is not guessed to be anything else.
KNOWN_NAMES = frozenset(
    name
    for shape in SHAPES
    for names in (*shape.required.values(), *shape.optional.values())
    for name in names
)
