import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.errors import SpecError
from ft_magic.rewards.answers import contains, exact_answer, final_number, regex
from ft_magic.rewards.catalogue import BUILT_IN, check
from ft_magic.rewards.form import json_schema, language, length, no_repetition


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("17 + 25 = 42", "42"),
        ("She has $1,234.50.", "1234.5"),
        ("It rose by 50%.", "50"),
        ("#### 1,000\nThank you, in 3 minutes", "1000"),
        ("first #### 7, then #### 8", "8"),
        ("### 5 ####\n-9", "-9"),
        ("#### Step 2: add\nSo it is 18", "18"),
        ("3-5", "5"),
        ("3 - 5 = -2", "-2"),
        ("minus \u22127", "-7"),
        ("a loss of -$20", "-20"),
        ("a loss of $-20", "-20"),
        ("x = 3,4", "4"),
        ("1,2345", "2345"),
        ("about .5", "0.5"),
        ("3.14.15", "15"),
        ("007", "7"),
        ("no number here", None),
        ("", None),
    ],
)
def test_the_final_number_is_read_as_people_write_it(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=2),
    st.sampled_from(["{}", "{:,}", "#### {:,}", "It is {}."]),
)
def test_any_number_is_read_back_from_any_of_its_spellings(value, form):
    assert final_number(form.format(value)) == value


@given(st.text())
def test_no_text_breaks_the_number_reader(text):
    number = final_number(text)
    assert number is None or any(char in text for char in "0123456789")


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("... so 72 clips.", "Natalia sold 48+24\n#### 72", 1.0),
        ("72.0", "72", 1.0),
        ("$72", "72", 1.0),
        ("720", "72", 0.0),
        ("I do not know", "72", 0.0),
        ("72", 72, 1.0),
        ("The capital is\n**Paris**.", "paris", 1.0),
        ("Paris is nice", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("", "", 0.0),
    ],
)
def test_exact_answer_compares_final_answers(completion, answer, score):
    assert exact_answer()(completion, {"answer": answer}) == score


def test_exact_answer_reads_the_column_it_is_told():
    assert exact_answer("solution")("5", {"answer": "4", "solution": "5"}) == 1.0


def test_regex_looks_for_its_pattern_anywhere_unless_it_is_anchored():
    assert regex(r"\d+")("a 7 b", {}) == 1.0
    assert regex(r"^\d+$")("a 7 b", {}) == 0.0
    assert regex("yes", ignore_case=True)("YES!", {}) == 1.0
    assert regex("yes")("YES!", {}) == 0.0


def test_contains_gives_the_share_of_texts_found():
    assert contains(text="paris")("In Paris.", {}) == 1.0
    assert contains(text="paris", ignore_case=False)("In Paris.", {}) == 0.0
    assert contains(text=["a", "b", "z"])("abc", {}) == pytest.approx(2 / 3)
    assert contains(column="words")("red, blue", {"words": ["red", "green"]}) == 0.5
    assert contains(column="words")("red", {"words": []}) == 0.0


