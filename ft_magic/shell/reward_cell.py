"""``%%reward_fn NAME``: define a reward function in a cell, try it out at once, show what it did.

    %%reward_fn correct data=$ds n=8
    def correct(completion, answer):
        return float(completion.strip().endswith(answer))

The line form ``%reward_fn NAME`` tries a function again that exists already; ``--help`` shows the built-in ones.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
from collections.abc import Mapping, Sequence
from typing import Any

from ft_magic.data.row import shortened
from ft_magic.errors import SpecError, nearest
from ft_magic.rewards import source, trial
from ft_magic.rewards.catalogue import BUILT_IN
from ft_magic.rewards.function import Signature, check_columns, signature_of
from ft_magic.rewards.prepared import alone_functions, try_function
from ft_magic.rewards.texts import prompt_text
from ft_magic.rewards.trial import Trial
from ft_magic.shell import calls
from ft_magic.ui.show import Shown, number, seconds, shown_table

OPTIONS = {"data": "rows to try it on: $name, path or hub id", "n": "number of rows to try"}
_ROWS = 8
_SHOWN_ATTEMPTS = 6
# Column names people use for the right answer and for the question, which the built-in rows can stand in for.
_LIKE_ANSWER = (
    "solution", "target", "expected", "label", "reference", "ground_truth", "gold", "response", "output",
)  # fmt: skip
_LIKE_PROMPT = ("question", "query", "instruction", "problem", "input")
_FORM = "Write %%reward_fn NAME data=$ds n=8, and below it def NAME(completion, answer): ..."


def define(line: str, cell: str | None, variables: dict[str, Any]) -> Shown:
    """Define what the cell says, try the function that the line names, and return what it did.

    Args:
        line: ``NAME [data=...] [n=8]``.
        cell: Python; None or blank tries a function that exists.
        variables: of the notebook; the cell's names go there.

    Raises:
        SpecError: no such function, it fails on a row, or it would not work in the training process.
    """
    words = calls.words(line)
    if words == ["--help"]:
        return built_in_table()
    name, given = _arguments(words)
    if cell and cell.strip():
        _execute(name, cell, variables)
    elif not callable(variables.get(name)):
        raise SpecError(f"there is no function '{name}'.{nearest(name, variables)}", _FORM)
    function = variables[name]
    signature = signature_of(function, name)
    alone = alone_functions(source.gather({name: function}))[name]
    samples, columns, where = _samples(signature, given, variables)
    if not samples:
        return shown_table(_rows(signature), title=f"Reward {name}: defined, not tried", notes=[where])
    check_columns(signature, columns)
    tried = trial.attempts(samples, columns)
    done, notes = try_function(name, function, alone, tried)
    return _shown(signature, done, where, notes)


def _arguments(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the function's name and the options of the line."""
    if not words or not words[0].isidentifier():
        raise SpecError(
            f"%%reward_fn {' '.join(words)}".rstrip() + ": no name of a function comes first.", _FORM
        )
    given = calls.pairs(words[1:])
    for key in given:
        if key not in OPTIONS:
            raise SpecError(f"%%reward_fn has no option '{key}'.{nearest(key, OPTIONS)}", _FORM)
    count = given.get("n", _ROWS)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SpecError(f"n={count} is no number of rows.", "Write n=8.")
    return words[0], {**given, "n": count}


def _execute(name: str, cell: str, variables: dict[str, Any]) -> None:
    """Run the cell; its text is kept where tracebacks and ``inspect`` look for it.

    Raises:
        SpecError: it defines no function of that name.
    """
    file = f"<reward_fn {name} {hashlib.sha256(cell.encode()).hexdigest()[:8]}>"
    linecache.cache[file] = (len(cell), None, cell.splitlines(keepends=True), file)
    tree = ast.parse(cell, file)
    made = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if name not in made:
        what = f"defines {', '.join(made)}, but not '{name}'" if made else f"does not define '{name}'"
        raise SpecError(
            f"the cell {what}.{nearest(name, made)}", f"Write def {name}(completion, answer): ..."
        )
    exec(compile(tree, file, "exec"), variables)  # noqa: S102  the user's own cell


