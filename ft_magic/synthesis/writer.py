"""Who writes the rows: a local model in the warm process, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ft_magic import hardware, jobs
from ft_magic.data.row import Message
from ft_magic.errors import FTError, SpecError
from ft_magic.judging import endpoint, settings
from ft_magic.judging.endpoint import Written
from ft_magic.judging.settings import Endpoint, LocalModel
from ft_magic.progress import Progress, silent

Tell = Callable[[int, Written], None]
Chat = Sequence[Message]
_LOCAL_BATCH = 8  # requests answered together, as the warm process answers prompts


@dataclass(frozen=True)
class Writer:
    """A model that writes.

    Attributes:
        source: where it is.
        temperature: of its sampling.
        max_new_tokens: longest reply, in tokens.
    """

    source: LocalModel | Endpoint
    temperature: float
    max_new_tokens: int

    @property
    def name(self) -> str:
        """Its name, as the user wrote it."""
        return self.source.name

    @property
    def batch(self) -> int:
        """Requests made together."""
        return self.source.parallel if isinstance(self.source, Endpoint) else _LOCAL_BATCH

    @property
    def identity(self) -> str:
        """Digest of the model and its sampling."""
        whole = [self.source.identity, self.temperature, self.max_new_tokens]
        return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()

    def write(
        self, chats: Sequence[Chat], seeds: Sequence[int], tell: Tell, progress: Progress = silent
    ) -> None:
        """Reply to every conversation; ``tell`` gets each reply as it comes.

        Args:
            chats: what the model reads.
            seeds: of the random numbers of each reply; an endpoint draws its own.
            tell: gets (place, reply), from several threads for an endpoint.
            progress: told what is being done.

        Raises:
            RunError: the endpoint refuses or cannot be reached, or the process died.
        """
        if isinstance(self.source, Endpoint):
            asked: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_new_tokens}
            source = replace(self.source, parameters={**asked, **self.source.parameters})
            with as_model():
                endpoint.complete(source, chats, tell)
            return
        arguments: dict[str, Any] = {
            "model": _reference(self.source),
            "chats": [list(chat) for chat in chats],
            "seeds": list(seeds),
        }
        arguments |= {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        for place, reply in enumerate(jobs.call("write", arguments, progress)):
            tell(place, Written(**reply))


def read_writer(value: Any, temperature: float, max_new_tokens: int, progress: Progress = silent) -> Writer:
    """Return the writer a user named.

    Args:
        value: ``demo``, a hub id, a folder, a run or its name; or ``{"base_url": ..., "model": ...,
            "api_key_env": "OPENAI_API_KEY"}``.
        temperature: of the sampling.
        max_new_tokens: longest reply, in tokens.
        progress: told how far a download is.

    Raises:
        SpecError: it cannot be understood, or is a reward model.
        ModelError: there is no such model.
    """
    with as_model():
        given = value
        if isinstance(value, Mapping):
            names = {"api_key_env": "key_env"}
            given = {names.get(key, key): part for key, part in value.items()}
            if "criteria" in given:
                raise SpecError("judge: unknown key 'criteria'.", "Say what to write in instructions.")
        source = settings.read(given, progress=progress).source
        if isinstance(source, Endpoint):
            source.key()  # a missing key is said before anything is made
    if isinstance(source, settings.RewardRun):
        raise SpecError(
            f"model: run {source.name} is a reward model; it scores and writes nothing.",
            "Name a model that answers.",
        )
    return Writer(source, temperature, max_new_tokens)


@contextmanager
def as_model() -> Iterator[None]:
    """Let errors of the judge's settings and endpoint speak of the model that writes."""
    try:
        yield
    except FTError as error:
        problem = re.sub(r"\A(A )?judge\b", r"\1model", error.problem)
        raise type(error)(problem, error.instead.replace("judge:", "model:")) from error


def _reference(source: LocalModel) -> dict[str, Any]:
    """Return how the warm process loads the model."""
    precision = hardware.read().precision if source.precision == "auto" else source.precision
    return {"base": source.base, "adapter": source.adapter, "bits": source.bits, "precision": precision}
