import json
import random
import re

import pytest

from ft_magic import samples
from ft_magic.errors import DataError
from ft_magic.samples import make_preferences, make_sums, make_triage, preference_words, triage_words
from ft_magic.samples.triage import KEYS, score, summary

RIGHT = '{"intent": "refund", "order": null, "item": "teapot", "reply": "We will refund the teapot within two days."}'


def lines(name):
    return [json.loads(line) for line in samples.path(name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", samples.NAMES)
def test_every_sample_is_shipped_and_small(name):
    assert 0 < samples.path(name).stat().st_size < 200_000


def test_all_samples_together_are_small_enough_to_ship():
    folder = samples.path("triage").parent
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 400_000


def test_an_unknown_sample_names_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'triage'"):
        samples.path("triag")


def test_the_script_makes_the_shipped_files_again(tmp_path):
    for script in (make_triage, make_preferences, make_sums):
        script.write(tmp_path)
    for name in samples.NAMES.keys() - {"handbook"}:
        assert (tmp_path / samples.NAMES[name]).read_bytes() == samples.path(name).read_bytes()


def test_the_training_file_has_the_blemishes_of_a_real_export_and_no_others():
    rows = lines("triage")
    answered = [row for row in rows if row["output"]]
    assert len(rows) - len(answered) == 1
    assert len(answered) == make_triage.TRAIN_EXAMPLES + make_triage.REPEATED_EXAMPLES
    assert len({row["input"] for row in answered}) == make_triage.TRAIN_EXAMPLES


@pytest.mark.parametrize("name", ["triage", "triage_heldout"])
def test_every_answer_is_one_line_of_json_with_the_keys(name):
    for row in lines(name):
        if row["output"]:
            assert "\n" not in row["output"]
            assert tuple(json.loads(row["output"])) == KEYS


@pytest.mark.parametrize("name", ["triage", "triage_heldout"])
def test_an_order_number_in_the_answer_is_one_the_message_has(name):
    for row in lines(name):
        order = json.loads(row["output"])["order"] if row["output"] else None
        found = [
            word.strip(".,()").upper() for word in row["input"].split() if word.strip(".,()")[1:2] == "-"
        ]
        assert found == ([order] if order else [])


@pytest.mark.parametrize("name", ["triage", "triage_heldout"])
def test_the_item_in_the_answer_is_in_the_message(name):
    for row in lines(name):
        if row["output"]:
            assert json.loads(row["output"])["item"] in row["input"].lower()


def test_held_out_messages_share_no_phrasing_or_thing_with_training():
    train = " ".join(row["input"].lower() for row in lines("triage"))
    words = triage_words.HELD_OUT
    sentences = [core for cores in words.cores.values() for core in cores]
    for text in (*words.items, *filter(None, words.tones)):
        assert text.lower() not in train
    for sentence in sentences:
        for item in triage_words.TRAIN.items:
            assert sentence.format(item=item).lower() not in train


def test_each_intent_has_its_share_of_both_files():
    for name, count in (
        ("triage", make_triage.TRAIN_EXAMPLES),
        ("triage_heldout", make_triage.HELD_OUT_EXAMPLES),
    ):
        answers = {row["input"]: json.loads(row["output"])["intent"] for row in lines(name) if row["output"]}
        for intent in make_triage.INTENTS:
            assert list(answers.values()).count(intent) == count // len(make_triage.INTENTS)


def test_preference_rows_prefer_the_right_answer():
    for row in lines("triage_pairs"):
        assert score(row["prompt"], row["chosen"], row["chosen"]).exact
        assert not score(row["prompt"], row["rejected"], row["chosen"]).exact


def test_neither_length_nor_a_repeated_text_tells_a_better_answer_from_a_worse_one():
    rows = lines("preferences")
    shorter = sum(len(row["chosen"]) < len(row["rejected"]) for row in rows) / len(rows)
    assert 0.3 < shorter < 0.7
    assert not {row["chosen"] for row in rows} & {row["rejected"] for row in rows}
    assert max([row["rejected"] for row in rows].count(row["rejected"]) for row in rows) <= len(rows) // 20


def test_held_out_preferences_speak_of_other_matters_than_training():
    for key in ("prompt", "chosen"):
        assert not {row[key] for row in lines("preferences")} & {
            row[key] for row in lines("preferences_heldout")
        }
    matters = {case.about for case in preference_words.TRAIN}
    assert not matters & {case.about for case in preference_words.HELD_OUT}


@pytest.mark.parametrize("name", ["sums", "sums_heldout"])
def test_the_answer_to_a_sum_is_right_and_the_prompts_are_all_different(name):
    rows = lines(name)
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        first, second = map(int, re.findall(r"\d+", row["prompt"]))
        assert int(row["answer"]) in (first + second, abs(first - second))


def test_held_out_sums_tell_stories_of_their_own():
    stories = [
        {re.sub(r"\d+", "", row["prompt"]) for row in lines(name)} for name in ("sums", "sums_heldout")
    ]
    assert not stories[0] & stories[1]


def test_the_loader_reads_every_sample_as_its_signal_and_reports_the_blemishes():
    data = pytest.importorskip("ft_magic.data")
    signals = {name: data.load_data(samples.path(name)).signal for name in samples.NAMES}
    assert signals == {
        "triage": "demo", "triage_heldout": "demo", "triage_pairs": "pair", "handbook": "text",
        "preferences": "pair", "preferences_heldout": "pair", "sums": "demo", "sums_heldout": "demo",
    }  # fmt: skip
    assert data.load_data(samples.path("sums"), signal="prompt")[0].keys() == {"prompt", "answer"}
    loaded = data.load_data(samples.path("triage"))
    assert loaded.dropped.count == 1
    assert {finding.name: finding.count for finding in loaded.report().findings}["duplicates"] == 3


def test_the_right_answer_is_exact_whatever_its_spacing_and_key_order():
    shuffled = json.dumps(dict(reversed(json.loads(RIGHT).items())), indent=1)
    assert score("p", f" {shuffled}\n", RIGHT).exact


@pytest.mark.parametrize(
    "answer", ["", "null", "[1]", "Sure! " + RIGHT, "```json\n" + RIGHT + "\n```", RIGHT + RIGHT, RIGHT[:-1]]
)
def test_anything_but_one_json_object_scores_nothing(answer):
    got = score("p", answer, RIGHT)
    assert not (got.valid_json)
    assert not (got.right_keys)
    assert not (got.intent)
    assert not (got.order)
    assert not (got.item)
    assert not (got.reply)


def test_a_missing_key_is_wrong_even_where_null_is_expected():
    fields = json.loads(RIGHT)
    del fields["order"]
    got = score("p", json.dumps(fields), RIGHT)
    assert got.valid_json
    assert got.intent
    assert not (got.right_keys)
    assert not (got.order)
    assert not (got.exact)


def test_one_more_key_is_not_the_right_keys():
    got = score("p", json.dumps({**json.loads(RIGHT), "note": ""}), RIGHT)
    assert got.reply
    assert not (got.right_keys)
    assert not (got.exact)


@pytest.mark.parametrize(
    ("field", "value"), [("item", ["teapot"]), ("order", "null"), ("intent", None), ("reply", 1)]
)
def test_a_field_of_another_type_is_wrong(field, value):
    got = score("p", json.dumps({**json.loads(RIGHT), field: value}), RIGHT)
    assert got.right_keys
    assert not getattr(got, field)
    assert not got.exact


def test_the_summary_counts_shares():
    wrong_intent = json.dumps({**json.loads(RIGHT), "intent": "cancel"})
    got = summary([score("p", answer, RIGHT) for answer in (RIGHT, wrong_intent, "no", "{}")])
    assert (got.examples, got.valid_json, got.right_keys) == (4, 0.75, 0.5)
    assert (got.intent, got.order, got.exact) == (0.25, 0.5, 0.25)
    assert str(got).startswith("4 answers: valid_json 75%, right_keys 50%, intent 25%")


def test_the_summary_of_nothing_is_zero():
    assert summary([]).exact == 0


def test_examples_are_all_different_and_repeatable():
    made = make_triage.examples(triage_words.TRAIN, 50, random.Random(1))
    assert len({example.message.lower() for example in made}) == 50
    assert made == make_triage.examples(triage_words.TRAIN, 50, random.Random(1))
