"""How closely one form of a model answers like the model as trained.

The reference is what base + adapter writes in torch, greedily, to held-out prompts. Every other form is led
along those same answers and compared token by token, so that one early difference does not hide the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_magic.export import trained
from ft_magic.progress import Progress

if TYPE_CHECKING:
    from ft_magic.serve.llamacpp import Runtime

Ids = tuple[int, ...]

BATCH_PROMPTS = 8  # answered together; on a CPU more only pads more
TOP = 100  # likeliest tokens llama.cpp returns for each position
# Log-probabilities arrive with seven digits: a rest of the probability below this is rounding.
SMALLEST_REST = 1e-7


@dataclass(frozen=True)
class Reference:
    """The answers of the model as trained.

    Attributes:
        prompts: token ids of each prompt.
        answers: token ids of each greedy answer, with its stop token where it stopped.
        stopped: for each answer, whether it ended by a stop token.
        logprobs: for each answer, log-probabilities in torch: (answer tokens, vocabulary), float32.
        stops: ids of the tokens that end an answer.
    """

    prompts: tuple[Ids, ...]
    answers: tuple[Ids, ...]
    stopped: tuple[bool, ...]
    logprobs: tuple[Any, ...]
    stops: Ids


@dataclass(frozen=True)
class Agreement:
    """One form against the reference, on the reference's own answers.

    Attributes:
        positions: answer tokens compared.
        mean_kl: mean KL divergence in nats, reference against this form.
        max_kl: the largest KL of one position.
        top1_share: share of positions where both would choose the same token.
        identical_share: share of prompts with the same greedy answer to the last token.
        prefix_share: mean share of an answer that is the same from its start.
        widest_tie_nats: where answers part, how much likelier the reference found its own token than the
            other one, at most; a small value means that two tokens were nearly tied.
        stopped_share: share of answers that ended by a stop token.
        ran_on_share: share of answers that went on after a stop token.
        answers: this form's greedy answers (token ids).
    """

    positions: int
    mean_kl: float
    max_kl: float
    top1_share: float
    identical_share: float
    prefix_share: float
    widest_tie_nats: float
    stopped_share: float
    ran_on_share: float
    answers: tuple[Ids, ...]


def reference(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    max_new_tokens: int,
    progress: Progress,
) -> Reference:
    """Let a torch model answer every prompt greedily and keep its log-probabilities.

    Args:
        model: transformers or PEFT model.
        prompts: token ids of each prompt.
        stops: ids of the tokens that end an answer.
        max_new_tokens: longest answer in tokens.
        progress: told how many prompts are answered.
    """
    answers: list[Ids] = []
    logprobs: list[Any] = []
    for start in range(0, len(prompts), BATCH_PROMPTS):
        progress("answering as trained", start, len(prompts))
        for answer, row in _answer(model, prompts[start : start + BATCH_PROMPTS], stops, max_new_tokens):
            answers.append(answer)
            logprobs.append(row)
    progress("answering as trained", len(prompts), len(prompts))
    stopped = tuple(answer[-1] in stops for answer in answers)
    given = tuple(tuple(prompt) for prompt in prompts)
    return Reference(given, tuple(answers), stopped, tuple(logprobs), tuple(stops))


def _answer(
    model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], max_new_tokens: int
) -> Iterator[tuple[Ids, Any]]:
    """Yield each prompt's greedy answer and its log-probabilities (answer tokens, vocabulary)."""
    import torch
    from transformers import GenerationConfig

    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), stops[0])
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    # The model's own generation settings may hold a repetition penalty; greedy means the likeliest token.
    model.generation_config = GenerationConfig(eos_token_id=list(stops), pad_token_id=stops[0])
    with torch.no_grad():
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for row, tokens in enumerate(made.sequences[:, width:].tolist()):
        end = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))
        logits = torch.stack([step[row] for step in made.logits[:end]]).float()
        yield tuple(tokens[:end]), torch.log_softmax(logits, -1)


def of_torch(model: Any, expected: Reference, progress: Progress, what: str) -> Agreement:
    """Compare a torch model over the full vocabulary.

    Its own greedy answer follows from the same pass: it equals the reference until the first position where
    the likeliest token differs.
    """
    found = _Tally()
    for number, (prompt, answer, wanted) in enumerate(
        zip(expected.prompts, expected.answers, expected.logprobs, strict=True)
    ):
        progress(what, number, len(expected.prompts))
        logits = trained.logits(model, (*prompt, *answer), last=len(answer) + 1)[:-1]
        choices = tuple(logits.argmax(-1).tolist())
        found.positions(trained.kl_by_position(wanted, logits).tolist(), choices, answer, wanted)
        stopped = expected.stopped[number] and choices[-1] == answer[-1]
        found.answer(choices[: _common(choices, answer) + 1], answer, stopped=stopped)
    progress(what, len(expected.prompts), len(expected.prompts))
    return found.agreement()


