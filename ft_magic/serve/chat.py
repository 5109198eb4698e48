"""A conversation with the file that will be shipped."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ft_magic.errors import ExportError
from ft_magic.progress import Progress
from ft_magic.serve.llamacpp import Message, Runtime

# Below this an answer has no room to say anything; the conversation counts as full.
SMALLEST_ANSWER_TOKENS = 16
LIMIT_NOTE = "the answer was cut off at its limit of tokens"
CONTEXT_NOTE = "the answer was cut off: the context is full (reset() starts anew)"
QUIT_WORDS = ("/quit", "/exit", "/q")
RESET_WORD = "/reset"
HELP = f"{RESET_WORD} starts anew, {QUIT_WORDS[0]} or an empty line ends; Ctrl-C stops an answer."


@dataclass(frozen=True)
class Turn:
    """One question with its answer.

    Attributes:
        question: what was asked.
        answer: what the model wrote.
        note: why the answer is not whole, or empty.
    """

    question: str
    answer: str
    note: str = ""


class Chat:
    """A conversation with a GGUF file in llama.cpp; keeps its history.

    Args:
        source: a GGUF file, or a ``Runtime`` that is already loaded (it is then left open by ``close``).
        system: system message, sent first; empty sends none.
        max_new_tokens: longest answer in tokens.
        temperature: 0 is greedy: the same question gets the same answer.
        context_tokens: prompt and answer together may hold this many tokens.
        threads: processor threads; default: the usable processors, at most 8.
        progress: told that the file is being loaded.

    Raises:
        ExportError: the file cannot be loaded.
    """

    def __init__(
        self,
        source: str | Path | Runtime,
        *,
        system: str = "",
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        context_tokens: int = 2048,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._owns = not isinstance(source, Runtime)
        self.runtime = (
            source
            if isinstance(source, Runtime)
            else Runtime(source, context_tokens=context_tokens, threads=threads, progress=progress)
        )
        self.system = system
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.turns: list[Turn] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        lines = [f"Chat with {self.runtime.gguf.name}, {len(self.turns)} answers"]
        for turn in self.turns:
            note = f" ({turn.note})" if turn.note else ""
            lines += [f"you:   {turn.question}", f"model: {turn.answer}{note}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the transcript as escaped HTML with inline style only, readable on light and dark pages."""
        rows = "".join(_turn_html(turn) for turn in self.turns)
        empty = "" if self.turns else "<div style='opacity:.7'>Nothing said yet: chat.say('...')</div>"
        name = html.escape(self.runtime.gguf.name)
        return (
            f"<div style='max-width:48em'><div style='opacity:.7'>Chat with {name}</div>{rows}{empty}</div>"
        )

    def say(self, text: str, *, show: bool = False, max_new_tokens: int | None = None) -> str:
        """Ask, keep question and answer, and return the answer.

        Args:
            text: the question.
            show: print the answer piece by piece as it is written.
            max_new_tokens: longest answer in tokens; default: the conversation's.

        Raises:
            ExportError: nothing was asked, the conversation has outgrown the context (nothing is dropped
                silently, the history stays as it was), or the runtime ended.
        """
        if not text.strip():
            raise ExportError("The question is empty.", "Write chat.say('your question').")
        messages = self._messages(text)
        wanted = max_new_tokens or self.max_new_tokens
        room = self._room_tokens(messages)
        stream = self.runtime.chat(
            messages, stream=True, max_new_tokens=min(wanted, room), temperature=self.temperature
        )
        pieces: list[str] = []
        note = "the answer was interrupted"
        try:
            for piece in stream:
                pieces.append(piece)
                if show:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            cut = CONTEXT_NOTE if room < wanted else LIMIT_NOTE
            note = cut if stream.stopped_by == "limit" else ""
        finally:
            stream.close()
            # An interrupted answer belongs to the history as far as it was shown.
            if pieces or not note:
                self.turns.append(Turn(text, "".join(pieces), note))
                if show:
                    sys.stdout.write(f" ({note})\n" if note else "\n")
        return "".join(pieces)

    def reset(self) -> None:
        """Forget the conversation; the system message stays."""
        self.turns.clear()

    def close(self) -> None:
        """End the runtime, unless it was given from outside."""
        if self._owns:
            self.runtime.close()

    def repl(self, read: Callable[[str], str] | None = None) -> None:
        """Talk until an empty line; where nobody can type, say how to go on and return at once.

        Args:
            read: called with a prompt, returns one typed line; default ``input``.
        """
        if read is None and not somebody_can_type():
            print(f"Nobody can type here, so the chat with {self.runtime.gguf.name} waits: chat.say('...')")
            return
        ask = read or input
        print(f"Chat with {self.runtime.gguf.name}. {HELP}")
        while (line := _read_line(ask)) and line not in QUIT_WORDS:
            if line == RESET_WORD:
                self.reset()
                print("(starting anew)")
                continue
            try:
                self.say(line, show=True)
            except ExportError as error:
                print(error)
                if not self.runtime.alive:
                    return
            except KeyboardInterrupt:
                continue

    def _messages(self, question: str) -> list[Message]:
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages += [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": turn.answer},
            ]
        return [*messages, {"role": "user", "content": question}]

    def _room_tokens(self, messages: list[Message]) -> int:
        """Return how many tokens are left for the answer."""
        prompt = self.runtime.tokenize(self.runtime.apply_template(messages), add_special=True)
        room = self.runtime.context_tokens - len(prompt)
        if room >= SMALLEST_ANSWER_TOKENS:
            return room
        raise ExportError(
            f"This conversation has {len(prompt)} tokens; the context holds {self.runtime.context_tokens}, "
            "which leaves no room for an answer.",
            "Write chat.reset() to start anew, ask something shorter, or open it with more context_tokens.",
        )


def somebody_can_type() -> bool:
    """Tell whether ``input()`` would reach a person: a terminal, or a notebook run by hand."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        # ipykernel keeps what the front end allowed under this name; nbclient and papermill allow nothing.
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stdin is not None and sys.stdin.isatty()


def _read_line(ask: Callable[[str], str]) -> str:
    try:
        return ask("you: ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _turn_html(turn: Turn) -> str:
    box = "white-space:pre-wrap;border-left:3px solid {};padding:.2em .8em;margin:.4em 0"
    note = f"<div style='opacity:.7'><i>{html.escape(turn.note)}</i></div>" if turn.note else ""
    return (
        f"<div style='{box.format('#8888')}'>{html.escape(turn.question)}</div>"
        f"<div style='{box.format('#4a90d9')}'>{html.escape(turn.answer)}{note}</div>"
    )