@pytest.mark.parametrize(
    ("words", "score"), [(0, 0.0), (2, 0.5), (4, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (50, 0.0)]
)
def test_length_is_full_within_its_limits_and_falls_in_proportion_outside(words, score):
    assert length(min=4, max=10)("w " * words, {}) == pytest.approx(score)


def test_length_counts_characters_where_told():
    assert length(max=10, unit="characters")("x" * 15, {}) == 0.5


@given(st.text(), st.floats(1, 50), st.floats(1, 50))
def test_length_stays_between_0_and_1(text, one, other):
    assert 0 <= length(min=min(one, other), max=max(one, other))(text, {}) <= 1


def test_no_repetition_is_the_share_of_different_runs():
    assert no_repetition()("a b c d", {}) == 1.0  # abc bcd
    assert no_repetition()("ha ha ha ha", {}) == 0.5  # ha-ha-ha twice
    assert no_repetition(n=1)("a a b", {}) == pytest.approx(2 / 3)
    assert no_repetition(n=2, unit="characters")("abab", {}) == pytest.approx(2 / 3)  # ab ba ab
    assert no_repetition()("too short", {}) == 1.0


SCHEMA = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ('{"name": "Ann", "age": 3}', 1.0),
        ('{"name": "Ann", "age": "three"}', 0.25),
        ("[1]", 0.25),
        ('{"name": NaN}', 0.0),
        ('Here: {"name": "Ann"}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_that_fits_scores_full_and_other_json_in_part(completion, score):
    assert json_schema(SCHEMA, partial=0.25)(completion, {}) == score


def test_json_in_a_fence_counts_only_where_told():
    fenced = '```json\n{"name": "Ann"}\n```'
    assert json_schema(SCHEMA)(fenced, {}) == 0.0
    assert json_schema(SCHEMA, fenced=True)(fenced, {}) == 1.0
    assert json_schema()("[1, 2]", {}) == 1.0


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_json_has_full_score_without_a_schema(value):
    assert json_schema()(json.dumps(value), {}) == 1.0


def test_language_is_a_probability():
    german = language("de", among=["de", "en"])
    assert german("Die Hauptstadt von Frankreich ist Paris, das weiss jedes Kind.", {}) > 0.9
    assert german("The capital of France is Paris, as every child knows.", {}) < 0.1
    assert german("42", {}) == 0.0
    assert language("zh")("\u8fd9\u662f\u4e00\u4e2a\u6d4b\u8bd5", {}) > 0.5


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_is_explained_with_an_example(name):
    row = BUILT_IN[name]
    assert row.title.endswith(".")
    assert row.values
    assert name in row.example


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("regex", {}, "reward 'regex' needs pattern: regular expression."),
        ("regex", {"pattern": "("}, "reward 'regex': the pattern '(' is no regular expression: missing ), unterminated subpattern at position 0."),
        ("regex", {"patern": "a"}, "reward 'regex' has no parameter 'patern'. Did you mean 'pattern'?"),
        ("length", {}, "reward 'length' has neither min nor max."),
        ("length", {"min": 5, "max": 4}, "reward 'length': min 5 is above max 4."),
        ("length", {"max": "ten"}, "reward 'length': max is 'ten', not a number above 0."),
        ("length", {"max": 10, "unit": "tokens"}, "reward 'length': unit is 'tokens', not words or characters."),
        ("no_repetition", {"n": 0}, "reward 'no_repetition': n is 0, not a whole number of at least 1."),
        ("contains", {}, "reward 'contains' takes either text or column."),
        ("contains", {"text": "a", "column": "answer"}, "reward 'contains' takes either text or column."),
        ("exact_answer", {"column": "anser"}, "reward 'exact_answer' reads column 'anser', which the data does not have. Did you mean 'answer'?"),
        ("json_schema", {"schema": {"type": "objekt"}}, "reward 'json_schema': the schema is wrong at type: 'objekt' is not valid under any of the given schemas."),
        ("language", {"language": "deu"}, "reward 'language': 'deu' is no language code it knows."),
        ("language", {"language": "de", "among": ["xx"]}, "reward 'language': 'xx' is no language code it knows."),
    ],
)  # fmt: skip
def test_impossible_parameters_are_refused_by_name(name, given, problem):
    with pytest.raises(SpecError) as caught:
        check(BUILT_IN[name], given, ["answer"])
    assert caught.value.problem == problem


def test_a_schema_refers_to_its_own_parts_only():
    own = {"$ref": "#/$defs/name", "$defs": {"name": {"type": "string"}}}
    assert json_schema(own)('"Ann"', {}) == 1.0
    with pytest.raises(SpecError, match=r"refers to 'https://example.com/x.json', which is not in it"):
        json_schema({"properties": {"a": {"anyOf": [{"$ref": "https://example.com/x.json"}]}}})


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("ft_magic.rewards.form.find_spec", lambda _: None)
    for name, asked in (("json_schema", {"schema": SCHEMA}), ("language", {"language": "de"})):
        with pytest.raises(SpecError, match="is not installed") as caught:
            check(BUILT_IN[name], asked, [])
        assert "ft-magic[rewards]" in caught.value.instead
