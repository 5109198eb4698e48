import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.errors import SpecError
from ft_magic.rewards.function import ScoreError, call, check_columns, signature_of


def row_style(completion, prompt, answer, scale=2.0):
    return scale * (completion == answer) + len(prompt) / 100


def batch_style(completions, answer):
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def taking_all(completions, **columns):
    return [len(columns)] * len(completions)


PROMPTS, COMPLETIONS = ["abcde", "abcdefghij"], ["1", "2"]
COLUMNS = {"answer": ["1", "3"], "level": [7, 8]}


def scores(function, columns=COLUMNS, completions=COMPLETIONS):
    return call(function, signature_of(function), PROMPTS, completions, columns)


def test_a_row_function_gets_one_value_of_each_column():
    assert scores(row_style) == [2.05, 0.10]


def test_a_column_overrides_a_default():
    assert scores(row_style, COLUMNS | {"scale": [1.0, 1.0]}) == [1.05, 0.10]


def test_a_batch_function_gets_lists():
    assert scores(batch_style) == [1.0, 0.0]


def test_rest_parameters_take_every_column():
    assert scores(taking_all) == [2.0, 2.0]


def test_what_a_function_asks_for_is_read_from_its_parameters():
    found = signature_of(row_style)
    assert (found.batch, found.prompt, found.reads, found.may_read) == (False, True, ("answer",), ("scale",))
    assert found.parameters == ("completion", "prompt", "answer")
    assert signature_of(taking_all).rest


@pytest.mark.parametrize("value", [1, 0.5, True, np.float32(0.5), np.int64(3), torch.tensor(0.5)])
def test_numbers_of_every_library_are_scores(value):
    found = scores(lambda_free(value))
    assert found == [float(value)] * 2
    assert all(type(score) is float for score in found)


def lambda_free(value):
    def fixed(completion):
        return value

    return fixed


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_arrays_and_tensors_are_lists_of_scores(values):
    for made in (tuple(values), np.array(values), torch.tensor(values, dtype=torch.float64), iter(values)):
        assert scores(batch_of(made)) == values


def batch_of(value):
    def fixed(completions):
        return value

    return fixed


@pytest.mark.parametrize(
    ("function", "problem", "row"),
    [
        (lambda_free(None), "returned None (does every way through it end in a return?)", 0),
        (lambda_free("good"), "returned good, a str, not a number", 0),
        (lambda_free([1.0]), "returned [1.0], a list, not a number", 0),
        (lambda_free(math.nan), "returned nan, which is no finite number", 0),
        (lambda_free(math.inf), "returned inf, which is no finite number", 0),
        (batch_of(1.0), "returned 1.0, a float, not a list of 2 scores", None),
        (batch_of([1.0]), "returned 1 scores for 2 answers", None),
        (batch_of([1.0, None]), "returned None (does every way through it end in a return?)", 1),
        (batch_of({"a": 1}), "returned {'a': 1}, a dict, not a list of 2 scores", None),
    ],
)
def test_what_is_no_score_is_named_with_its_row(function, problem, row):
    with pytest.raises(ScoreError) as caught:
        scores(function)
    assert (caught.value.problem, caught.value.row) == (problem, row)


def failing(completion):
    return 1 / (2 - int(completion))


def test_a_function_that_raises_is_named_with_its_row_and_line():
    with pytest.raises(ScoreError) as caught:
        scores(failing)
    assert caught.value.row == 1
    assert caught.value.problem.startswith("failed with ZeroDivisionError: division by zero (line ")
    assert caught.value.problem.endswith(": return 1 / (2 - int(completion)))")


def test_a_column_that_rows_lack_is_named():
    with pytest.raises(ScoreError, match="asks for 'answer', which is no column of these rows"):
        scores(batch_style, {})


def misspelt(completion, anser):
    return 0.0


def only_answer(answer):
    return 0.0


def both(completion, completions):
    return 0.0


def positional(completion, /):
    return 0.0


async def waiting(completion):
    return 0.0


def yielding(completions):
    yield 0.0


class Scorer:
    def __call__(self, completion):
        return 0.0

    def method(self, completion):
        return 0.0


def plural(completion, prompts):
    return 0.0


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (only_answer, "reward 'only_answer' asks for (answer): no completion among them."),
        (both, "reward 'both' asks for both completion and completions."),
        (positional, "reward 'positional' has parameters without a name to give them by (*args or `/`)."),
        (waiting, "reward 'waiting' is async or yields, not a plain function."),
        (yielding, "reward 'yielding' is async or yields, not a plain function."),
        (lambda completion: 0.0, "reward '<lambda>' is a lambda, which has no name to be known by, not a plain function."),
        (functools.partial(misspelt, anser=1), "reward 'partial' is a functools.partial, not a plain function."),
        (Scorer, "reward 'Scorer' is a class, not a plain function."),
        (Scorer(), "reward 'Scorer' is a Scorer object, not a plain function."),
        (Scorer().method, "reward 'method' is a method, not a plain function."),
        (len, "reward 'len' is a builtin_function_or_method object, not a plain function."),
        (5, "reward 'int' is a int, not a plain function."),
    ],
)  # fmt: skip
def test_only_plain_functions_of_an_answer_are_rewards(function, problem):
    with pytest.raises(SpecError) as caught:
        signature_of(function)
    assert caught.value.problem == problem


def test_a_parameter_that_is_no_column_is_named_with_the_nearest_one():
    with pytest.raises(SpecError) as caught:
        check_columns(signature_of(misspelt), ["prompt", "answer", "level"])
    assert caught.value.problem == (
        "reward 'misspelt' asks for 'anser', which is no column of the data. Did you mean 'answer'?"
    )
    assert (
        caught.value.instead
        == "Columns: answer, level. Besides them a reward may ask for prompt and completion."
    )
    with pytest.raises(SpecError, match="Did you mean 'prompt'"):
        check_columns(signature_of(plural), ["answer"])
    check_columns(signature_of(row_style), ["answer"])
