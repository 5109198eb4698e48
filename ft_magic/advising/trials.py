"""Three ways of asking the same held-out questions, tried on a local model or an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ft_magic import hardware, jobs
from ft_magic.advising import shots
from ft_magic.advising.shots import Case, Chat
from ft_magic.errors import SpecError
from ft_magic.judging import settings
from ft_magic.judging.settings import Endpoint, LocalModel
from ft_magic.models import facts
from ft_magic.progress import Progress
from ft_magic.synthesis.writer import Writer, as_model
from ft_magic.template import Tokenizer, prompt_ids

ZERO, FEW, NEAREST = "zero", "few", "nearest"
# Longest answer tried, in tokens: room for one and a half of the longest expected one, within what TRL's GRPOConfig
# gives an answer by default.
_ROOM_FACTOR, _MOST_NEW_TOKENS, _FEWEST_NEW_TOKENS = 1.5, 256, 16
_CONTEXT_TOKENS = 2048  # of a model whose config does not say


@dataclass(frozen=True)
class Asked:
    """One way of asking: what was read and what came back, a value a row.

    Attributes:
        chats: the prompts.
        shots: examples in each.
        tokens: length of each prompt; empty behind an endpoint.
        losses: of the expected answers, in nats a token; empty behind an endpoint.
        texts: the answers.
    """

    chats: tuple[Chat, ...]
    shots: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def mean_shots(self) -> float:
        """Examples in a prompt, on average."""
        return fmean(self.shots)


@dataclass(frozen=True)
class Subject:
    """A model to try, with what is known before it is loaded.

    Attributes:
        source: where it is.
        tokenizer: of a local model, else None.
        context_tokens: the longest prompt with its answer; None where only the server knows.
    """

    source: LocalModel | Endpoint
    tokenizer: Tokenizer | None
    context_tokens: int | None

    @property
    def name(self) -> str:
        """Its name, as the user wrote it."""
        return self.source.name

    def length(self, chat: Chat) -> int:
        """Return the tokens of a conversation as the model reads it; 0 behind an endpoint."""
        if self.tokenizer is None:
            return 0
        return len(prompt_ids(self.tokenizer, {"prompt": shots.as_prompt(self.tokenizer, chat)}))

    def answer_tokens(self, answers: Sequence[str]) -> int:
        """Return how long an answer may become: enough for the expected ones."""
        if self.tokenizer is None:
            return _MOST_NEW_TOKENS
        longest = max(len(ids) for ids in self.tokenizer.encode_batch(list(answers)))
        return min(_MOST_NEW_TOKENS, max(_FEWEST_NEW_TOKENS, round(_ROOM_FACTOR * longest)))


def subject_of(model: Any, progress: Progress) -> Subject:
    """Return the model a user named.

    Args:
        model: ``demo``, a hub id, a folder, a run or its name; or an endpoint, ``{"base_url": ..., "model": ...,
            "key_env": "OPENAI_API_KEY"}``.
        progress: told how far a download is.

    Raises:
        SpecError: it cannot be understood, or is a reward model.
        ModelError: there is no such model.
    """
    with as_model():
        source = settings.read(model, progress=progress).source
        if isinstance(source, Endpoint):
            source.key()
            return Subject(source, None, None)
    if not isinstance(source, LocalModel):
        raise SpecError(f"model: run {source.name} is a reward model; it answers nothing.", "Name its base.")
    found = facts(_folder(source))
    return Subject(source, Tokenizer.load(source.base), found.max_length_tokens or _CONTEXT_TOKENS)


def _folder(source: LocalModel) -> Any:
    from pathlib import Path

    return Path(source.base)


def prompts(
    subject: Subject, cases: Sequence[Case], pool: Sequence[Case], *, count: int, seed: int, goal: str
) -> tuple[list[Case], dict[str, Asked]]:
    """Return the questions that fit the model, and the prompts of the three ways for them.

    Args:
        subject: whose context they must fit.
        cases: held-out questions.
        pool: rows examples are taken from.
        count: examples in a prompt, where they fit.
        seed: decides which random examples.
        goal: stands before all.
    """
    room = _room(subject, cases)
    index = shots.index_of(pool)
    choose: Mapping[str, Callable[[int, Case], list[Case]]] = {
        ZERO: lambda _place, _case: [],
        FEW: lambda place, _case: shots.random_shots(pool, count, seed, place),
        NEAREST: lambda _place, case: shots.nearest_shots(index, pool, case, count),
    }
    fitting = [case for case in cases if subject.length(shots.with_shots(case, [], goal)) <= room]
    asked = {}
    for name, chosen in choose.items():
        found = [
            shots.fitting(case, chosen(place, case), goal, subject.length, room)
            for place, case in enumerate(fitting)
        ]
        chats = tuple(chat for chat, _ in found if chat is not None)
        tokens = tuple(map(subject.length, chats)) if subject.tokenizer else ()
        asked[name] = Asked(chats, tuple(used for _, used in found), tokens)
    return fitting, asked


def _room(subject: Subject, cases: Sequence[Case]) -> int:
    if subject.context_tokens is None or not cases:
        return 0
    return subject.context_tokens - subject.answer_tokens([case.answer for case in cases])


def ask(
    subject: Subject, cases: Sequence[Case], asked: Mapping[str, Asked], progress: Progress
) -> dict[str, Asked]:
    """Put all prompts to the model; a local one runs in the warm process.

    Raises:
        RunError: an endpoint refuses or cannot be reached, or the process died.
    """
    chats = [chat for way in asked.values() for chat in way.chats]
    expected = [case.answer for case in cases] * len(asked)
    longest = subject.answer_tokens(expected)
    found = _answers(subject, chats, expected, longest, progress)
    done = {}
    for place, (name, way) in enumerate(asked.items()):
        part = found[place * len(cases) : (place + 1) * len(cases)]
        losses = tuple(float(one["loss"]) for one in part if one["loss"] is not None)
        done[name] = Asked(way.chats, way.shots, way.tokens, losses, tuple(one["text"] for one in part))
    return done


def _answers(
    subject: Subject, chats: Sequence[Chat], expected: Sequence[str], longest: int, progress: Progress
) -> list[dict[str, Any]]:
    if isinstance(subject.source, Endpoint) or subject.tokenizer is None:
        texts = [""] * len(chats)

        def tell(place: int, written: Any) -> None:
            texts[place] = written.text
            progress("asking the endpoint", sum(map(bool, texts)), len(chats))

        Writer(subject.source, 0.0, longest).write(chats, [0] * len(chats), tell, progress)
        return [{"loss": None, "text": text} for text in texts]
    source = subject.source
    precision = hardware.read().precision if source.precision == "auto" else source.precision
    arguments = {
        "model": {
            "base": source.base, "adapter": source.adapter, "bits": source.bits, "precision": precision,
        },
        "prompts": [shots.as_prompt(subject.tokenizer, chat) for chat in chats],
        "expected": list(expected),
        "max_new_tokens": longest,
    }  # fmt: skip
    found: list[dict[str, Any]] = jobs.call("advise", arguments, progress)
    if subject.tokenizer.chat is None:  # a model that continues text goes on with questions of its own
        for one in found:
            one["text"] = one["text"].strip().partition("\n\n")[0]
    return found
