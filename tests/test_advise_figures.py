"""What is counted and scored for an advice: facts, kinds of answers, metrics, intervals, similar rows, prompts."""

import json
import math
import random

import pytest

from ft_magic.advising import answers, metrics, shots
from ft_magic.advising.estimates import bootstrap, difference, wilson
from ft_magic.advising.metrics import Known
from ft_magic.advising.nearest import Nearest
from ft_magic.advising.shots import Case, case_of, fitting, random_shots, with_shots
from ft_magic.data.facts import facts_of, origin
from ft_magic.errors import SpecError

# -- facts


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        ("The shelf costs 84 euros.", {"84"}),
        ("We ship to Berlin on 3.5.2026. Then it rests.", {"berlin", "3.5.2026"}),  # "We", "Then": sentences
        ("Paris", {"paris"}),
        ("yes", set()),
        ('{"order": "A-6572", "reply": "We are sorry."}', {"a-6572"}),
        ('{"total": 12, "paid": true}', {"12"}),
        ("Das Haus steht.", {"haus"}),  # German nouns count as names: said in the docstring's limits
        ("", set()),
    ],
)
def test_numbers_codes_and_names_are_seen(answer, facts):
    assert facts_of(answer) == facts


def test_facts_are_counted_where_they_come_from():
    questions = ["order a-1?", "who?", "who then?", "when?"]
    given = ["It is A-1.", "It was Ada.", "It was Ada again.", "It was 1815."]
    found = origin(questions, given)
    # Four facts a row at most once: A-1 in its question, Ada in two answers, 1815 nowhere else.
    assert found.count == 4
    assert (found.asked, found.known, found.unknown) == (0.25, 0.5, 0.25)


def test_a_number_inside_another_is_not_found():
    assert origin(["It was 1815."], ["It was 15."]).asked == 0.0


def test_without_facts_nothing_is_said():
    assert origin(["a?"], ["yes"]) is None


# -- kinds of answers


def test_kinds_are_told_from_the_answers():
    objects = ['{"a": 1, "b": 2}'] * 8 + ['{"a": 1}', "sorry"]
    assert answers.describe(objects).kind == "json"
    assert answers.describe(objects).same_shape == 0.8
    labels = answers.describe(["Spam.", "ham"] * 10)
    assert (labels.kind, labels.labels, labels.same_shape) == ("label", {"spam", "ham"}, 1.0)
    assert answers.describe([str(i) for i in range(9)] + ["none"]).same_shape == 0.9
    assert answers.describe([f"word{i} two" for i in range(30)]).kind == "short"
    text = answers.describe([f"this is the long answer number {i} of many" for i in range(30)])
    assert (text.kind, text.same_shape, text.words) == ("text", None, 9.0)


def test_the_order_of_keys_is_no_other_form():
    assert answers.describe(['{"a": 1, "b": 2}', '{"b": 1, "a": 2}']).same_shape == 1.0


# -- metrics


@pytest.mark.parametrize(
    ("name", "answer", "expected", "score"),
    [
        ("fields", '{"a": 1, "b": "x"}', '{"b": "x", "a": 2}', 0.5),
        ("fields", 'Sure! {"a": 1}', '{"a": 1}', 0.0),  # not strict JSON
        ("fields", '{"a": true}', '{"a": 1}', 0.0),  # true is not 1
        ("fields", '{"a": 1, "c": 3}', '{"a": 1}', 0.5),  # a key too many
        ("json", '{"b": 0, "a": 0}', '{"a": 1, "b": 2}', 1.0),
        ("json", '{"a": 1}', '{"a": 1, "b": 2}', 0.0),
        ("label", "The label is spam.", "spam", 1.0),
        ("label", "spam or ham", "spam", 0.0),
        ("label", "spammer", "spam", 0.0),
        ("number", "16 + 3 = 19", "19", 1.0),
        ("number", "1,200", "1200.0", 1.0),
        ("number", "none", "19", 0.0),
        ("exact", "  Blue  whale. ", "blue whale", 1.0),
        ("exact", "blue whales", "blue whale", 0.0),
        ("f1", "the cat sat", "cat sat down", 2 / 3),  # two shared words of three each
        ("f1", "dog", "cat", 0.0),
        ("f1", "", "cat", 0.0),
        (
            "facts",
            "84 euros, 7 and 3 left.",
            "Shelf 7 costs 84 euros and 12 are left.",
            0.5,
        ),  # 84 and 12; 7 was asked
        ("facts", "no idea", "no idea", 1.0),
    ],
)
def test_answers_are_scored(name, answer, expected, score):
    assert metrics.METRICS[name].function(
        answer, expected, Known(frozenset({"spam", "ham"}), "Shelf 7?")
    ) == pytest.approx(score)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_the_expected_answer_scores_one(name):
    expected = {
        "fields": '{"a": [1]}',
        "json": '{"a": null}',
        "label": "ham",
        "number": "-3.5",
        "facts": "in Rome",
    }.get(name, "A b")
    assert metrics.METRICS[name].function(expected, expected, Known(frozenset({"spam", "ham"}))) == 1.0


def test_the_metric_is_chosen_from_the_answers_with_its_reason_and_can_be_overruled():
    described = answers.describe(["spam", "ham"] * 10)
    metric, why = metrics.chosen(described, None)
    assert (metric.name, why) == ("label", "the answers come from a small set")
    assert metrics.chosen(described, "exact")[0].name == "exact"
    text = answers.describe([f"this is the long answer number {i} of many" for i in range(30)])
    assert metrics.chosen(text, None)[0].name == "f1"
    assert metrics.chosen(text, None, own_facts=True)[0].name == "facts"
    with pytest.raises(SpecError, match=r"metric 'exakt' does not exist. Did you mean 'exact'"):
        metrics.chosen(described, "exakt")


