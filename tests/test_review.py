"""A person's word on rows: on disk at once, never waited for, and carried into the data."""

import json
from types import SimpleNamespace

import pytest

import ft_magic as ft
from ft_magic.data import provenance
from ft_magic.errors import DataError, SpecError
from ft_magic.shell import requests
from ft_magic.ui import review_widget, widget
from ft_magic.ui.row_texts import texts_of, with_texts

ROWS = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(6)]
CHAT = {
    "messages": [
        {"role": "user", "content": "What is in the file?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "read"}}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "The number 42."},
    ]
}


@pytest.fixture
def review(runs_folder):
    return ft.review(ROWS)


def test_a_decision_is_on_disk_at_once_and_found_again(review):
    review.accept(0, 2)
    lines = [json.loads(line) for line in review.path.read_text().splitlines()]
    assert [line["state"] for line in lines] == ["accepted", "accepted"]
    review.reject(1)
    again = ft.review(ROWS)
    assert again.path == review.path
    assert dict(again.counts) == {"accepted": 2, "edited": 0, "rejected": 1, "undecided": 3}


def test_decisions_hold_for_the_same_rows_in_another_order(review):
    review.reject(5)
    turned = ft.review(list(reversed(ROWS)), path=review.path)
    assert turned.decisions.about(turned.rows[0]).state == "rejected"


def test_the_last_decision_counts_and_can_be_taken_back(review):
    review.accept(0)
    review.reject(0)
    assert review.counts["rejected"] == 1
    review.undo(0)
    assert ft.review(ROWS).counts["undecided"] == 6


def test_a_half_written_decision_of_a_killed_process_is_skipped(review):
    review.accept(0)
    with review.path.open("a") as file:
        file.write('{"v":1,"row":"ab')
    again = ft.review(ROWS)
    again.reject(1)
    assert dict(ft.review(ROWS).counts) == {"accepted": 1, "edited": 0, "rejected": 1, "undecided": 4}


def test_data_holds_accepted_rows_and_the_new_wording_of_edited_ones(review):
    review.accept(0)
    review.edit(1, {"prompt": "Question 1?", "completion": "A better answer."})
    review.reject(2)
    data = review.data()
    assert data.rows == (ROWS[0], {"prompt": "Question 1?", "completion": "A better answer."})
    assert "1 accepted, 1 edited, 1 rejected, 3 undecided and left out" in data.lineage[-1]
    kept = review.data(undecided="keep")
    assert len(kept) == 5
    assert kept.lineage[-1].count("undecided and kept") == 1


def test_nothing_decided_stays_undecided_and_says_how_to_go_on(review):
    with pytest.raises(DataError, match=r"0 accepted.*6 undecided") as error:
        review.data()
    assert "undecided='keep'" in error.value.instead
    assert review.data(undecided="keep").rows == tuple(ROWS)
    assert not review.path.exists()
    with pytest.raises(SpecError, match="undecided is 'drop'"):
        review.data(undecided="drop")


def test_an_edit_without_change_accepts_the_row(review):
    review.edit(0, dict(ROWS[0]))
    assert review.counts["accepted"] == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Q?", "completion": "  "}, "no prompt or no answer"),
        ({"prompt": "Q?", "completion": "A", "label": True}, "The edited row has the fields"),
        ({"text": "Q?"}, "The edited row has the fields"),
    ],
)
def test_an_edit_that_breaks_the_row_is_refused(review, row, problem):
    with pytest.raises(DataError, match=problem):
        review.edit(0, row)
    assert review.counts["undecided"] == 6


def test_a_wrong_row_number_decides_nothing(review):
    with pytest.raises(DataError, match="There is no row 6"):
        review.accept(0, 6)
    assert review.counts["accepted"] == 0


