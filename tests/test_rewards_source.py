import ast
import functools
import json
import linecache
import math
import re
import statistics as stats
import urllib.parse
from collections import Counter
from decimal import Decimal as Exact
from random import choice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.errors import SpecError
from ft_magic.rewards.answers import final_number
from ft_magic.rewards.literal import NotLiteralError, literal
from ft_magic.rewards.source import gather

WORDS = {"red", "green"}
POINTS = {"short": 0.5, "limits": [1, None, True], "pair": (1,)}
PATTERN = re.compile(r"\d+", re.IGNORECASE)
SESSION = object()
HUGE = "x" * 1_000_001
API_KEY = "abc"
MARK = "hf_abcdefghijklmnop"


def alone(function):
    """Return the function as it is in another process: made from its source in an empty namespace."""
    namespace = {}
    exec(compile(gather({function.__name__: function}), "rewards.py", "exec"), namespace)
    return namespace[function.__name__]


def using_constants(completion):
    found = sum(word in WORDS for word in completion.split()) * POINTS["short"]
    return found + len(PATTERN.findall(completion))


def using_modules(completion):
    quoted = urllib.parse.quote("a b")
    return math.sqrt(len(json.loads(completion))) + stats.fmean([1, 2]) + len(quoted)


def using_names(completion):
    number = final_number(completion)
    return float(number == Exact(42)) + Counter(completion)["4"] + choice([1, 1])


@functools.lru_cache
def doubled(value):
    return 2 * value


def is_even(number):
    return number == 0 or is_odd(number - 1)


def is_odd(number):
    return number != 0 and is_even(number - 1)


def using_helpers(completion: "str", scale: float = POINTS["short"]) -> "NoSuchType":  # noqa: F821
    """Use cached, mutually recursive and nested helpers."""

    class Local:
        size = len(completion)
        twice = doubled(size)

    def inner(value):
        return value + Local.twice

    return scale * inner(float(is_even(len(completion)))) + sum(x for x in (1, 2))


@pytest.mark.parametrize(
    ("function", "completion"),
    [
        (using_constants, "red green 7 8"),
        (using_modules, "[1, 2]"),
        (using_names, "42"),
        (using_helpers, "four"),
    ],
)
def test_a_function_works_alone_with_what_it_uses(function, completion):
    copy = alone(function)
    assert copy(completion) == function(completion)
    assert copy.__globals__ is not function.__globals__


def test_the_module_holds_what_is_used_and_nothing_else():
    text = gather({"using_names": using_names})
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    assert [(node.module, node.names[0].name) for node in imports] == [
        ("__future__", "annotations"),
        ("collections", "Counter"),
        ("decimal", "Decimal"),
        ("random", "choice"),
        ("ft_magic.rewards.answers", "final_number"),
    ]
    assert "WORDS" not in text


def test_two_functions_share_their_helper():
    text = gather({"using_helpers": using_helpers, "is_odd": is_odd})
    assert text.count("def is_odd(") == 1
    assert text.count("def is_even(") == 1


def test_functions_of_notebook_cells_are_found_by_the_text_ipython_keeps():
    cell = "LIMIT = 3\ndef short(completion):\n    return float(len(completion) < LIMIT)\n"
    linecache.cache["<cell 1>"] = (len(cell), None, cell.splitlines(keepends=True), "<cell 1>")
    namespace = {"__name__": "__main__"}
    exec(compile(cell, "<cell 1>", "exec"), namespace)
    assert alone(namespace["short"])("ab") == 1.0


def closure():
    captured = 3

    def reward(completion):
        return captured

    return reward


def made_from_text():
    namespace = {}
    exec("def reward(completion): return 1.0", namespace)
    return namespace["reward"]


def using_object(completion):
    return SESSION is None


def using_class(completion):
    return isinstance(completion, Holder)


class Holder:
    pass


def using_huge(completion):
    return len(HUGE)


def using_secret(completion):
    return len(API_KEY)


def using_token(completion):
    return len(MARK)


def using_undefined(completion):
    return not_there(completion)  # noqa: F821


def using_local_module(completion):
    return rows.anything(completion)


import rows  # noqa: E402


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (closure(), "reward 'reward' uses 'captured' of the function around it, which does not travel to the training process."),
        (made_from_text(), "reward 'reward': the source of 'reward' cannot be found."),
        (using_object, "reward 'using_object' uses 'SESSION' of type object, which cannot be written into the run's files."),
        (using_class, "reward 'using_class' uses 'Holder', a class, which cannot be written into the run's files."),
        (using_huge, "reward 'using_huge' uses 'HUGE', which is 1,000,003 characters long when written down."),
        (using_secret, "reward 'using_secret' uses 'API_KEY', which looks like a secret; it would be written into the run's files."),
        (using_token, "reward 'using_token' uses 'MARK', which looks like a secret; it would be written into the run's files."),
        (using_undefined, "reward 'using_undefined' uses 'not_there', which is not defined."),
        (using_local_module, "reward 'using_local_module' uses module 'rows', which is not installed: the training process may not find it."),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_named(function, problem):
    with pytest.raises(SpecError) as caught:
        gather({function.__name__: function})
    assert caught.value.problem == problem


def test_one_name_for_two_things_is_refused():
    def cell(limit):
        text = f"LIMIT = {limit}\ndef f{limit}(completion):\n    return LIMIT\n"
        name = f"<cell {limit}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        namespace = {}
        exec(compile(text, name, "exec"), namespace)
        return namespace[f"f{limit}"]

    with pytest.raises(SpecError, match="uses 'LIMIT', and another reward of this run uses something else"):
        gather({"f1": cell(1), "f2": cell(2)})


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


@given(
    st.recursive(
        SIMPLE,
        lambda inner: (
            st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
        ),
        max_leaves=10,
    )
)
def test_a_literal_makes_an_equal_value(value):
    made = eval(literal(value))
    assert made == value
    assert type(made) is type(value)


def test_what_has_no_literal_is_told():
    endless = []
    endless.append(endless)
    for value in (object(), [object()], endless, Exact(1), type("Own", (int,), {})(3)):
        with pytest.raises(NotLiteralError):
            literal(value)
