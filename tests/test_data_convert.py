"""Data.to: what each signal's rows become, how many, and what cannot be."""

import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.axes import SIGNALS
from ft_magic.data import Data, load_data
from ft_magic.data.convert import CONVERSIONS
from ft_magic.errors import DataError, SpecError

TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text.strip())
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "S"}


def said(text):
    return {"role": "assistant", "content": text}


def answers(row):
    return (
        [turn["content"] for turn in row["completion"]]
        if isinstance(row["completion"], list)
        else [row["completion"]]
    )


@st.composite
def pair_rows(draw):
    prompt, chosen, rejected = draw(TEXT), draw(TEXT), draw(TEXT)
    if draw(st.booleans()):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {
        "prompt": [SYSTEM, {"role": "user", "content": prompt}],
        "chosen": [said(chosen)],
        "rejected": [said(rejected)],
    }


PAIRS = st.lists(pair_rows(), min_size=1, max_size=15)


def test_every_conversion_the_table_names_exists_and_no_other():
    named = {(row.name, other) for row in SIGNALS.values() for other in row.converts_to}
    assert set(CONVERSIONS) == named


@given(PAIRS)
def test_each_pair_becomes_its_better_answer_as_good_and_its_worse_as_bad(made):
    data = Data(tuple(made), "pair").to("label")
    assert (data.signal, len(data)) == ("label", 2 * len(made))
    assert [row["label"] for row in data] == [True, False] * len(made)
    for index, pair in enumerate(made):
        good, bad = data[2 * index], data[2 * index + 1]
        assert good == {"prompt": pair["prompt"], "completion": pair["chosen"], "label": True}
        assert bad == {"prompt": pair["prompt"], "completion": pair["rejected"], "label": False}


@given(PAIRS)
def test_all_ways_from_pairs_agree(made):
    data = Data(tuple(made), "pair")
    assert data.to("label").to("demo").rows == data.to("demo").rows
    assert data.to("demo").to("prompt").rows == data.to("prompt").rows
    assert [row["answer"] for row in data.to("label").to("prompt").rows[::2]] == [
        row["answer"] for row in data.to("prompt")
    ]
    assert all(row["answer"] is None for row in data.to("label").to("prompt").rows[1::2])


@given(PAIRS)
def test_what_is_converted_reads_as_its_signal_again(tmp_path_factory, made):
    for signal in ("label", "demo", "prompt"):
        data = Data(tuple(made), "pair").to(signal)
        path = data.to_jsonl(tmp_path_factory.mktemp("rows") / "a.jsonl")
        assert (Data.from_jsonl(path).signal, Data.from_jsonl(path).rows) == (signal, data.rows)


def test_only_good_answers_are_imitated():
    data = Data(tuple(rows.labels(6)), "label").to("demo")
    assert data.rows == tuple({k: r[k] for k in ("prompt", "completion")} for r in rows.labels(6)[::2])
    assert data.lineage == ("6 label rows became 3 demo rows: the good answers are kept",)
    with pytest.raises(DataError, match="None of 3 'label' rows"):
        Data(tuple(rows.labels(6)[1::2]), "label").to("demo")


def test_demonstrations_become_prompts_with_their_last_answer():
    talk = [SYSTEM, USER, said("A"), USER, said("B")]
    data = Data(({"messages": talk}, {"prompt": "p", "completion": "c"}), "demo").to("prompt")
    assert data.rows == ({"prompt": talk[:4], "answer": "B"}, {"prompt": "p", "answer": "c"})


def test_repeated_prompts_are_kept_and_counted():
    made = (
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "completion": "b"},
        {"prompt": "q", "completion": "a"},
    )
    data = Data(made, "demo").to("prompt")
    assert len(data) == 3
    assert data.lineage[-1].endswith("; 1 of 3 prompts repeat an earlier one")


def test_the_same_signal_is_the_same_data_and_others_are_refused_by_name():
    data = load_data(rows.demos(3))
    assert data.to("demo") is data
    assert load_data(data, signal="prompt").rows == data.to("prompt").rows
    with pytest.raises(DataError, match="They can become: prompt"):
        data.to("pair")
    with pytest.raises(DataError, match="Load data that carries them"):
        load_data(rows.texts(2)).to("demo")
    with pytest.raises(SpecError, match="Did you mean 'label'"):
        data.to("labels")


def test_loading_converts_where_another_signal_is_asked_for():
    data = load_data(rows.pairs(4), signal="label")
    assert (data.signal, len(data)) == ("label", 8)
    assert any("each pair becomes a good and a bad answer" in note for note in data.lineage)
    assert load_data(rows.pairs(4), signal="demo").rows == load_data(rows.pairs(4)).to("demo").rows
    sharegpt = {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "A"},
        "rejected": {"from": "gpt", "value": "B"},
    }
    assert load_data([sharegpt], signal="demo").rows == ({"messages": [USER, said("A")]},)
    with pytest.raises(DataError, match="fit no known shape for signal 'pair'"):
        load_data(rows.demos(2), signal="pair")


def test_labels_read_from_pairs_carry_the_answers_of_both_sides():
    data = load_data(rows.pairs(2), signal="label")
    assert [answers(row) for row in data] == [
        ["red is a colour."],
        ["No, not 0."],
        ["blue is a colour."],
        ["No, not 1."],
    ]
