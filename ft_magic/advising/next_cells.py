"""The cell to run next, for every verdict. Pure text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ft_magic.advising import rules
from ft_magic.advising.rules import FEW_ROWS

# signal of the rows -> the method that learns from them as they are
_METHODS = MappingProxyType({"text": "cpt", "pair": "dpo", "label": "kto", "prompt": "grpo"})


@dataclass(frozen=True)
class Names:
    """What things are called in the cell.

    Attributes:
        model: as the user wrote it.
        data: as a cell writes it: ``$ds``, or a path.
        advice: Python expression of the advice.
        signal: of the rows.
        distinct: different rows there are.
        rule: name of the rule that decided; empty where it depends.
        open: questions that decide and that nobody has answered.
    """

    model: str
    data: str
    advice: str
    signal: str
    distinct: int
    rule: str
    open: tuple[str, ...] = ()


def _finetune(names: Names) -> str:
    method = _METHODS.get(names.signal, "sft")
    return f"%%finetune run\nmodel: {names.model}\ndata: {names.data}\nmethod: {method}\nupdate: lora"


def _prompting(names: Names) -> str:
    return f'messages = {names.advice}.prompt("your question")   # examples and question as chat messages'


def _retrieval(names: Names) -> str:
    return (
        f'messages = {names.advice}.prompt("your question", nearest=True)   # the most similar rows as examples\n'
        "# Facts that stand in documents, not in rows: search them and give what was found.\n"
        f'# messages = {names.advice}.prompt("your question", context=passages)'
    )


def _both(names: Names) -> str:
    return (
        "# First put what your search finds for each question into the prompts of the rows, then train on those:\n"
        f"# {names.advice}.prompt(question, context=passages, shots=0) makes such a prompt.\n{_finetune(names)}"
    )  # fmt: skip


def _collect(names: Names) -> str:
    if names.rule == "mixed form":
        return f"%ft review {names.data} -o clean   # reject or mend the rows of another form"
    more = max(1, FEW_ROWS - names.distinct)
    return f"%ft synthesise {names.data} --count {more} -o more\n%ft review $more -o good   # a person looks at each"


def _do_not(names: Names) -> str:
    if names.rule == "already right":
        return f'messages = {names.advice}.prompt("your question", shots=0)   # the model as it is'
    return (
        "passages = []   # what a search in your documents or database finds for the question\n"
        f'messages = {names.advice}.prompt("your question", context=passages)'
    )


def _depends(names: Names) -> str:
    answers = ", ".join(f'{key}="..."' for key in names.open)
    return f"{names.advice}.answer({answers})   # the measurements stay"


_CELLS: Mapping[str, Callable[[Names], str]] = MappingProxyType(
    {
        rules.FINE_TUNE: _finetune,
        rules.PROMPTING: _prompting,
        rules.RETRIEVAL: _retrieval,
        rules.BOTH: _both,
        rules.COLLECT: _collect,
        rules.DO_NOT: _do_not,
        rules.DEPENDS: _depends,
    }
)


def next_cell(verdict: str, names: Names) -> str:
    """Return the cell to run next."""
    return _CELLS[verdict](names)
