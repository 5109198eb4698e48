"""Prompts alone: when they are recognised, and that every other column reaches reward functions."""

import datetime as dt
import json
from pathlib import Path

import pytest
import rows

from ft_magic.data import Data, load_data
from ft_magic.errors import DataError

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_test.jsonl"
USER, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("written", "row"),
    [
        ({"prompt": "P"}, {"prompt": "P"}),
        ({"Question": "P"}, {"prompt": "P"}),
        ({"instruction": "P", "input": "X"}, {"prompt": "P\n\nX"}),
        ({"prompt": [USER]}, {"prompt": [USER]}),
        ({"messages": [USER]}, {"prompt": [USER]}),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, {"prompt": [USER]}),
        ({"prompt": "Hi", "system": "S"}, {"prompt": [{"role": "system", "content": "S"}, USER]}),
        ({"prompt": "P", "tests": ["a", 1], "level": 2}, {"prompt": "P", "tests": ["a", 1], "level": 2}),
    ],
)
def test_a_prompt_without_anything_that_could_answer_it_is_a_prompt_row(written, row):
    data = load_data([written, written])
    assert (data.signal, data.rows) == ("prompt", (row, row))


@pytest.mark.parametrize(
    ("written", "signal"),
    [
        ({"prompt": "P", "answer": "A"}, "demo"),
        ({"prompt": "P", "text": "T"}, "text"),
        ({"messages": [USER, HELLO]}, "demo"),
        ({"messages": [USER, HELLO, USER]}, "demo"),
        ({"prompt": "P", "chosen": "C", "rejected": "R"}, "pair"),
    ],
)
def test_data_with_answers_is_no_prompt_data(written, signal):
    assert load_data([written]).signal == signal


@pytest.mark.parametrize(
    "written", [{"prompt": "P", "chosen": "C"}, {"input": "P"}, {"user": "Anna", "note": "x"}]
)
def test_what_may_be_something_else_is_not_guessed_but_can_be_named(written):
    with pytest.raises(DataError, match="fit no known shape"):
        load_data([written])
    assert load_data([written], columns={"prompt": next(iter(written))}).signal == "prompt"


def test_columns_keep_names_and_values_and_every_row_has_all_of_them():
    made = [
        {"prompt": "a", "tests": [1, {"in": "x"}], "level": 3, "hard": True},
        {"prompt": "b", "level": float("nan"), "late": dt.date(2026, 1, 2)},
    ]
    data = load_data(made)
    assert data.rows == (
        {"prompt": "a", "tests": [1, {"in": "x"}], "level": 3, "hard": True, "late": None},
        {"prompt": "b", "tests": None, "level": None, "hard": None, "late": "2026-01-02"},
    )
    assert "columns kept for reward functions: tests, level, hard, late" in data.lineage


def test_values_of_tables_become_plain_json(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"prompt": ["a", "b"], "n": [1, 2], "xs": [[1, 2], [3]], "ok": [True, False]})
    frame.to_parquet(tmp_path / "a.parquet")
    wanted = (
        {"prompt": "a", "n": 1, "xs": [1, 2], "ok": True},
        {"prompt": "b", "n": 2, "xs": [3], "ok": False},
    )
    for source in (frame, tmp_path / "a.parquet"):
        data = load_data(source)
        assert data.rows == wanted
        again = Data.from_jsonl(data.to_jsonl(tmp_path / "a.jsonl"))
        assert (again.signal, again.rows) == ("prompt", wanted)


def test_columns_whose_names_mean_something_else_in_a_row_are_renamed_and_said(tmp_path):
    made = [{"q": "a", "text": "t", "completion": "c", "prompt": "p", "prompt_ids": 3}]
    data = load_data(made, signal="prompt", columns={"prompt": "q"})
    assert data.rows == ({"prompt": "a", "text_": "t", "completion_": "c", "prompt_": "p", "prompt_ids_": 3},)
    assert any("'text' is called 'text_'" in note for note in data.lineage)
    both = load_data([{"prompt": "a", "text": 1, "text_": 2}], signal="prompt")
    assert both.rows == ({"prompt": "a", "text__": 1, "text_": 2},)
    assert Data.from_jsonl(data.to_jsonl(tmp_path / "a.jsonl")).signal == "prompt"


