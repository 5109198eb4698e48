"""Asks a local model: how likely is each of two words as the first of its reply? Deterministic, no sampling.

Runs in the warm process or in a training worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.errors import ModelError
from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.settings import Judge, LocalModel
from ft_magic.template import Tokenizer, prompt_ids

if TYPE_CHECKING:
    from ft_magic.evaluate.generate import Loaded

Tell = Callable[[int, Reply], None]
_BATCH = 4  # questions read together: they hold two answers each, so they are long
# kind of question -> the two words compared; the value is the probability of the first one
WORDS: Mapping[str, tuple[str, str]] = MappingProxyType({"pair": ("A", "B"), "good": ("Yes", "No")})


def ask(judge: Judge, source: LocalModel, questions: Sequence[Question], tell: Tell) -> None:
    """Read every question; ``tell`` gets each reply as it comes.

    Raises:
        ModelError: the model's tokenizer cannot tell the two words apart by their first token.
    """
    loaded = _load(source)
    words = {kind: word_tokens(loaded.light, *WORDS[kind]) for kind in {q.kind for q in questions}}
    ids = [question_ids(loaded.light, question.text(judge.criteria)) for question in questions]
    most = int(getattr(loaded.model.config, "max_position_embeddings", 0) or 0)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    fitting = [i for i in order if not most or len(ids[i]) <= most]
    for i in order[len(fitting) :]:
        tell(i, Reply(None, f"not asked: {len(ids[i])} tokens, the judge reads {most}"))
    for start in range(0, len(fitting), _BATCH):
        batch = fitting[start : start + _BATCH]
        pairs = [words[questions[i].kind] for i in batch]
        for i, odds in zip(batch, log_odds(loaded.model, [ids[i] for i in batch], pairs), strict=True):
            tell(i, Reply(probability(odds), f"log-odds {odds:+.4f}"))


def _load(source: LocalModel) -> Loaded:
    from ft_magic.evaluate.generate import load

    precision = _precision() if source.precision == "auto" else source.precision
    return load(base=source.base, adapter=source.adapter, bits=source.bits, precision=precision)


def _precision() -> str:
    import torch

    if not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"  # older GPUs only emulate bf16


def question_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return what the judge reads before it replies: (tokens,)."""
    # A model without a chat template continues text, so the text ends where its reply begins.
    return prompt_ids(tokenizer, text if tokenizer.chat is not None else f"{text}\n\nReply:")


def word_tokens(tokenizer: Tokenizer, first: str, second: str) -> tuple[list[int], list[int]]:
    """Return the tokens each word can begin with, with and without a space before it; shared ones left out.

    Raises:
        ModelError: nothing is left for one of them.
    """
    found = [{tokenizer.encode(space + word)[0] for space in ("", " ")} for word in (first, second)]
    own = (sorted(found[0] - found[1]), sorted(found[1] - found[0]))
    if not all(own):
        raise ModelError(
            f"The judge's tokenizer begins {first!r} and {second!r} with the same token.",
            "Choose another model as judge.",
        )
    return own


def log_odds(
    model: Any, prompts: Sequence[Sequence[int]], words: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[float]:
    """Return log p(first word) - log p(second word) as the next token after each prompt, in nats.

    Args:
        model: causal language model in evaluation mode.
        prompts: token ids, one list a prompt.
        words: tokens of the first and of the second word, for each prompt.
    """
    import torch

    from ft_magic.evaluate.losses import logits_at

    width = max(map(len, prompts))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        mask[row, : len(prompt)] = 1
    last = torch.arange(width) == mask.sum(dim=1, keepdim=True) - 1  # one place a prompt
    with torch.no_grad():
        logits = logits_at(model, ids, mask, last).double().cpu()
    # The normaliser of the softmax is the same for both words and cancels.
    return [
        float(torch.logsumexp(row[list(a)], 0) - torch.logsumexp(row[list(b)], 0))
        for row, (a, b) in zip(logits, words, strict=True)
    ]


def probability(odds: float) -> float:
    """Logistic function of log-odds, without overflow."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))
