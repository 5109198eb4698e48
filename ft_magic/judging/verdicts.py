"""Replies of judges on disk: append-only JSON lines, one written at once for each reply."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ft_magic.atomic import append_json_line
from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.settings import Judge
from ft_magic.paths import cache_dir

FILE = "verdicts.jsonl"


class Store:
    """The replies of one judge: in a folder, with the texts, and in the cache, by key alone.

    Args:
        judge: whose replies.
        folder: run or pipeline folder whose ``verdicts.jsonl`` gets every reply used there; None for the cache
            alone.
    """

    def __init__(self, judge: Judge, folder: Path | None) -> None:
        self.judge = judge
        self.identity = judge.source.identity
        digest = hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()
        self._cache = cache_dir() / "verdicts" / f"{digest[:16]}.jsonl"
        self._file = folder / FILE if folder is not None else None
        self._known = dict(_replies(self._cache))
        self._kept = dict(_replies(self._file)) if self._file else {}
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file to name in messages."""
        return self._file or self._cache

    def keys(self, questions: Sequence[Question]) -> list[str]:
        """Return the key of each question."""
        return [question.key(self.judge, self.identity) for question in questions]

    def find(self, key: str, question: Question) -> Reply | None:
        """Return the stored reply to a question; one from the cache is noted in the folder too."""
        with self._lock:
            reply = self._kept.get(key) or self._known.get(key)
            if reply is not None and self._file is not None and key not in self._kept:
                self._note(key, question, reply)
            return reply

    def add(self, key: str, question: Question, reply: Reply) -> None:
        """Keep a reply: on disk when this returns. Threads may call it at the same time."""
        with self._lock:
            self._known[key] = reply
            append_json_line(self._cache, {"key": key, "value": reply.value, "raw": reply.raw}, 0o600)
            if self._file is not None:
                self._note(key, question, reply)

    def _note(self, key: str, question: Question, reply: Reply) -> None:
        assert self._file is not None
        self._kept[key] = reply
        line = {"v": 1, "t": round(time.time(), 3), "judge": self.judge.name, "criteria": self.judge.criteria}
        line |= {"kind": question.kind, "prompt": question.prompt, "a": question.a, "b": question.b}
        append_json_line(self._file, line | {"key": key, "value": reply.value, "raw": reply.raw}, 0o600)


def _replies(path: Path) -> Iterator[tuple[str, Reply]]:
    """Yield (key, reply) of every complete line."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            raw = json.loads(line)
            yield raw["key"], Reply(raw["value"], raw["raw"])
        except (ValueError, KeyError, TypeError):
            continue  # half-written by a killed process: it is asked again
