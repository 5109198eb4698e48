"""Asks an OpenAI-compatible endpoint: a few requests at a time, patient with a busy server, strict with replies."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ft_magic.errors import RunError
from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.settings import Endpoint, Judge

if TYPE_CHECKING:
    import httpx

Tell = Callable[[int, Reply], None]
Chat = Sequence[Mapping[str, Any]]
# Six tries with random exponential waits up to a minute: OpenAI's cookbook, "How to handle rate limits".
TRIES = 6
_LONGEST_WAIT_S = 60.0
# A server that asks for more patience than this is better asked again later.
_PATIENCE_S = 300.0
_CONNECT_S, _READ_S = 10.0, 120.0
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
# One letter or number; a few tokens more leave room for quotes or a full stop.
_DEFAULTS: Mapping[str, Any] = MappingProxyType({"temperature": 0, "max_tokens": 16})
_SHOWN = 200

_MARKS = r"[\s*_`\"'.()\[\]]*"
_LETTER = re.compile(rf"{_MARKS}([AB]){_MARKS}")
_NUMBER = re.compile(rf"{_MARKS}(10|[1-9])(?:\s*/\s*10)?{_MARKS}")
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


class BusyError(Exception):
    """The server did not answer; worth another try.

    Args:
        why: one line.
        wait_s: seconds the server asks to wait, or 0.
    """

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Written:
    """What an endpoint wrote.

    Attributes:
        text: the reply.
        whole: False where the longest length cut it off.
    """

    text: str
    whole: bool = True


def letter(text: str) -> float | None:
    """Read a reply of one letter: A is 1, B is 0; None for anything else."""
    found = _LETTER.fullmatch(_THOUGHTS.sub("", text))
    return None if found is None else float(found[1] == "A")


def grade(text: str) -> float | None:
    """Read a reply of one number from 1 to 10 as a score from 0 to 1; None for anything else."""
    found = _NUMBER.fullmatch(_THOUGHTS.sub("", text))
    return None if found is None else (int(found[1]) - 1) / 9


_READERS: Mapping[str, Callable[[str], float | None]] = MappingProxyType({"pair": letter, "grade": grade})


def ask(
    judge: Judge,
    source: Endpoint,
    questions: Sequence[Question],
    tell: Tell,
    *,
    sleep: Callable[[float], None] | None = None,
) -> None:
    """Ask every question; ``tell`` gets each reply as it comes, from several threads.

    Replies under way when something fails still arrive.

    Raises:
        RunError: the endpoint refuses, or cannot be reached after ``TRIES`` tries.
        SpecError: the key's environment variable is not set.
    """

    def read(index: int, written: Written) -> None:
        tell(index, Reply(_READERS[questions[index].kind](written.text), written.text))

    texts = [question.text(judge.criteria) for question in questions]
    complete(source, [[{"role": "user", "content": text}] for text in texts], read, sleep=sleep)


def complete(
    source: Endpoint,
    chats: Sequence[Chat],
    tell: Callable[[int, Written], None],
    *,
    sleep: Callable[[float], None] | None = None,
) -> None:
    """Let a server continue every conversation; ``tell`` gets each reply as it comes, from several threads.

    Raises:
        RunError: the endpoint refuses, or cannot be reached after ``TRIES`` tries.
        SpecError: the key's environment variable is not set.
    """
    _require_libraries()
    import httpx
    from tenacity import sleep_using_event

    key, stop = source.key(), threading.Event()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Timeout(_READ_S, connect=_CONNECT_S)
    with (
        httpx.Client(headers=headers, timeout=limits) as client,
        ThreadPoolExecutor(source.parallel) as pool,
    ):
        asker = _Asker(client, source, stop, sleep or sleep_using_event(stop))
        failures: list[BaseException] = []

        def one(index: int, chat: Chat) -> None:
            if stop.is_set():
                return
            try:
                tell(index, asker.reply(chat))
            except BaseException as error:  # noqa: BLE001  raised below, once the others have ended
                failures.append(error)
                stop.set()

        work = [pool.submit(one, index, chat) for index, chat in enumerate(chats)]
        try:
            wait(work)
        except BaseException:  # an interrupt: replies under way are kept, nothing more is asked
            stop.set()
            raise
    if failures:
        raise failures[0]


class _Asker:
    """One endpoint with its connection; threads share it."""

    def __init__(
        self,
        client: httpx.Client,
        source: Endpoint,
        stop: threading.Event,
        sleep: Callable[[float], None],
    ) -> None:
        self._client, self._source, self._stop, self._sleep = client, source, stop, sleep

    def reply(self, chat: Chat) -> Written:
        """Ask once, and again while the server is busy."""
        import tenacity

        spread = tenacity.wait_random_exponential(max=_LONGEST_WAIT_S)

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(spread(state), error.wait_s if isinstance(error, BusyError) else 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BusyError),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(TRIES), tenacity.stop_when_event_set(self._stop)
            ),
            wait=pause,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._once, chat)
        except BusyError as error:
            raise RunError(
                f"judge {self._source.name} at {self._source.base_url} did not answer in {TRIES} tries: {error}.",
                "Check that the server runs and that this machine reaches it.",
            ) from error

    def _once(self, chat: Chat) -> Written:
        """Send one request and return the reply."""
        import httpx

        fields = {**_DEFAULTS, **self._source.parameters}
        body = {name: value for name, value in fields.items() if value is not None}
        body |= {"model": self._source.name, "messages": list(chat)}
        try:
            answer = self._client.post(f"{self._source.base_url}/chat/completions", json=body)
        except httpx.TransportError as error:
            raise BusyError(f"{type(error).__name__}: {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise self._refusal(answer)
        try:
            choice = answer.json()["choices"][0]
            return Written(str(choice["message"]["content"] or ""), choice.get("finish_reason") != "length")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"judge: {self._source.base_url} does not answer like an OpenAI-compatible endpoint.",
                "base_url ends with /v1 for most servers.",
            ) from error

    def _refusal(self, answer: httpx.Response) -> Exception:
        """Return the error that an answer other than 200 stands for."""
        status, source = answer.status_code, self._source
        said = f"{status} {_said(answer, source.key())}".strip()
        if status in (401, 403):
            way = f"the key in {source.key_env}" if source.key_env else "requests without a key"
            return RunError(
                f"judge: {source.base_url} refuses {way} ({status}).",
                f"Put a valid key into {source.key_env}."
                if source.key_env
                else "Write key_env: VARIABLE that holds the key.",
            )
        if status == 404:
            return RunError(
                f"judge: {source.base_url} has no chat completions or no model '{source.name}' ({said}).",
                "base_url ends with /v1 for most servers; GET base_url/models lists the models.",
            )
        wait_s = _retry_after_s(answer.headers.get("retry-after", ""))
        spent = (
            "insufficient_quota" in answer.text
        )  # OpenAI's 429 for an empty account: waiting does not help
        if status not in _BUSY or spent or wait_s > _PATIENCE_S:
            later = f"It asks to come back in {wait_s:.0f} s. " if wait_s > _PATIENCE_S else ""
            return RunError(
                f"judge {source.name} at {source.base_url} refuses: {said}.",
                f"{later}Fields of the request are set by parameters: {{max_tokens: 16}}; null leaves one out.",
            )
        return BusyError(said, wait_s)


def _said(answer: httpx.Response, key: str | None) -> str:
    """Return the server's own message on one line, without the key should it be repeated there."""
    try:
        raw = answer.json()
        error = raw.get("error", raw) if isinstance(raw, dict) else raw
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        text = answer.text
    text = " ".join(text.split())
    return (text.replace(key, "***") if key else text)[:_SHOWN]


def _retry_after_s(header: str) -> float:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3); 0 where there is none."""
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _require_libraries() -> None:
    missing = [name for name in ("httpx", "tenacity") if find_spec(name) is None]
    if missing:
        raise RunError(
            f"A judge behind an endpoint needs {' and '.join(missing)}, which is not installed.",
            'pip install "ft-magic[judge]"',
        )
