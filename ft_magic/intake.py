"""What a spec names, as objects: models, rows of the right signal, rewards that work, a judge that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_magic import models
from ft_magic.axes import METHODS, SIGNALS, Method
from ft_magic.data import Data, load_data
from ft_magic.data.facts import mostly_unique
from ft_magic.data.report.leakage import leakage_finding, leaks
from ft_magic.errors import DataError, ModelError, SpecError
from ft_magic.paths import runs_dir
from ft_magic.planning.plans import Advice
from ft_magic.run import Run
from ft_magic.spec import Spec
from ft_magic.template.tokenizer import Tokenizer

_NEAR_LEAKS_UP_TO_ROWS = 20_000  # about two seconds at 0.1 ms a row of 1 KB (bench/data.py)
# Words, numbers, code and other scripts: tokenizers that split these alike are the same, or as good as.
_PROBES = ("The quick brown fox, 12345!", "def f(x):\n    return x ** 2", "naïve café, Straße, привет, 你好")
_REWARD_SAMPLES = 8  # rows on which rewards are tried before anything starts


def as_text(given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the objects a spec may hold by the words that name them: the spec is kept as text."""
    words = dict(given)
    for key in ("model", "teacher"):
        if isinstance(words.get(key), Run):
            words[key] = words[key].name
    if words.get("judge") is not None:
        from ft_magic.judging.settings import described

        words["judge"] = described(words["judge"])
    if words.get("rewards") is not None:
        from ft_magic.rewards import describe

        words["rewards"] = describe(words["rewards"])
    for key in ("data", "eval_data"):
        if not isinstance(words.get(key), str | None):
            words[key] = _describe(words[key])
    return words


def _describe(value: Any) -> str:
    """Name data given as an object; the rows themselves are kept in the run folder."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Data):
        return value.source
    return (
        f"<{type(value).__name__} of {len(value)} rows>"
        if hasattr(value, "__len__")
        else f"<{type(value).__name__}>"
    )


def model_of(key: str, asked: str, given: Any) -> tuple[Run | None, Path, str]:
    """Return the run a model comes from (or None), the model folder, and a short name."""
    if not isinstance(given, Run) and not (runs_dir() / asked / "run.json").is_file():
        folder = models.resolve(asked)
        return None, folder, folder.name if asked != "demo" else "smollm2"
    run = given if isinstance(given, Run) else Run(runs_dir() / asked)
    if run.status != "finished":
        raise SpecError(
            f"{key}: run {run.name} is {run.status}, so it has no result to start from.",
            f"Finish it with %ft resume {run.name}, or name another model.",
        )
    return run, run.merge(), run.name


def check_teacher(student: Path, teacher: Path) -> None:
    """Refuse a teacher that reads other tokens: it could not say which of the student's is likely.

    Raises:
        ModelError: the two tokenizers split a text differently.
    """
    told, heard = (Tokenizer.load(folder).encode_batch(list(_PROBES)) for folder in (teacher, student))
    if told == heard and models.facts(teacher).vocab_size == models.facts(student).vocab_size:
        return
    raise ModelError(
        f"teacher {teacher.name} has another vocabulary than {student.name}, so it cannot judge its tokens.",
        "Name a teacher of the same family, or let it write answers (%ft synthesise) and train those with method: sft.",
    )


def rows_of(spec: Spec, method: Method, given: Any, given_eval: Any) -> tuple[Data, Data | None]:
    """Load, check the signal and split."""
    data = _of_signal(spec.data if given is None else given, method)
    if spec.eval_data is not None:
        return data, _of_signal(spec.eval_data if given_eval is None else given_eval, method)
    if not spec.eval_fraction:
        return data, None
    return data.split(eval_fraction=spec.eval_fraction, seed=spec.seed)


def unique_facts(train: Data) -> tuple[Advice, ...]:
    """Return the caution where answers hold facts that no question and no other row holds."""
    found = mostly_unique(train.rows) if train.signal in ("demo", "pair") else None
    if found is None:
        return ()
    return (
        Advice(
            f"{found.unknown:.0%} of the numbers and names in the answers stand in one row alone: trained, they are "
            "made up for new questions.",
            "%ft advise MODEL DATA says whether retrieval serves better.",
        ),
    )


def leakage(train: Data, heldout: Data | None, spec: Spec) -> tuple[Advice, ...]:
    """Return a warning where rows to train on are also held out: exactly, and nearly where that is quick."""
    if heldout is None:
        return ()
    near = len(train) <= _NEAR_LEAKS_UP_TO_ROWS
    found = leakage_finding(leaks(train.rows, heldout.rows, near=near), len(heldout))
    if found is None:
        return ()
    fix = "Hold out with train, held = data.split(near=True), and give eval_data: $held."
    return (Advice(found.message, fix if spec.eval_data is None else f"{found.fix}."),)


def _of_signal(source: Any, method: Method) -> Data:
    """Load data as the method's usual signal; refuse what it cannot learn from, naming the conversion.

    Raises:
        DataError: the data cannot be read, or carries another signal.
    """
    data = load_data(source)
    if data.signal == method.signal:
        return data
    if data.signal in method.signals:
        return load_data(source, signal=method.signal)
    fitting = [row.name for row in METHODS.values() if data.signal in row.signals]
    how = SIGNALS[data.signal].converts_to.get(method.signal)
    convert = f"Convert them: data.to('{method.signal}') ({how}); or use" if how else "Use"
    raise DataError(
        f"{data.name} carries '{data.signal}' rows ({data.shape}), but method '{method.name}' learns from "
        f"'{method.signal}' rows.",
        f"{convert} method: {' or '.join(fitting)}, or load_data(..., signal='{method.signal}').",
    )


def check_judge(method: Method, judge: Any) -> None:
    """Refuse a judge that cannot be understood, or whose key is missing, before anything starts."""
    if judge is None or "judge" not in method.options:
        return
    from ft_magic.judging.settings import check

    check(judge)


def rewards_of(method: Method, spec: Mapping[str, Any], train: Data) -> Any:
    """Try rewards out on the first rows, where the method has any and some are given."""
    given = spec.get("rewards")
    if given is None or "rewards" not in method.options:
        return None
    from ft_magic.rewards import prepare

    columns = tuple(dict.fromkeys(name for row in train for name in row))
    return prepare(given, columns, list(train[:_REWARD_SAMPLES]), judge=spec.get("judge"))
