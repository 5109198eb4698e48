"""The judge's replies to many questions: from the store where they were given before, else asked and stored."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ft_magic.errors import RunError
from ft_magic.judging import endpoint, local, reward_run
from ft_magic.judging.questions import Question, Reply
from ft_magic.judging.settings import Endpoint, Judge, RewardRun
from ft_magic.judging.verdicts import Store
from ft_magic.paths import from_here
from ft_magic.progress import Progress, silent


def replies(
    judge: Judge, questions: Sequence[Question], store: Store, progress: Progress = silent
) -> tuple[list[Reply], int]:
    """Return the reply to each question, in order, and how many had to be asked.

    Args:
        judge: who is asked.
        questions: equal ones are asked once.
        store: where replies come from and go to, each as soon as it is given.
        progress: told how many are answered.

    Raises:
        RunError: the judge cannot be reached; says how many replies are stored.
        ModelError: the local model cannot judge.
    """
    keys = store.keys(questions)
    by_key = dict(zip(keys, questions, strict=True))
    known = {key: found for key, q in by_key.items() if (found := store.find(key, q)) is not None}
    missing = [key for key in by_key if key not in known]
    given: dict[str, Reply] = {}
    lock = threading.Lock()

    def tell(index: int, reply: Reply) -> None:
        key = missing[index]
        store.add(key, by_key[key], reply)
        with lock:
            given[key] = reply
            progress("asking the judge", len(known) + len(given), len(by_key))

    progress("asking the judge", len(known), len(by_key))
    try:
        _ask(judge, [by_key[key] for key in missing], tell)
    except RunError as error:
        stored = f"{len(known) + len(given)} of {len(by_key)} replies are stored in {from_here(store.path)}"
        way = f"{error.instead} Then run the same again: it goes on where it stopped, nothing is asked twice."
        raise RunError(f"{error.problem} {stored}.", way.strip()) from error
    everything = known | given
    return [everything[key] for key in keys], len(given)


def _ask(judge: Judge, questions: Sequence[Question], tell: endpoint.Tell) -> None:
    if not questions:
        return
    if isinstance(judge.source, Endpoint):
        endpoint.ask(judge, judge.source, questions, tell)
    elif isinstance(judge.source, RewardRun):
        reward_run.ask(judge, judge.source, questions, tell)
    else:
        local.ask(judge, judge.source, questions, tell)


def judge_job(
    *,
    judge: Mapping[str, Any],
    questions: Sequence[Mapping[str, Any]],
    folder: str | None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Ask a judge; the job behind ``ft.judge``, for plain values.

    Returns:
        ``replies`` in the order of the questions and ``asked``, how many were not stored before.
    """
    who = Judge.from_dict(judge)
    store = Store(who, Path(folder) if folder else None)
    found, asked = replies(who, [Question(**question) for question in questions], store, progress)
    return {"replies": [asdict(reply) for reply in found], "asked": asked, "path": str(store.path)}