# -- intervals


def test_wilson_agrees_with_published_intervals():
    # Wilson 95 % for 8 of 10 and for 0 of 10 (Newcombe 1998 and common tables).
    found = wilson([1.0] * 8 + [0.0] * 2)
    assert (round(found.low, 4), round(found.high, 4)) == (0.4902, 0.9433)
    nothing = wilson([0.0] * 10)
    assert (nothing.low, round(nothing.high, 4)) == (0.0, 0.2775)


def test_a_bootstrap_interval_is_as_wide_as_the_normal_one_where_rows_are_many():
    chance = random.Random(3)
    values = [chance.gauss(1.0, 2.0) for _ in range(400)]
    found = bootstrap(values)
    # 1.96 standard errors of 2 / sqrt(400) on each side
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2.0 / math.sqrt(400), rel=0.12)
    assert bootstrap(values) == found  # the same rows, the same interval


def test_a_difference_is_paired_by_row():
    before = [0.1, 0.5, 0.9, 0.3]
    found = difference([value + 0.05 for value in before], before)
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.sure_sign == 1


# -- similar rows


def test_rare_words_count_more_than_common_ones_and_short_texts_more_than_long():
    index = Nearest(
        ["price of the lamp", "price of the chair", "price of the rug and of many other things", "hello"]
    )
    assert index.order("what is the price of a chair", 3) == [1, 0, 2]
    assert index.order("nothing shared here", 3) == []
    assert Nearest([]).order("any", 2) == []


def test_a_score_is_okapis_formula():
    # N = 2 texts of 1 and 3 words, mean 2; "a" in both: idf = ln(1 + 0.5 / 2.5) = 0.182322.
    # text 0: tf 1, norm 1.2 (0.25 + 0.75 / 2) = 0.75 -> 0.182322 * 2.2 / 1.75 = 0.229205
    # text 1: tf 2, norm 1.2 (0.25 + 0.75 * 1.5) = 1.65 -> 0.182322 * 4.4 / 3.65 = 0.219786: the shorter one wins
    assert Nearest(["a", "a a b"]).order("a", 2) == [0, 1]
    # with a third "a" in the second: 0.182322 * 6.6 / (3 + norm); lengths 1 and 3: 6.6 / 4.65 > 2.2 / 1.75
    assert Nearest(["a", "a a a"]).order("a", 2) == [1, 0]


# -- prompts


def shot(name):
    return Case(({"role": "user", "content": name},), name.upper())


def test_examples_stand_before_the_question_as_answered_turns():
    chat = with_shots(shot("q"), [shot("one"), shot("two")], "Shout.")
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
    assert [turn["content"] for turn in chat] == ["Shout.\n\none", "ONE", "two", "TWO", "q"]


def test_only_the_systems_turn_of_the_question_stays():
    system = {"role": "system", "content": "Be brief."}
    chat = with_shots(Case((system, *shot("q").turns), "Q"), [Case((system, *shot("a").turns), "A")])
    assert [turn["role"] for turn in chat] == ["system", "user", "assistant", "user"]


def test_rows_of_every_signal_with_an_answer_become_questions():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert case_of({"messages": turns}) == Case((turns[0],), "Ho")
    assert case_of({"prompt": "p", "completion": "c"}).answer == "c"
    assert case_of({"prompt": "p", "chosen": "good", "rejected": "bad"}).answer == "good"
    assert case_of({"prompt": [turns[0]], "chosen": [turns[1]], "rejected": []}).answer == "Ho"
    assert case_of({"prompt": "p", "answer": 12}).answer == "12"
    assert case_of({"prompt": "p", "completion": "c", "label": True}).answer == "c"


def test_rows_without_an_answer_as_text_become_none():
    call = {"role": "assistant", "content": "", "tool_calls": [{}]}
    for row in (
        {"text": "raw"},
        {"prompt": "p"},
        {"prompt": "p", "completion": " "},
        {"prompt": "p", "completion": "c", "label": False},
        {"messages": [{"role": "user", "content": "Hi"}, call]},
        {"messages": [{"role": "user", "content": "Hi"}, call, {"role": "tool", "content": "1"},
                      {"role": "assistant", "content": "One"}]},
    ):  # fmt: skip
        assert case_of(row) is None, row


def test_as_many_examples_stay_as_fit_and_the_nearest_is_the_last_to_go():
    def length(chat):
        return sum(len(turn["content"]) for turn in chat)

    pool = [shot("aa"), shot("bb")]
    assert fitting(shot("q"), pool, "", length, 9)[1] == 2
    chat, used = fitting(shot("q"), pool, "", length, 8)
    assert (used, chat[0]["content"]) == (1, "bb")
    assert fitting(shot("q"), pool, "", length, 0) == (None, 0)


def test_random_examples_differ_by_question_and_repeat_with_the_seed():
    pool = [shot(str(i)) for i in range(50)]
    assert random_shots(pool, 4, 0, 0) == random_shots(pool, 4, 0, 0)
    assert random_shots(pool, 4, 0, 0) != random_shots(pool, 4, 0, 1)
    assert len(random_shots(pool[:3], 4, 0, 0)) == 3


def test_the_most_similar_example_stands_beside_the_question():
    pool = [shot("red lamp price"), shot("weather"), shot("red lamp price today")]
    found = shots.nearest_shots(Nearest([c.question for c in pool]), pool, shot("price of red lamp today"), 2)
    assert [one.question for one in found] == ["red lamp price", "red lamp price today"]


def test_json_answers_are_looked_into_not_at():
    # keys are form: a capitalised key is no fact
    assert facts_of(json.dumps({"Name": "in Rome with us"})) == {"rome"}
