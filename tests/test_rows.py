"""Rows as trainers are fed, by the feed of the method; what cannot be fed is left out and counted."""

import json
from types import SimpleNamespace

import pytest
import rows as made
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import make_tokenizer

from ft_magic.axes import METHODS
from ft_magic.backends import rows
from ft_magic.template import Tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Name a colour."}


def said(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(folder)
    return Tokenizer.load(folder)


@pytest.fixture
def fed(tokenizer, tmp_path):
    return lambda *args, **options: feed_into(tmp_path, tokenizer, *args, **options)


def feed_into(folder, tokenizer, feed, given_rows, max_length=200, limit=None, answer=0, train_on="answers"):
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given_rows), encoding="utf-8")
    plan = SimpleNamespace(
        method=SimpleNamespace(feed=feed),
        settings=SimpleNamespace(max_length=max_length, max_completion_length=answer),
        spec=SimpleNamespace(train_on=train_on),
    )
    return rows.tokenized(path, tokenizer, plan, limit)


def prompt(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_every_method_is_fed_in_a_way_that_exists():
    assert {method.feed for method in METHODS.values()} == set(rows.FEEDS)


def test_labels_carry_loss_on_answers_alone(tokenizer, fed):
    talk = [USER, said("Blue."), USER, said("Red.")]
    found = fed("labels", [{"messages": talk}, *made.texts(1), *made.demos(1)]).rows
    for row in found:
        assert len(row["input_ids"]) == len(row["labels"])
        assert all(
            label in (rows.IGNORED, token)
            for token, label in zip(row["input_ids"], row["labels"], strict=True)
        )
    shown = [tokenizer.decode([label for label in row["labels"] if label != rows.IGNORED]) for row in found]
    assert shown[0] == "Blue.<|im_end|>Red.<|im_end|>"
    assert shown[1] == made.texts(1)[0]["text"] + "<|im_end|>"
    assert shown[2] == "red is a colour, number 0.<|im_end|>"


def test_pairs_share_a_prompt_and_end_with_the_stop_token(tokenizer, fed):
    row = fed("pairs", made.pairs(1)).rows[0]
    assert tokenizer.decode(row["prompt_ids"]) == prompt("Name colour 0.")
    assert tokenizer.decode(row["chosen_ids"]) == "red is a colour.<|im_end|>"
    assert tokenizer.decode(row["rejected_ids"]) == "No, not 0.<|im_end|>"
    assert row["chosen_ids"][-1] == tokenizer.stop_ids[0]


def test_whole_pairs_are_prompt_and_answer_as_a_reward_model_reads_them(tokenizer, fed):
    row = fed("whole_pairs", made.pairs(1)).rows[0]
    assert set(row) == {"chosen_ids", "rejected_ids"}
    assert tokenizer.decode(row["chosen_ids"]) == prompt("Name colour 0.") + "red is a colour.<|im_end|>"
    assert tokenizer.decode(row["rejected_ids"]) == prompt("Name colour 0.") + "No, not 0.<|im_end|>"


def test_judged_answers_carry_their_label(tokenizer, fed):
    good, bad = fed("judged", made.labels(2)).rows
    assert tokenizer.decode(good["prompt_ids"]) == prompt("Name colour 0.")
    assert tokenizer.decode(good["completion_ids"]) == "red is a colour.<|im_end|>"
    assert tokenizer.decode(bad["completion_ids"]) == "No, not 1.<|im_end|>"
    assert (good["label"], bad["label"]) == (True, False)
    talk = {"prompt": [SYSTEM, USER, said("Blue."), USER], "completion": [said("Red.")], "label": False}
    row = fed("judged", [talk]).rows[0]
    assert tokenizer.decode(row["completion_ids"]) == "Red.<|im_end|>"
    assert "Blue." in tokenizer.decode(row["prompt_ids"])


def test_prompts_bring_every_column_and_the_question(tokenizer, fed):
    talk = {"prompt": [SYSTEM, USER], "answer": None, "tests": [[1, "x"], {"a": 2}], "level": 3}
    plain, chat = fed("prompts", [made.prompts(1)[0], talk]).rows
    assert plain.pop("prompt_ids") == tokenizer.encode(prompt("Name colour 0."))
    assert plain == {**made.prompts(1)[0], "prompt_text": "Name colour 0."}
    assert tokenizer.decode(chat.pop("prompt_ids")).endswith(
        "Name a colour.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat == {**talk, "prompt_text": "Name a colour."}


def test_demonstrations_give_the_last_answer_and_its_question(tokenizer, fed):
    second = {"role": "user", "content": "Another."}
    row = fed("demos", [{"messages": [USER, said("Blue."), second, said("Red.")]}]).rows[0]
    assert tokenizer.decode(row["completion_ids"]) == "Red.<|im_end|>"
    assert tokenizer.decode(row["prompt_ids"]).endswith("Another.<|im_end|>\n<|im_start|>assistant\n")
    assert row["prompt_text"] == "Another."
    plain = fed("demos", made.demos(1)).rows[0]
    assert plain["prompt_text"] == "Name colour 0."


LONG = "word " * 60
PAIR, LABEL = made.pairs(1)[0], made.labels(1)[0]


@pytest.mark.parametrize(
    ("feed", "row", "why"),
    [
        ("labels", {"prompt": LONG, "completion": "x"}, rows.UNTRAINED),
        ("pairs", {**PAIR, "prompt": LONG}, rows.NO_ROOM),
        ("pairs", {**PAIR, "rejected": PAIR["chosen"]}, rows.EQUAL),
        ("pairs", {**PAIR, "chosen": LONG + "a", "rejected": LONG + "b"}, rows.EQUAL),
        ("pairs", {**PAIR, "rejected": ""}, rows.EMPTY),
        ("whole_pairs", {**PAIR, "rejected": PAIR["chosen"]}, rows.EQUAL),
        ("whole_pairs", {**PAIR, "prompt": LONG}, rows.NO_ROOM),
        ("judged", {**LABEL, "completion": " "}, rows.EMPTY),
        ("judged", {**LABEL, "prompt": LONG}, rows.NO_ROOM),
        ("prompts", {"prompt": LONG, "answer": "x"}, rows.NO_ROOM),
        ("demos", {"prompt": LONG, "completion": "x"}, rows.NO_ROOM),
        ("demos", {"prompt": "x", "completion": ""}, rows.EMPTY),
    ],
)
def test_rows_that_teach_nothing_are_left_out_and_counted(fed, feed, row, why):
    good = {
        "labels": made.demos(2), "pairs": made.pairs(2), "whole_pairs": made.pairs(2),
        "judged": made.labels(2), "prompts": made.prompts(2), "demos": made.demos(2),
    }[feed]  # fmt: skip
    found = fed(feed, [good[0], row, good[1], row], max_length=60)
    assert len(found.rows) == 2
    assert found.dropped == {why: 2}
    assert found.reasons == f"2 x {why}"


def test_a_prompt_needs_room_for_one_token_of_an_answer(tokenizer, fed):
    length = len(tokenizer.encode(prompt("Name colour 0.")))
    assert not fed("prompts", made.prompts(1), max_length=length).rows
    assert len(fed("prompts", made.prompts(1), max_length=length + 1).rows) == 1
    assert not fed("prompts", made.prompts(1), max_length=length + 7, answer=8).rows
    assert len(fed("prompts", made.prompts(1), max_length=length + 8, answer=8).rows) == 1


def test_rows_the_template_refuses_are_counted_with_its_words(tokenizer, tmp_path):
    import dataclasses

    base = dataclasses.replace(tokenizer, chat_template="")
    talk = {"prompt": [USER], "completion": [said("Blue.")], "label": True}
    found = feed_into(tmp_path, base, "judged", [talk, LABEL])
    assert len(found.rows) == 1
    assert "no chat template" in found.reasons


def test_a_limit_counts_rows_that_are_fed(fed):
    found = fed("pairs", [{**PAIR, "rejected": ""}, *made.pairs(5)], limit=2)
    assert len(found.rows) == 2
    assert found.dropped == {rows.EMPTY: 1}
    assert fed("prompts", made.prompts(5), limit=0).rows == []


def test_a_file_that_is_absent_gives_no_rows(tokenizer, tmp_path):
    plan = SimpleNamespace(method=SimpleNamespace(feed="pairs"), settings=SimpleNamespace(max_length=9))
    found = rows.tokenized(tmp_path / "none.jsonl", tokenizer, plan)
    assert (found.rows, found.reasons) == ([], "")


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=6), st.integers(1, 80))
def test_every_row_is_fed_or_counted_and_fits(tokenizer, tmp_path_factory, triples, max_length):
    folder = tmp_path_factory.mktemp("rows")
    pairs = [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in triples]
    labels = [{"prompt": p, "completion": a, "label": bool(b)} for p, a, b in triples]
    for feed, given_rows in (("pairs", pairs), ("whole_pairs", pairs), ("judged", labels), ("demos", labels)):
        found = feed_into(folder, tokenizer, feed, given_rows, max_length)
        assert len(found.rows) + found.dropped.total() == len(triples)
        for row in found.rows:
            tokens = {name: len(ids) for name, ids in row.items() if name.endswith("_ids")}
            assert min(tokens.values()) > 0
            shared = tokens.pop("prompt_ids", 0)
            assert shared + max(tokens.values()) <= max_length
