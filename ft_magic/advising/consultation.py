"""ft.advise: a form, a count, a trial of the model, and the table of rules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ft_magic.advising import measuring
from ft_magic.advising.advice import Advice, Told, advice_on
from ft_magic.advising.form import TARGET, Form
from ft_magic.advising.measuring import Wanted
from ft_magic.data import load_data
from ft_magic.errors import SpecError
from ft_magic.ui.live import ProgressLine

# Four examples are as many turns as a small context holds; GPT-3 (arXiv 2005.14165, figure 1.2) gains most up to there.
SHOTS = 4
# 24 rows tell 90 % from 50 % (intervals 69 to 97 and 31 to 69), and take about a minute with the 135M model.
EXAMPLES = 24


def advise(  # noqa: PLR0913  the settings of one question, all by keyword and with defaults
    model: Any,
    data: Any,
    *,
    needs: str | None = None,
    facts_change: str | None = None,
    runtime: str | None = None,
    goal: str = "",
    target: float = TARGET,
    metric: str | None = None,
    shots: int = SHOTS,
    examples: int = EXAMPLES,
    heldout: Any = None,
    measure: bool = True,
    seed: int = 0,
    data_word: str | None = None,
    variable: str = "advice",
) -> Advice:
    """Say whether a task is better served by prompting, retrieval or fine-tuning, with the evidence.

    The model answers held-out rows as it is: the question alone, after random examples, after the most similar ones.
    Questions of the form that are not answered stay unanswered: where they decide, so does the verdict say.

    Args:
        model: ``demo``, a hub id, a folder, a run; or an endpoint, ``{"base_url": ..., "model": ..., "key_env": ...}``.
        data: anything ``load_data`` reads.
        needs: what the model has to take from the rows: ``format``, ``style``, ``facts`` or ``both``.
        facts_change: ``daily``, ``weekly``, ``monthly``, ``yearly`` or ``never``.
        runtime: where it will answer: ``cloud`` or ``own``.
        goal: the task in words; put before every question that is tried.
        target: score from which answers are good enough, 0 to 1.
        metric: ``fields``, ``json``, ``label``, ``number``, ``exact``, ``f1`` or ``facts``; by
            default what fits the answers.
        shots: examples in a prompt.
        examples: held-out rows to try.
        heldout: rows of your own to try; by default some are held out of the data.
        measure: False counts rows and asks no model.
        seed: decides which rows are held out and which examples are shown.
        data_word: how the next cell writes the data; by default its path, else ``$data``.
        variable: what the next cell calls the advice.

    Raises:
        SpecError: an answer or a setting that cannot be.
        DataError: the data cannot be read.
        ModelError: there is no such model.
        RunError: the model could not be asked.
    """
    form = Form(needs, facts_change, runtime, goal.strip(), target)
    form.check()
    for name, number in (("shots", shots), ("examples", examples)):
        if number < 1:
            raise SpecError(
                f"advise: {name} is {number}.", f"Write {name}=4, or measure=False to try nothing."
            )
    rows = load_data(data)
    own = None if heldout is None else load_data(heldout)
    wanted = Wanted(metric, shots, examples, seed, form.goal, measure)
    started = time.monotonic()
    with ProgressLine("Trying the model", "Tried the model") as progress:
        found = measuring.measure(model, rows, own, wanted, progress)
    told = Told(
        model=_model_name(model),
        data=rows.name,
        data_word=data_word or (str(data) if isinstance(data, str | Path) else "$data"),
        signal=rows.signal,
        shots=shots,
        took_s=time.monotonic() - started,
        variable=variable,
    )
    return advice_on(found, form, told)


def _model_name(model: Any) -> str:
    if isinstance(model, dict):
        return str(model.get("model", "endpoint"))
    return str(getattr(model, "name", model))
