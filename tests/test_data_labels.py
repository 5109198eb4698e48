"""Judged answers: which columns are labels, which values say good or bad, what is off in them."""

import json
from pathlib import Path

import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.data import Data, load_data
from ft_magic.data.labels import as_label, balancing_weights
from ft_magic.errors import DataError

KTO = Path(__file__).parents[2] / "shared" / "data" / "kto_en_demo.json"
USER, GOOD = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: text.strip())
WRITTEN = {
    True: [True, 1, 1.0, "true", "True", "TRUE", "1", "good", "Good", "thumbs up", "thumbs_up", "👍", "up"],
    False: [False, 0, 0.0, "false", "False", "0", "bad", "BAD", "thumbs down", "thumbs-down", "👎", "down"],
}
# what stands before the label -> the row without it
FORMS = [
    ({"prompt": "P", "completion": "C"}, {"prompt": "P", "completion": "C"}),
    ({"question": "P", "answer": "C"}, {"prompt": "P", "completion": "C"}),
    ({"instruction": "P", "input": "X", "output": "C"}, {"prompt": "P\n\nX", "completion": "C"}),
    ({"messages": [USER, GOOD]}, {"prompt": [USER], "completion": [GOOD]}),
    ({"prompt": [USER], "completion": [GOOD]}, {"prompt": [USER], "completion": [GOOD]}),
    ({"prompt": [USER], "completion": "Hello"}, {"prompt": [USER], "completion": [GOOD]}),
    (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"prompt": [USER], "completion": [GOOD]},
    ),
    (
        {"prompt": "Hi", "completion": "Hello", "system": "S"},
        {"prompt": [{"role": "system", "content": "S"}, USER], "completion": [GOOD]},
    ),
]


@pytest.mark.parametrize(("written", "row"), FORMS)
@pytest.mark.parametrize("column", ["label", "kto_tag", "thumbs_up"])
def test_answers_with_a_boolean_beside_them_are_judged_answers(written, row, column):
    data = load_data([{**written, column: True}, {**written, column: False}])
    assert data.signal == "label"
    assert data.rows == ({**row, "label": True}, {**row, "label": False})
    assert data.columns["label"] == column


@given(st.lists(st.sampled_from([*WRITTEN[True], *WRITTEN[False]]), min_size=2, max_size=8))
def test_every_way_to_write_a_label_means_what_it_says(values):
    made = [{"prompt": f"p{i}", "completion": "c", "label": value} for i, value in enumerate(values)]
    wanted = [any(value is good for good in WRITTEN[True]) for value in values]
    loaded = load_data(made, signal="label")
    assert [row["label"] for row in loaded] == wanted
    if len(set(wanted)) == 2:
        assert load_data(made).rows == loaded.rows


@given(st.lists(st.tuples(TEXT, TEXT, st.booleans()), min_size=1, max_size=20))
def test_judged_answers_survive_the_way_through_a_file_and_through_the_guess(tmp_path_factory, triples):
    made = [{"prompt": p, "completion": c, "label": good} for p, c, good in triples]
    data = load_data(made)
    assert (data.signal, list(data.rows)) == ("label", made)
    path = data.to_jsonl(tmp_path_factory.mktemp("rows") / "a.jsonl")
    assert (Data.from_jsonl(path).signal, Data.from_jsonl(path).rows) == ("label", data.rows)
    assert load_data(path).rows == data.rows


def test_labels_of_tables_are_text_and_numbers_of_their_own(tmp_path):
    import pandas as pd

    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,label\na,b,True\nc,d,False\ne,f,\n", encoding="utf-8")
    for source in (path, pd.read_csv(path)):
        data = load_data(source)
        assert [row["label"] for row in data] == [True, False]
        assert data.dropped.reasons == {"no label": 1}


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4, 5],
        [0, 1, 0.5],
        [1, 1, 1],
        ["yes", "no"],
        ["positive", "negative"],
        [True, "maybe"],
        [None, None],
    ],
)
def test_what_is_no_judgement_stays_a_column_that_is_not_used(values):
    data = load_data([{"prompt": "p", "completion": f"c{i}", "label": v} for i, v in enumerate(values)])
    assert (data.signal, len(data)) == ("demo", len(values))
    assert "columns not used: label" in data.lineage


def test_a_rating_is_never_taken_for_a_label_by_its_name():
    made = [{"prompt": "p", "completion": "c", "rating": value} for value in (0, 1, 1)]
    assert load_data(made).signal == "demo"
    pinned = {"prompt": "prompt", "completion": "completion", "label": "rating"}
    assert [row["label"] for row in load_data(made, columns=pinned)] == [False, True, True]


@pytest.mark.parametrize("value", [4, -1, 0.5, "maybe", "yes", {"a": 1}])
def test_values_that_are_no_label_are_named_where_labels_are_asked_for(value):
    made = [{"prompt": "p", "completion": "c", "label": v} for v in (1, 0, value)]
    with pytest.raises(DataError) as caught:
        load_data(made, signal="label")
    assert str(value) in str(caught.value)
    assert "neither good nor bad" in str(caught.value)
    assert "true/false" in str(caught.value)
    assert as_label(value) is None


