import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.errors import SpecError
from ft_magic.shell import yaml_body
from ft_magic.shell.yaml_body import Reference


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2.5E+3", 2500.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("0x10", "0x10"),
        ("007", "007"),
        ("null", None),
        ("~", None),
        ("", None),
        ("$ds", Reference("ds")),
        ("$größe", Reference("größe")),
        ("'$ds'", "$ds"),
        ("$HOME/data.json", "$HOME/data.json"),
        ("[1, $x, {a: $y}]", [1, Reference("x"), {"a": Reference("y")}]),
        ("C:\\data\\x.json", "C:\\data\\x.json"),
        ("it's", "it's"),
        ("<<", "<<"),
        ("$ds   # the training data", Reference("ds")),
    ],
)
def test_a_value_is_read_as_a_person_means_it(text, value):
    read = yaml_body.load(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


def test_an_empty_body_is_an_empty_mapping():
    assert yaml_body.load("") == yaml_body.load("\n# model: demo\n\n") == {}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_python_prints_is_read_back(number):
    assert yaml_body.load(f"key: {number!r}") == {"key": number}


@given(st.integers())
def test_every_integer_is_read_back(number):
    assert yaml_body.load(f"key: {number}") == {"key": number}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_our_error(text):
    try:
        read = yaml_body.load(text)
    except SpecError:
        return
    assert isinstance(read, dict)
    assert all(isinstance(key, str) for key in read)


@pytest.mark.parametrize(
    ("body", "line", "instead"),
    [
        ("model: demo\nsystem: {a} and {b}", 2, "in quotes: `system: '{a} and {b}'`"),
        ("model: demo\nlearning_rate:2e-4\nseed: 1", 2, "a space after the colon: `learning_rate: 2e-4`"),
        ("model=demo", 1, "`model: demo`"),
        ("a: b: c", 1, "in quotes: `a: 'b: c'`"),
        ("a: *.json", 1, "in quotes: `a: '*.json'`"),
        ("a: @x", 1, "in quotes"),
        ("a: [1, 2\nb: 3", 1, "Close the bracket"),
        ("a: 'x", 1, "Close the quote"),
        ('a: "C:\\data"', 1, "single quotes"),
        ("a: 1\n\tb: 2", 2, "spaces"),
        ("model: demo\n  seed: 1", 2, "same column"),
        ("- a", 1, "`key: value`"),
        ("hello", 1, "`key: value`"),
        ("1: 2", 1, "`key: value`"),
        ("a: 1\n---\nb: 2", 2, "`key: value`"),
        ("a: !!python/object/apply:os.getcwd []", 1, "in quotes"),
    ],
)
def test_a_line_that_cannot_be_read_is_shown_with_what_to_write(body, line, instead):
    with pytest.raises(SpecError) as caught:
        yaml_body.load(body)
    assert caught.value.problem.startswith(f"body line {line}:")
    assert body.splitlines()[line - 1].strip() in caught.value.problem
    assert instead in caught.value.instead


def test_a_key_given_twice_names_both_lines():
    with pytest.raises(SpecError, match=r"line 3: 'seed' is given twice \(first in line 1\)"):
        yaml_body.load("seed: 1\nmodel: demo\nseed: 2")


def test_a_key_given_twice_in_a_nested_map_is_refused():
    with pytest.raises(SpecError, match="'a' is given twice"):
        yaml_body.load("trainer:\n  a: 1\n  a: 2")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("'2'", "2"),
        ('"a b"', "a b"),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("{a: 1}", {"a": 1}),
        ("$run", Reference("run")),
        ("no", "no"),
        ("a: b", "a: b"),
        ("*.json", "*.json"),
        ("@x", "@x"),
        ("#1", "#1"),
    ],
)
def test_a_value_on_the_line_is_read_as_in_the_body(text, value):
    assert yaml_body.load_value(text) == value


def test_an_open_bracket_on_the_line_is_refused():
    with pytest.raises(SpecError, match="bracket"):
        yaml_body.load_value("[a, b")


def test_variables_take_the_place_of_references_in_lists_and_maps():
    thing = object()
    values = yaml_body.load("data: $d\nrewards: [$d, plain]\ntrainer: {x: $d}")
    assert yaml_body.resolve(values, {"d": thing}) == {
        "data": thing,
        "rewards": [thing, "plain"],
        "trainer": {"x": thing},
    }


def test_a_missing_variable_names_the_nearest_one():
    with pytest.raises(SpecError, match=r"no variable 'prfs'\. Did you mean 'prefs'"):
        yaml_body.resolve({"data": Reference("prfs")}, {"prefs": 1, "_prfs": 2})


def test_outside_a_notebook_there_are_no_variables():
    with pytest.raises(SpecError, match="outside a notebook"):
        yaml_body.resolve({"data": Reference("prefs")}, None)