def test_an_edited_row_keeps_the_record_of_its_origin(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    records = [
        {"row": provenance.row_key(row), "model": "writer", "request": i} for i, row in enumerate(ROWS)
    ]
    (tmp_path / provenance.FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    found = ft.review(file)
    assert found.path == tmp_path / "review.jsonl"
    found.edit(3, {"prompt": "Question 3?", "completion": "Better."})
    record = found.data().provenance[0]
    assert (record["request"], record["edited_from"]) == (3, provenance.row_key(ROWS[3]))


def test_what_is_shown_without_a_widget_is_escaped_and_says_where_decisions_are(runs_folder):
    shown = ft.review([{"prompt": "<script>x</script>", "completion": "<b>y</b>"}])._repr_mimebundle_()
    assert "<script" not in shown["text/html"]
    assert "&lt;script&gt;" in shown["text/html"]
    assert "1 undecided" in shown["text/plain"]
    assert "reviews" in shown["text/plain"]


def test_where_nobody_watches_the_table_is_shown_and_nothing_waits(review, monkeypatch):
    monkeypatch.setattr(widget, "has_kernel", lambda: True)
    monkeypatch.setattr(widget, "watched", lambda: False)
    with pytest.raises(NotImplementedError):  # IPython's sign to use the other representations
        review._ipython_display_()


# -- the texts of a row


def test_the_texts_of_a_conversation_can_be_changed_and_nothing_else():
    fields = texts_of(CHAT)
    assert [(field.label, field.editable) for field in fields] == [
        ("user", True),
        ("assistant", True),
        ("assistant, further", False),
        ("tool", True),
        ("assistant", True),
    ]
    changed = with_texts(CHAT, ["Hello?", "", "43", "The number 43."])
    assert [turn["content"] for turn in changed["messages"]] == ["Hello?", "", "43", "The number 43."]
    assert changed["messages"][1]["tool_calls"] == CHAT["messages"][1]["tool_calls"]
    assert CHAT["messages"][2]["content"] == "42"


def test_a_label_is_shown_and_not_changed():
    row = {"prompt": "a", "completion": "b", "label": False}
    assert [(field.text, field.editable) for field in texts_of(row)][-1] == ("false", False)
    assert with_texts(row, ["c", "d"]) == {"prompt": "c", "completion": "d", "label": False}


# -- the widget's messages


@pytest.fixture
def front(review, monkeypatch):
    """The widget's first state and the function that answers its messages."""
    made = {}
    monkeypatch.setattr(widget, "make", lambda _asset, state, answer: made.update(state=state, answer=answer))
    changes = []
    review_widget.review_widget(review, lambda: changes.append(1))
    return SimpleNamespace(state=made["state"], answer=made["answer"], changes=changes)


def test_the_widget_begins_at_the_first_undecided_row(review, monkeypatch):
    review.accept(0, 1)
    made = {}
    monkeypatch.setattr(widget, "make", lambda _asset, state, _answer: made.update(state))
    review.widget()
    assert (made["first"], made["states"]) == (2, "aauuuu")
    assert made["rows"]["2"]["fields"] == [["prompt", "Question 2?", True], ["completion", "Answer 2.", True]]


def test_a_click_is_answered_once_the_decision_is_on_disk(review, front):
    reply = front.answer({"kind": "decide", "index": 4, "state": "r", "texts": None})
    assert (reply["saved"], reply["state"]) == (4, "r")
    assert ft.review(ROWS).decisions.about(ROWS[4]).state == "rejected"
    front.answer({"kind": "decide", "index": 4, "state": "u"})
    assert ft.review(ROWS).counts["undecided"] == 6
    assert len(front.changes) == 2


def test_edited_texts_come_back_as_the_row_and_can_be_edited_again(review, front):
    front.answer({"kind": "decide", "index": 0, "state": "e", "texts": ["New?", "One."]})
    reply = front.answer({"kind": "decide", "index": 0, "state": "e", "texts": ["New?", "Two."]})
    assert reply["rows"][0]["fields"][1] == ["completion", "Two.", True]
    assert review.data().rows == ({"prompt": "New?", "completion": "Two."},)


def test_rows_are_sent_on_demand_and_only_those_that_exist(front):
    reply = front.answer({"kind": "rows", "want": [5, 99, -1, "x"]})
    assert [row["index"] for row in reply["rows"]] == [5]
    assert front.answer({"kind": "rows", "want": "all"}) == {"rows": []}


# -- the verb


def test_the_verb_decides_and_keeps_what_was_accepted(runs_folder):
    variables = {"rows": ROWS}
    found = requests.do(
        requests.read(["review", "$rows", "--accept", "0,2-4", "--reject", "5", "-o", "good"]), variables
    )
    assert dict(found.counts) == {"accepted": 4, "edited": 0, "rejected": 1, "undecided": 1}
    assert variables["good"].rows == tuple(ROWS[i] for i in (0, 2, 3, 4))
    requests.do(requests.read(["review", "$rows", "--accept", "all"]), variables)
    assert ft.review(ROWS).counts["accepted"] == 6
    with pytest.raises(SpecError, match="names no rows"):
        requests.do(requests.read(["review", "$rows", "--accept", "first"]), variables)