def test_the_label_column_that_judges_is_found_beside_one_that_does_not():
    row = {"prompt": "p", "completion": "c", "label": 3}
    data = load_data([{**row, "thumbs_up": True}, {**row, "thumbs_up": False}])
    assert data.columns["label"] == "thumbs_up"


def test_text_with_classes_and_pairs_with_labels_are_read_as_before():
    assert load_data([{"text": "T", "label": 1}, {"text": "U", "label": 0}]).signal == "text"
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "label": True}
    assert load_data([pair, {**pair, "label": False}]).signal == "pair"


def test_the_last_answer_of_a_conversation_is_the_judged_one():
    later = [USER, GOOD, {"role": "user", "content": "More"}, {"role": "assistant", "content": "Bye"}]
    made = [{"messages": [*later, USER], "label": True}, {"messages": [USER], "label": False}]
    data = load_data(made)
    assert data[0] == {"prompt": later[:3], "completion": later[3:], "label": True}
    assert data.dropped.reasons == {"no assistant turn": 1}
    assert any("cut after their last answer" in note for note in data.lineage)


def test_empty_answers_are_kept_out_and_counted():
    data = load_data([*rows.labels(4), {"prompt": "p", "completion": " ", "label": True}])
    assert (len(data), data.dropped.reasons) == (4, {"empty answer": 1})
    made = Data((*rows.labels(4), {"prompt": "p", "completion": " ", "label": True}), "label")
    assert next(f for f in made.report().findings if f.name == "empty").examples == (4,)
    assert len(made.fix("empty")) == 4


def labelled(good, bad):
    return tuple(
        {"prompt": f"Question {i}?", "completion": f"Answer {i:04}.", "label": i < good}
        for i in range(good + bad)
    )


def findings(made):
    return {finding.name: finding for finding in Data(tuple(made), "label").report().findings}


def test_the_report_counts_good_and_bad_answers():
    found = findings(labelled(100, 60))
    assert set(found) == {"labels"}
    assert (found["labels"].level, found["labels"].message) == ("info", "100 good and 60 bad answers.")


@pytest.mark.parametrize(
    ("good", "bad", "level", "fix"),
    [
        (100, 10, "info", ""),
        (110, 10, "warning", "undesirable_weight: 9.43"),
        (10, 110, "warning", "desirable_weight: 12.83"),
        (110, 0, "warning", "data.to('demo')"),
        (0, 110, "warning", "data.to('demo')"),
    ],
)
def test_lopsided_labels_are_warned_about_with_the_weights_that_balance_them(good, bad, level, fix):
    finding = findings(labelled(good, bad))["labels"]
    assert finding.level == level
    assert fix in finding.fix


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_balancing_weights_lie_in_the_range_of_the_paper(good, bad):
    desirable, undesirable = balancing_weights(good, bad)
    assert 1.0 <= desirable * good / (undesirable * bad) <= 4 / 3  # arXiv 2402.01306, equation 8
    assert 1.0 in (desirable, undesirable)


def test_an_answer_marked_good_and_bad_is_a_contradiction():
    made = labelled(60, 60)
    twice = {**made[3], "label": False}
    assert findings([*made, twice])["contradictions"].examples == (3, 120)
    other = {**made[3], "completion": "Answer 9999.", "label": False}
    assert "contradictions" not in findings([*made, other])
    assert "different_answers" not in findings([*made, other])


def test_good_answers_that_are_always_longer_are_told():
    made = [dict(row, completion=row["completion"] * (2 if row["label"] else 1)) for row in labelled(60, 60)]
    assert "Good answers are 2.00 times as long as bad ones" in findings(made)["length_bias"].message


def test_the_card_shows_the_counts_and_splits_keep_prompts_together():
    data = load_data(rows.pairs(30)).to("label")
    assert "30 good, 30 bad (the first is good)" in data._repr_html_()
    train, held = data.split(0.2)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    assert (len(held), sum(row["label"] for row in held)) == (12, 6)


def test_public_kto_data_is_read_whole():
    if not KTO.is_file():
        pytest.skip(f"the sample data is not here ({KTO})")
    data = load_data(KTO)
    source = json.loads(KTO.read_text(encoding="utf-8"))
    assert (data.signal, len(data), sum(row["label"] for row in data)) == ("label", 300, 150)
    for row, record in zip(data, source, strict=True):
        assert [*row["prompt"], *row["completion"]] == [
            {"role": turn["role"], "content": turn["content"]} for turn in record["messages"]
        ]
        assert [turn["role"] for turn in row["completion"]] == ["assistant"]
    assert len(load_data(KTO, signal="demo")) == 300
    assert len(data.to("demo")) == 150