def of_runtime(
    runtime: Runtime, expected: Reference, max_new_tokens: int, progress: Progress, what: str
) -> Agreement:
    """Compare a GGUF file in llama.cpp: its greedy answers, and KL over its 100 likeliest tokens and a rest.

    Merging all other tokens into one rest can only lower KL (data processing inequality): it is a lower
    bound. On the 135M model it gave 0.0042 and 0.060 for Q8_0 and Q4_K_M, where all logits gave 0.0059 and
    0.075.
    """
    found = _Tally()
    for number, (prompt, answer, wanted) in enumerate(
        zip(expected.prompts, expected.answers, expected.logprobs, strict=True)
    ):
        progress(what, number, len(expected.prompts))
        made = runtime.generate(prompt, max_new_tokens)
        tops = [runtime.top_logprobs((*prompt, *answer[:i]), TOP) for i in range(len(answer))]
        choices = tuple(max(top, key=lambda token: top[token]) for top in tops)
        kls = [kl_of_top(row, top) for row, top in zip(wanted, tops, strict=True)]
        found.positions(kls, choices, answer, wanted)
        stopped = made.stopped_by == "eos"
        ran_on = not set(made.token_ids[: len(made.token_ids) - stopped]).isdisjoint(expected.stops)
        found.answer(made.token_ids, answer, stopped=stopped, ran_on=ran_on)
    progress(what, len(expected.prompts), len(expected.prompts))
    return found.agreement()


def kl_of_top(reference_logprobs: Any, top: Mapping[int, float]) -> float:
    """Return KL in nats of two distributions over the tokens of ``top`` and one rest that holds all others.

    Args:
        reference_logprobs: log-probabilities over the full vocabulary: (vocabulary,).
        top: log-probabilities of the other distribution's likeliest tokens.
    """
    p: list[float] = reference_logprobs[list(top)].double().tolist()
    terms = [math.exp(a) * (a - b) for a, b in zip(p, top.values(), strict=True)]
    rest_p = max(1 - sum(math.exp(a) for a in p), SMALLEST_REST)
    rest_q = max(1 - sum(math.exp(b) for b in top.values()), SMALLEST_REST)
    return sum(terms) + rest_p * (math.log(rest_p) - math.log(rest_q))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences share from their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


class _Tally:
    """Sums over prompts, until they become an ``Agreement``."""

    def __init__(self) -> None:
        self._kls: list[float] = []
        self._same = 0
        self._gaps = [0.0]
        self._prefixes: list[float] = []
        self._identical: list[bool] = []
        self._stopped: list[bool] = []
        self._ran_on: list[bool] = []
        self._answers: list[Ids] = []

    def positions(self, kls: Sequence[float], choices: Ids, answer: Ids, wanted: Any) -> None:
        """Add the positions of one answer: their KL, and the token each side would choose."""
        self._kls += kls
        self._same += sum(a == b for a, b in zip(choices, answer, strict=True))
        parting = _common(choices, answer)
        if parting < len(answer):
            self._gaps.append(float(wanted[parting, answer[parting]] - wanted[parting, choices[parting]]))

    def answer(self, made: Ids, answer: Ids, *, stopped: bool, ran_on: bool = False) -> None:
        """Add one whole greedy answer."""
        self._answers.append(made)
        self._identical.append(made == answer)
        self._prefixes.append(_common(made, answer) / len(answer))
        self._stopped.append(stopped)
        self._ran_on.append(ran_on)

    def agreement(self) -> Agreement:
        """Return the means."""
        prompts = len(self._answers)
        return Agreement(
            positions=len(self._kls),
            mean_kl=sum(self._kls) / len(self._kls),
            max_kl=max(self._kls),
            top1_share=self._same / len(self._kls),
            identical_share=sum(self._identical) / prompts,
            prefix_share=sum(self._prefixes) / prompts,
            widest_tie_nats=max(self._gaps),
            stopped_share=sum(self._stopped) / prompts,
            ran_on_share=sum(self._ran_on) / prompts,
            answers=tuple(self._answers),
        )