def test_broken_unicode_in_any_column_is_repaired():
    data = load_data(json.loads('[{"prompt": "a", "deep": [{"x": "b\\ud83d"}]}]'))
    assert data.rows == ({"prompt": "a", "deep": [{"x": "b\ufffd"}]},)


def test_prompts_asked_of_questions_with_answers_keep_the_answer_and_more():
    made = [
        {"question": "2 + 2?", "answer": 4, "level": 1},
        {"question": "1 + 1?", "answer": None, "level": 2},
    ]
    data = load_data(made, signal="prompt")
    assert data.rows == (
        {"prompt": "2 + 2?", "answer": "4", "level": 1},
        {"prompt": "1 + 1?", "answer": None, "level": 2},
    )
    assert any("1 x prompts without an answer" in note for note in data.lineage)
    named = load_data([{"prompt": "p", "completion": "steps", "answer": "4"}], signal="prompt")
    assert named.rows == ({"prompt": "p", "answer": "4", "completion_": "steps"},)


def test_prompts_asked_of_conversations():
    talk = [USER, HELLO, {"role": "user", "content": "More"}]
    assert load_data([{"messages": talk}], signal="prompt").rows == ({"prompt": talk},)
    done = load_data([{"messages": [*talk, HELLO]}], signal="prompt")
    assert done.rows == ({"prompt": talk, "answer": "Hello"},)
    assert load_data([{"messages": [*talk, HELLO]}]).to("prompt").rows == done.rows
    mixed = load_data([{"prompt": [USER]}, {"prompt": [USER, HELLO]}])
    assert mixed.dropped.reasons == {"the prompt ends with an answer": 1}


def test_conversations_without_answers_beside_a_known_answer_are_prompts_where_that_is_said():
    made = [{"messages": [USER], "answer": "42"}]
    with pytest.raises(DataError, match="or signal='prompt'"):
        load_data(made)
    assert load_data(made, signal="prompt").rows == ({"prompt": [USER], "answer": "42"},)
    with pytest.raises(DataError, match="fit no known shape with"):
        load_data([{"q": "a", "a": "b"}], columns={"prompt": "q", "answer": "a"})


def test_prompts_asked_of_pairs_are_converted_and_said():
    data = load_data(rows.pairs(3), signal="prompt")
    assert data[1] == {"prompt": "Name colour 1.", "answer": "blue is a colour."}
    assert any(note.startswith("3 pair rows became 3 prompt rows") for note in data.lineage)


def test_empty_prompts_are_kept_out_and_counted():
    data = load_data([{"prompt": "a"}, {"prompt": " "}, {"prompt": None}, {"prompt": "b", "x": b"1"}])
    assert data.dropped.reasons == {"empty prompt": 2, "'x' holds bytes": 1}


def test_report_and_card_of_prompts_look_at_prompts_alone():
    made = [
        {"prompt": f"Question {i:03}?", "answer": "yes", "tests": {"{{name}}": ["<br>"]}} for i in range(120)
    ]
    data = load_data(made, signal="prompt")
    assert data.report().findings == ()
    assert data.report().length_max == len("Question 000?")
    card = data._repr_html_()
    assert "answer, tests" in card
    repeated = Data((*data.rows, data.rows[0]), "prompt")
    assert [finding.name for finding in repeated.report().findings] == ["duplicates"]
    train, held = repeated.split(0.1)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}


def test_public_questions_become_the_same_prompts_both_ways():
    if not GSM8K.is_file():
        pytest.skip(f"the sample data is not here ({GSM8K})")
    asked = load_data(GSM8K, signal="prompt")
    assert asked.rows == load_data(GSM8K).to("prompt").rows
    assert (len(asked), list(asked[0])) == (1319, ["prompt", "answer"])
    assert "####" in asked[0]["answer"]
