"""The first axis: what one normalised example carries."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ft_magic.axes.rows import Signal

_ROWS = (
    Signal(
        "text",
        "Raw text: the model learns to continue it.",
        (("text",),),
        {"text": "Crepes are thin pancakes from Brittany."},
    ),
    Signal(
        "demo",
        "Demonstrations: a prompt or conversation with the answer to imitate.",
        (("messages",), ("prompt", "completion")),
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
        {"prompt": "the answer leaves the prompt and becomes the column 'answer'"},
    ),
    Signal(
        "pair",
        "Preferences: a prompt with a better and a worse answer.",
        (("prompt", "chosen", "rejected"),),
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "No."},
        {
            "label": "each pair becomes a good and a bad answer",
            "demo": "the better answers are kept",
            "prompt": "the prompts are kept, the better answer as the column 'answer'",
        },
    ),
    Signal(
        "label",
        "Judged answers: a prompt, one answer, and whether it is good.",
        (("prompt", "completion", "label"),),
        {"prompt": "Name a colour.", "completion": "Blue.", "label": True},
        {
            "demo": "the good answers are kept",
            "prompt": "the prompts are kept, good answers as the column 'answer'",
        },
    ),
    Signal(
        "prompt",
        "Prompts alone: the model answers, something else judges. Further columns go to reward functions.",
        (("prompt",),),
        {"prompt": "What is 2 + 2?", "answer": "4"},
    ),
)
SIGNALS: Mapping[str, Signal] = MappingProxyType({row.name: row for row in _ROWS})