def _samples(
    signature: Signature, given: Mapping[str, Any], variables: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], list[str], str]:
    """Return rows to try, their columns, and where they come from in words."""
    if "data" in given:
        from ft_magic.shell.yaml_body import resolve

        rows = _prompt_rows(resolve({"data": given["data"]}, variables)["data"])
        count = min(given["n"], len(rows))
        picked = [rows[index * len(rows) // count] for index in range(count)]
        columns = list(dict.fromkeys(key for row in picked for key in row if key != "prompt"))
        return picked, columns, f"{count} of {len(rows):,} rows of the data"
    names = {
        "answer": "answer",
        **dict.fromkeys(_LIKE_ANSWER, "answer"),
        **dict.fromkeys(_LIKE_PROMPT, "prompt"),
    }
    lacking = [column for column in signature.reads if column not in names]
    if lacking:
        hint = nearest(lacking[0], (*names, "prompt"))
        return (
            [],
            [],
            f"It reads '{lacking[0]}', which no built-in row has: try it with data=$your_data.{hint}",
        )
    wanted = dict.fromkeys(("answer", *signature.reads))
    filled = [
        {"prompt": row["prompt"], **{name: row[names[name]] for name in wanted}} for row in trial.EXAMPLES
    ]
    guessed = [name for name in signature.reads if name != "answer"]
    told = "".join(f", {name} = their {names[name]}" for name in guessed)
    return list(filled[: given["n"]]), list(wanted), f"{len(filled[: given['n']])} built-in rows{told}"


def _prompt_rows(value: Any) -> Sequence[Mapping[str, Any]]:
    """Return data as prompt rows with every column that rewards could read."""
    from ft_magic.data import load_data

    plain = isinstance(value, list) and bool(value)
    if plain and all(isinstance(row, Mapping) and isinstance(row.get("prompt"), str | list) for row in value):
        return list(value)
    return load_data(value).to("prompt").rows


def _rows(signature: Signature) -> list[tuple[str, object]]:
    return [("shape", signature.style), ("reads", ", ".join(signature.parameters))]


def _shown(signature: Signature, done: Trial, where: str, notes: Sequence[str]) -> Shown:
    """Return what a trial did: figures, some of the answers, and what to act on."""
    low, high = min(done.scores), max(done.scores)
    whole = all(score.is_integer() for score in done.scores)
    figures = [
        *_rows(signature),
        ("tried on", f"{len(done.scores)} answers to {where}"),
        ("scores", f"{_plain(low)} to {_plain(high)}{', whole numbers' if whole else ''}"),
        ("mean, variance", f"{number(done.mean)}, {number(done.variance)}"),
        ("time", _time(done.seconds_an_answer)),
    ]
    warnings = [f"\u26a0 {problem} {fix}" for problem, fix in done.cautions()]
    # Alternately the best and the worst: a reader sees at once what is told apart.
    order = sorted(range(len(done.scores)), key=lambda i: -done.scores[i])
    picked = [order[i // 2] if i % 2 == 0 else order[-1 - i // 2] for i in range(len(order))][
        :_SHOWN_ATTEMPTS
    ]
    answers = [
        (
            shortened(prompt_text(tried.prompts[i])),
            shortened(tried.completions[i]),
            tried.kinds[i],
            _plain(done.scores[i]),
        )
        for tried in (done.attempts,)
        for i in sorted(picked)
    ]
    table = shown_table(figures, title=f"Reward {done.name}", notes=[*warnings, *notes])
    return table + shown_table(answers, ("prompt", "answer tried", "which is", "score"))


def _plain(score: float) -> float:
    return int(score) if score.is_integer() else score


def _time(an_answer_s: float) -> str:
    each = f"{1000 * an_answer_s:.2g} ms" if an_answer_s < 1 else seconds(an_answer_s)
    return f"{each} an answer"


def built_in_table() -> Shown:
    """Return the built-in rewards with their settings."""
    rows = []
    for row in BUILT_IN.values():
        settings = [
            f"{p.name}: {p.title}" + (f" ({p.default})" if p.default is not None else "")
            for p in row.parameters
        ]
        rows.append((row.name, row.title, row.values, "\n".join(settings), row.example))
    return shown_table(
        rows,
        ("reward", "what it scores", "values", "settings", "write"),
        title="Built-in rewards",
        notes=[_FORM],
    )
