"""Shapes beyond prompt and answer: tools, marks of what is trained, transcripts, trees, ranked lists, segments."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_magic.axes import signal_of
from ft_magic.data import Data, load_data
from ft_magic.data.shaping.shapes import KNOWN_NAMES
from ft_magic.errors import DataError

CALL = {"name": "weather", "arguments": {"city": "Ulm"}}
TOOL = {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object"}}
WRAPPED = {"type": "function", "function": TOOL}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
USER = {"role": "user", "content": "Weather in Ulm?"}
SEEN = {"role": "tool", "content": "sun"}
SUNNY = {"role": "assistant", "content": "Sunny."}


def said(text):
    return {"role": "assistant", "content": text}


def asked(text):
    return {"role": "user", "content": text}


def message(src, **options):
    with pytest.raises(DataError) as caught:
        load_data(src, **options)
    return str(caught.value)


# --- tools


def sharegpt(*values):
    names = ("human", "function_call", "observation", "gpt")
    return [{"from": name, "value": value} for name, value in zip(names, values, strict=True)]


@pytest.mark.parametrize(
    "tools", [json.dumps([TOOL]), [TOOL], [WRAPPED], json.dumps(TOOL), json.dumps([WRAPPED], indent=1)]
)
@pytest.mark.parametrize(
    "call", [json.dumps(CALL), json.dumps({**CALL, "arguments": json.dumps(CALL["arguments"])})]
)
def test_sharegpt_calls_observations_and_tools_get_openais_form(tools, call):
    row = {"conversations": sharegpt("Weather in Ulm?", call, "sun", "Sunny."), "tools": tools}
    data = load_data([row])
    assert data.rows == ({"messages": [USER, CALLED, SEEN, SUNNY], "tools": [WRAPPED]},)
    assert "1 x function calls written as JSON read as tool_calls" in data.lineage
    assert data.columns["tools"] == "tools"


def test_several_calls_in_a_row_are_one_turn():
    turns = sharegpt("Weather in Ulm?", json.dumps(CALL), "sun", "Sunny.")
    data = load_data([{"conversations": [turns[0], turns[1], turns[1], turns[2], turns[2], turns[3]]}])
    calls = data[0]["messages"][1]["tool_calls"]
    assert [call["function"] for call in calls] == [CALL, CALL]
    assert [turn["role"] for turn in data[0]["messages"]] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]


def test_openai_calls_keep_their_ids_and_get_their_arguments_as_objects():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    answer = {"role": "tool", "content": "sun", "tool_call_id": "c1", "name": "weather"}
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, answer, SUNNY]
    messages = load_data([{"messages": turns, "tools": [WRAPPED]}])[0]["messages"]
    assert messages[1]["tool_calls"] == [{"id": "c1", "type": "function", "function": CALL}]
    assert messages[1]["content"] == ""
    assert messages[2] == answer
    older = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "weather", "arguments": '{"city": "Ulm"}'},
    }
    read = load_data(
        [{"messages": [USER, older, {"role": "function", "name": "weather", "content": "sun"}, SUNNY]}]
    )
    assert read[0]["messages"][1:3] == [CALLED, {**SEEN, "name": "weather"}]


@pytest.mark.parametrize("arguments", ["city=Ulm", "[1]", 3])
def test_calls_whose_arguments_are_no_object_are_kept_out_and_counted(arguments):
    bad = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}],
    }
    data = load_data([{"messages": [USER, SUNNY]}, {"messages": [USER, bad, SEEN, SUNNY]}])
    assert data.dropped.reasons == {"a tool call without a name or with arguments that are no JSON object": 1}


def test_tools_of_tables_lose_the_gaps_that_tables_fill_in(tmp_path):
    import pandas as pd

    other = {
        "name": "time",
        "description": "The time",
        "parameters": {"type": "object", "required": ["zone"]},
    }
    frame = pd.DataFrame({"messages": [[USER, SUNNY]] * 2, "tools": [[TOOL], [other]]})
    frame.to_parquet(tmp_path / "a.parquet")
    data = load_data(tmp_path / "a.parquet")
    assert [row["tools"][0]["function"] for row in data] == [TOOL, other]


def test_a_column_called_tools_that_holds_none_is_not_used():
    data = load_data([{"question": "How?", "answer": "So.", "tools": ["hammer", "saw"]}])
    assert data.rows == ({"prompt": "How?", "completion": "So."},)
    assert "columns not used: tools" in data.lineage
    rows = load_data([{"prompt": "How?", "tools": ["hammer"]}]).rows
    assert rows == ({"prompt": "How?", "tools_": ["hammer"]},)
    mixed = load_data(
        [{"messages": [USER, SUNNY], "tools": [TOOL]}, {"messages": [USER, SUNNY], "tools": "hammer"}]
    )
    assert mixed.dropped.reasons == {"tools are no list of functions": 1}


def test_tools_and_marks_survive_files_parts_and_conversions(tmp_path):
    hidden = {**SUNNY, "train": False}
    rows = [
        {"messages": [USER, CALLED, SEEN, hidden, asked("Sure?"), said(f"Yes {n}.")], "tools": [TOOL]}
        for n in range(4)
    ]
    rows.append({"messages": [asked("Hi"), said("Hello")]})
    data = load_data(rows)
    assert data[0]["messages"][3] == hidden
    assert Data.from_jsonl(data.to_jsonl(tmp_path / "a.jsonl")).rows == data.rows
    assert load_data(tmp_path / "a.jsonl").rows == data.rows
    train, held = data.split(0.4)
    assert sorted(map(repr, (*train, *held))) == sorted(map(repr, data))
    prompts = data.to("prompt")
    assert prompts[0] == {
        "prompt": [USER, CALLED, SEEN, hidden, asked("Sure?")],
        "answer": "Yes 0.",
        "tools": [WRAPPED],
    }
    assert prompts[4] == {"prompt": [asked("Hi")], "answer": "Hello", "tools": None}


def test_pairs_and_labels_keep_their_tools_in_every_conversion():
    pair = {"prompt": [USER], "chosen": [CALLED], "rejected": [said("No idea.")], "tools": [TOOL]}
    data = load_data([pair])
    assert data[0] == {**pair, "tools": [WRAPPED]}
    assert [row["tools"] for row in data.to("label")] == [[WRAPPED], [WRAPPED]]
    assert data.to("demo").rows == ({"messages": [USER, CALLED], "tools": [WRAPPED]},)
    assert data.to("label").to("demo").rows == data.to("demo").rows


# --- what is trained


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"training": False}, {"train": "false"}])
def test_answers_marked_as_not_trained_stay_in_the_conversation_with_the_mark(mark):
    turns = [asked("a"), {**said("bad"), **mark}, asked("b"), {**said("good"), "weight": 1}]
    data = load_data([{"messages": turns}])
    assert data[0]["messages"] == [asked("a"), {**said("bad"), "train": False}, asked("b"), said("good")]
    assert "1 x answers marked as not trained" in data.lineage


def test_marks_that_cannot_be_honoured_are_counted():
    turns = [{**asked("a"), "train": True}, {**said("b"), "weight": 0.5}]
    data = load_data([{"messages": turns}])
    assert data.rows == ({"messages": [asked("a"), said("b")]},)
    assert "1 x turns marked as trained that are no answers: not trained" in data.lineage
    assert "1 x weights of turns other than 0 and 1 read as 1" in data.lineage
    assert "all are marked as not trained" in message(
        [{"messages": [asked("a"), {**said("b"), "weight": 0}]}]
    )


def test_an_answer_that_is_not_to_be_imitated_is_no_known_answer_of_a_prompt():
    turns = [asked("a"), said("b"), asked("c"), {**said("d"), "train": False}]
    data = load_data([{"messages": turns}]).to("prompt")
    assert data.rows == ({"prompt": turns[:3], "answer": None},)
    assert "1 have no answer" in data.lineage[-1]


# --- transcripts


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: Hi: you?\n\nAssistant: Hello\nHuman beings: many\n\nHuman: Bye\n\nAssistant: Bye.",
        "Human: Hi: you?\n\nAssistant: Hello\nHuman beings: many\n\nHuman: Bye\n\nAssistant: Bye.\n",
        "### Human: Hi: you?### Assistant: Hello\nHuman beings: many### Human: Bye### Assistant: Bye.",
    ],
)
def test_transcripts_become_conversations_and_stay_text_where_that_is_asked(text):
    data = load_data([{"text": text}])
    turns = [asked("Hi: you?"), said("Hello\nHuman beings: many"), asked("Bye"), said("Bye.")]
    assert (data.shape, data.rows) == ("transcripts", ({"messages": turns},))
    assert any("signal='text'" in note for note in data.lineage)
    assert load_data([{"text": text}], signal="text").rows == ({"text": text},)


@pytest.mark.parametrize(
    "text",
    [
        "Human: is an adjective.",
        "The user said:\nUser: hi\nAssistant: ho",
        "Assistant: alone\n\nAssistant: again",
    ],
)
def test_text_that_only_mentions_speakers_stays_text(text):
    assert load_data([{"text": text}]).rows == ({"text": text},)


def test_transcripts_among_other_text_are_decided_by_the_most():
    spoken, plain = {"text": "User: a\nAssistant: b"}, {"text": "Just text."}
    assert load_data([spoken, *[plain] * 9]).signal == "text"
    data = load_data([*[spoken] * 19, plain])
    assert (data.signal, len(data)) == ("demo", 19)
    assert data.dropped.reasons == {"no transcript of a person and the assistant": 1}


def test_pairs_of_transcripts_share_the_prompt_that_both_begin_with():
    start = "\n\nHuman: One?\n\nAssistant: Yes.\n\nHuman: Two?\n\nAssistant:"
    rows = [
        {"chosen": f"{start} Good.", "rejected": f"{start} Bad."},
        {"chosen": "\n\nHuman: A?\n\nAssistant: x", "rejected": "\n\nHuman: B?\n\nAssistant: y"},
        {"chosen": f"{start} ", "rejected": f"{start} Bad."},
    ]
    data = load_data(rows)
    prompt = [asked("One?"), said("Yes."), asked("Two?")]
    assert data.rows == ({"prompt": prompt, "chosen": [said("Good.")], "rejected": [said("Bad.")]},)
    assert data.dropped.reasons == {"chosen and rejected share no prompt": 1, "empty chosen answer": 1}
    beside = load_data([{"prompt": start, "chosen": "Good.", "rejected": "Bad."}])
    assert beside.rows == data.rows


def test_sharegpt_pairs_without_a_prompt_column_share_theirs():
    sides = {
        side: [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": answer}]
        for side, answer in (("chosen", "Hello"), ("rejected", "No"))
    }
    assert load_data([sides]).rows == (
        {"prompt": [asked("Hi")], "chosen": [said("Hello")], "rejected": [said("No")]},
    )


# --- trees


def node(number, parent, role, text, rank=None, **more):
    return {
        "message_id": f"m{number}",
        "parent_id": parent and f"m{parent}",
        "role": role,
        "text": text,
        "rank": rank,
        **more,
    }


TREE = [
    node(1, None, "prompter", "q"),
    node(2, 1, "assistant", "second", 1),
    node(3, 1, "assistant", "best", 0),
    node(4, 1, "assistant", "third", 2),
    node(5, 3, "prompter", "and?"),
    node(6, 5, "assistant", "more"),
    node(7, 3, "prompter", "unanswered"),
]
BEST = [asked("q"), said("best"), asked("and?"), said("more")]


def nested(rows):
    made = {row["message_id"]: {**row, "replies": []} for row in rows}
    for row in rows:
        if row["parent_id"]:
            made[row["parent_id"]]["replies"].append(made[row["message_id"]])
    return [{"message_tree_id": key, "prompt": made[key]} for key in made if made[key]["parent_id"] is None]


@pytest.mark.parametrize("rows", [TREE, TREE[::-1], nested(TREE)], ids=["table", "table backwards", "nested"])
def test_trees_give_the_best_ranked_conversation_or_ranked_replies(rows):
    data = load_data(rows)
    assert (data.shape, data.rows) == ("conversation trees", ({"messages": BEST},))
    assert any("the best ranked answer each time" in note for note in data.lineage)
    pairs = load_data(rows, signal="pair")
    assert pairs.rows == ({"prompt": BEST[:1], "chosen": [said("best")], "rejected": [said("third")]},)
    assert "1 x answers between the best and the worst left out" in pairs.lineage
    assert load_data(rows, signal="prompt").rows == ({"prompt": BEST[:3], "answer": "more"},)


def test_what_is_missing_from_a_tree_is_counted():
    rows = [*TREE, node(8, 99, "assistant", "whose?"), node(9, 1, "assistant", "gone", 3, deleted=True)]
    data = load_data(rows)
    assert data.rows == ({"messages": BEST},)
    assert "9 messages joined to 1 trees by parent_id" in data.lineage
    assert "1 deleted messages left out" in data.lineage
    assert any(note.startswith("1 messages left out with their replies") for note in data.lineage)
    cut = load_data(TREE, limit=3)
    assert cut.rows == ({"messages": BEST[:2]},)


def test_ties_and_lonely_answers_make_no_pair():
    equal = [node(1, None, "prompter", "q"), node(2, 1, "assistant", "a", 0), node(3, 1, "assistant", "b", 0)]
    assert "no message with two answers of different rank" in message(equal, signal="pair")
    assert load_data(equal).rows == ({"messages": [asked("q"), said("a")]},)
    assert "no assistant turn" in message(equal[:1])


def test_columns_named_by_hand_leave_a_table_of_messages_as_it_is():
    data = load_data(TREE, columns={"text": "text"})
    assert [row["text"] for row in data] == [row["text"] for row in TREE]


# --- ranked answers


@pytest.mark.parametrize(
    ("row", "by"),
    [
        ({"prompt": "q", "responses": ["c", "a", "b"], "scores": [1, 9, 4]}, "scores"),
        ({"prompt": "q", "answers": ["c", "a", "b"], "ranks": [3, 1, 2]}, "ranks"),
        ({"instruction": "q", "completions": [{"response": r, "overall_score": s} for r, s in (("c", 2.5), ("a", "9"), ("b", 4))]}, "'overall_score'"),
        ({"prompt": "q", "answers": [{"answer": r, "rank": n} for r, n in (("c", 3), ("a", 1), ("b", 2))]}, "'rank'"),
        ({"question": "q", "ranked_responses": ["a", "b", "c"]}, "their order, best first"),
    ],
)  # fmt: skip
def test_ranked_answers_become_the_best_against_the_worst(row, by):
    data = load_data([row])
    assert (data.shape, data.rows) == ("ranked answers", ({"prompt": "q", "chosen": "a", "rejected": "c"},))
    assert f"1 x pairs made of the best and the worst answer by {by}" in data.lineage
    assert "1 x answers between the best and the worst left out" in data.lineage


def test_ties_and_answers_without_scores_are_left_out_and_counted():
    rows = [
        {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2]},
        {"prompt": "q", "responses": ["a", "b"], "scores": [2, 2]},
        {"prompt": "q", "responses": ["a", "b"], "scores": [None, 2]},
        {"prompt": "q", "responses": ["a", "b", "c"], "scores": [1, 2]},
        {"prompt": "q", "responses": ["a", " "], "scores": [1, 2]},
    ]
    data = load_data(rows)
    assert data.rows == ({"prompt": "q", "chosen": "b", "rejected": "a"},)
    assert data.dropped.reasons == {
        "all answers tie": 1, "fewer than two answers with a rank or score": 1, "3 answers and 2 scores": 1,
        "empty chosen answer": 1,
    }  # fmt: skip


def test_a_list_of_accepted_answers_is_no_ranking_unless_pairs_are_asked_for():
    rows = [{"question": "q", "answers": ["a", "b"]}]
    assert load_data(rows).rows == ({"prompt": "q", "answers": ["a", "b"]},)
    assert load_data(rows, signal="pair").rows == ({"prompt": "q", "chosen": "a", "rejected": "b"},)
    older = [{"instruction": "q", "input": "", "output": ["a", "b"]}]  # LLaMA-Factory's first form of pairs
    assert load_data(older, signal="pair").rows == ({"prompt": "q", "chosen": "a", "rejected": "b"},)
    named = load_data(
        [{"q": "q", "tries": ["a", "b"], "n": [1, 2]}],
        columns={"prompt": "q", "answers": "tries", "scores": "n"},
    )
    assert named.rows == ({"prompt": "q", "chosen": "b", "rejected": "a"},)


@pytest.mark.parametrize(
    ("row", "ties"),
    [
        ({"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1}, [2, None]),
        ({"instruction": "q", "output_1": "good", "output_2": "bad", "preference": 1.0}, [1.5, 0]),
        ({"question": "q", "response_a": "bad", "response_b": "good", "winner": "model_b"}, ["tie", "both"]),
    ],
)
def test_a_verdict_names_the_better_of_two_answers(row, ties):
    judge = list(row)[-1]
    data = load_data([row, *({**row, judge: tie} for tie in ties)])
    assert data.rows == ({"prompt": "q", "chosen": "good", "rejected": "bad"},)
    assert data.dropped.count == 2


def test_a_verdict_names_the_better_of_two_conversations():
    row = {
        "conversation_a": [asked("q"), said("good")],
        "conversation_b": [asked("q"), said("bad")],
        "winner": "a",
    }
    assert load_data([row]).rows == (
        {"prompt": [asked("q")], "chosen": [said("good")], "rejected": [said("bad")]},
    )


# --- segments, labels, guesses


def segments(*pairs):
    return {"segments": [{"label": label, "text": text} for label, text in pairs]}


def test_segments_become_turns_and_say_what_they_assume():
    rows = [
        segments((False, "One"), (False, " two? "), (True, "Yes."), (False, "Sure?"), (True, "Quite.")),
        segments((True, "Hello.")),
        segments((False, "Only asked")),
        {"segments": [{"text": "x"}]},
    ]
    data = load_data(rows)
    assert data.rows == ({"messages": [asked("One two? "), said("Yes."), asked("Sure?"), said("Quite.")]},)
    assert any("trained ones as the assistant's" in note for note in data.lineage)
    assert data.dropped.reasons == {
        "the first segment is trained: nothing is asked": 1, "no assistant turn": 1, "a segment without text and label": 1,
    }  # fmt: skip


def test_labels_of_plus_and_minus_one_are_read_where_no_zero_stands_between():
    rows = [
        {"prompt": "p", "completion": f"c{n}", "label": value} for n, value in enumerate((1, -1, "-1", "+1"))
    ]
    data = load_data(rows)
    assert [row["label"] for row in data] == [True, False, False, True]
    assert "'label': +1 is good, -1 is bad" in data.lineage
    assert load_data([*rows, {**rows[0], "label": 0}]).signal == "demo"
    assert "neither good nor bad" in message([*rows, {**rows[0], "label": 0}], signal="label")


def test_two_columns_of_text_are_taken_for_prompt_and_answer_and_called_a_guess():
    data = load_data([{"id": "r1", "frage": "Wer?", "antwort": "Ich", "jahr": 1999}])
    assert data.rows == ({"prompt": "Wer?", "completion": "Ich"},)
    note = next(note for note in data.lineage if note.startswith("a guess"))
    assert "columns={'prompt': 'antwort', 'completion': 'frage'}" in note
    turned = load_data(
        [{"frage": "Wer?", "antwort": "Ich"}], columns={"prompt": "antwort", "completion": "frage"}
    )
    assert turned.rows == ({"prompt": "Ich", "completion": "Wer?"},)
    assert not any("guess" in note for note in turned.lineage)


@pytest.mark.parametrize(
    "row",
    [
        {"frage": "a", "antwort": "b", "ort": "c"},
        {"frage": "a", "wert": 3},
        {"frage": "a", "output": "b"},
        {"id": "a", "notiz": "b"},
    ],
)
def test_anything_else_without_known_names_is_not_guessed(row):
    assert "fit no known shape" in message([row])
    assert "fit no known shape" in message([{"frage": "a", "antwort": "b"}], signal="label")


# --- anything at all

NAMES = sorted(KNOWN_NAMES)
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | st.binary(max_size=2)
    | st.sampled_from(["", "a", "\ud83d", "[]", "Human: a\n\nAssistant: b", json.dumps([USER, SUNNY]), json.dumps(CALL)]),
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(st.sampled_from([*NAMES, "role", "from", "content", "value", "replies", "score"]), inside, max_size=3)
    | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool"]), "content": inside}, optional={
        "tool_calls": inside, "weight": inside, "name": inside}), min_size=1, max_size=3),
    max_leaves=8,
)  # fmt: skip
ROWS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, CELLS)), min_size=1, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from([None, "text", "demo", "pair", "label", "prompt"]))
def test_any_rows_become_plain_rows_of_one_signal_or_an_explained_refusal(made, signal):
    before = repr(made)
    try:
        data = load_data(made, signal=signal)
    except DataError as error:
        assert error.instead  # noqa: PT017  both outcomes are right
        return
    assert {signal_of(row).name for row in data} == {data.signal}
    assert signal in (None, data.signal)
    json.dumps(data.rows, ensure_ascii=False).encode()
    assert repr(made) == before
