"""Fixes: each repairs its finding, touches nothing else, and leaves a record that can be looked up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_magic.data import Data
from ft_magic.data.report.fixes import FIXES
from ft_magic.errors import DataError

GOOD = tuple({"prompt": f"Question number {i}?", "completion": f"Answer number {i}."} for i in range(120))
ENGLISH = "This is a plain English answer about the weather in the north of the country, number"
FRENCH = "Ceci est une longue réponse en français sur le temps qu'il fait dans le nord du pays."
STORY = " ".join(f"word{i}" for i in range(60))


class Words:
    """A tokenizer whose tokens are words."""

    def encode_batch(self, texts):
        return [text.split() for text in texts]


def names(data, *settings, **more):
    return {finding.name for finding in data.report(*settings, **more).findings}


REMOVED = {
    "duplicates": GOOD[3],
    "near_duplicates": {"prompt": "question NUMBER 5", "completion": "answer number 5"},
    "empty": {"prompt": "Hello?", "completion": "  "},
    "refusals": {"prompt": "Hello?", "completion": "As an AI language model, I cannot say."},
    "placeholders": {"prompt": "Dear {{name}}", "completion": "Hello."},
    "long": {"prompt": "Long", "completion": "word " * 400},
    "short": {"prompt": "?", "completion": "!"},
}


@pytest.mark.parametrize("name", REMOVED)
def test_a_removing_fix_takes_out_its_rows_alone_and_says_which(name):
    data = Data((*GOOD, REMOVED[name]), "demo", "mine")
    assert name in names(data)
    fixed = data.fix(name)
    assert fixed.rows == GOOD
    assert name not in names(fixed)
    assert fixed.lineage[0].startswith(f"fix {name}: 1 rows removed")
    (repair,) = fixed.repairs
    assert (repair.fix, repair.removed, repair.changed) == (name, (120,), ())
    assert repair.reasons[0][0] == 120
    assert len(data) == 121


CHANGED = {
    "encoding": ("It\u00e2\u20ac\u2122s a caf\u00c3\u00a9", "It\u2019s a caf\u00e9"),
    "html": ("Fish &amp; <b>chips</b><br>now", "Fish & chips\nnow"),
    "pii": ("Ask joe@acme.io", "Ask [EMAIL]"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changing_fix_keeps_every_row_and_says_which_it_changed(name):
    before, after = CHANGED[name]
    data = Data((*GOOD, {"prompt": before, "completion": "Fine."}), "demo")
    assert name in names(data)
    fixed = data.fix(name)
    assert fixed.rows == (*GOOD, {"prompt": after, "completion": "Fine."})
    assert name not in names(fixed)
    assert fixed.lineage == (f"fix {name}: 1 rows changed",)
    assert fixed.repairs[0].changed == (120,)


def test_what_is_lost_cannot_be_repaired_and_is_counted():
    rows = ({"text": "caf\u00c3\u00a9 noir"}, {"text": "a \ufffd sign"})
    fixed = Data(rows, "text").fix("encoding")
    assert [row["text"] for row in fixed] == ["caf\u00e9 noir", "a \ufffd sign"]
    assert fixed.lineage == ("fix encoding: 1 rows changed, 1 still have it",)


def test_half_a_character_stops_no_report_and_is_repaired_before_rows_are_written(tmp_path):
    data = Data(
        (
            *GOOD,
            {
                "prompt": "Smile \ud83d",
                "completion": "One \ud83d\ude00 is enough for the whole day, I think.",
            },
        ),
        "demo",
    )
    assert "encoding" in names(data)
    assert "encoding" in names(data, Words())
    assert len(data.sha256) == 64
    with pytest.raises(DataError, match="half a character"):
        data.to_jsonl(tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())
    fixed = data.fix("encoding")
    assert fixed[120]["completion"].startswith("One \U0001f600")
    assert Data.from_jsonl(fixed.to_jsonl(tmp_path / "a.jsonl")).rows == fixed.rows


def test_pairs_and_labels_have_fixes_of_their_own():
    pairs = (
        {"prompt": "a?", "chosen": "Equal.", "rejected": "Equal."},
        {"prompt": "b?", "chosen": "One.", "rejected": "Two."},
        {"prompt": "b?", "chosen": "Two.", "rejected": "One."},
        {"prompt": "c?", "chosen": "Three.", "rejected": "Four."},
    )
    data = Data(pairs, "pair")
    assert {"same_answers", "contradictions"} <= names(data)
    assert data.fix("same_answers").rows == pairs[1:]
    assert data.fix("contradictions").rows == (pairs[0], pairs[3])
    labels = tuple({"prompt": "a?", "completion": "Yes.", "label": label} for label in (True, False))
    other = {"prompt": "b?", "completion": "No.", "label": True}
    assert Data((*labels, other), "label").fix("contradictions").rows == (other,)


def test_rows_in_another_language_go_and_a_real_mix_is_refused():
    rows = [{"prompt": f"q{i}", "completion": f"{ENGLISH} {i}."} for i in range(8)]
    foreign = {"prompt": "q", "completion": FRENCH}
    fixed = Data((*rows, foreign), "demo").fix("languages")
    assert fixed.rows == tuple(rows)
    assert fixed.repairs[0].reasons == ((8, "language fr, not en"),)
    mix = Data((*rows[:2], foreign, dict(foreign, prompt="r")), "demo")
    with pytest.raises(DataError, match="no main language: en 2, fr 2"):
        mix.fix("languages")


def test_fixes_that_need_more_say_what():
    data = Data(GOOD, "demo")
    with pytest.raises(DataError, match="held-out"):
        data.fix("leakage")
    with pytest.raises(DataError, match="max_length"):
        data.fix("truncated", tokenizer=Words())
    long = {"prompt": "Count", "completion": "one two three four five six seven"}
    fixed = Data((*GOOD, long), "demo").fix("truncated", tokenizer=Words(), max_length=7)
    assert fixed.rows == GOOD


def test_fixes_follow_each_other_and_each_is_recorded():
    data = Data((*GOOD, GOOD[0], {"prompt": "Ask joe@acme.io", "completion": "Fine."}), "demo")
    fixed = data.fix("duplicates", "pii").fix("empty")
    assert [repair.fix for repair in fixed.repairs] == ["duplicates", "pii", "empty"]
    assert fixed.repairs[1].changed == (120,)  # its place once the duplicate was gone
    assert fixed.lineage[-1] == "fix empty: 0 rows removed"
    train, _ = fixed.split(0.1)
    assert train.repairs == fixed.repairs


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": ANYTHING, "completion": ANYTHING}), min_size=1, max_size=12))
def test_no_text_stops_a_report_or_a_fix_and_nothing_goes_uncounted(rows):
    data = Data((*GOOD[:10], *rows), "demo")
    assert "rows" in str(data.report())
    data.report()._repr_html_().encode("utf-8", "surrogatepass")
    for name in FIXES.keys() - {"leakage", "truncated"}:
        fixed = data.fix(name)
        assert len(fixed) == len(data) - len(fixed.repairs[0].removed)
        changed = set(fixed.repairs[0].changed)
        if changed or not fixed.repairs[0].removed:
            assert all(
                (old == new) is (i not in changed)
                for i, (old, new) in enumerate(zip(data, fixed, strict=True))
            )


def test_without_names_nothing_happens():
    data = Data(GOOD, "demo")
    assert data.fix() is data


def test_every_name_a_finding_offers_is_a_fix():
    bad = [*REMOVED.values(), *({"prompt": before, "completion": "Fine."} for before, _ in CHANGED.values())]
    for finding in Data((*GOOD, *bad), "demo").report().findings:
        if "data.fix('" in finding.fix:
            assert finding.fix.split("data.fix('")[1].split("'")[0] in FIXES


@pytest.mark.parametrize(("said", "empty"), [("", 1), ("   ", 1), ("Done.", 0), ("call", 0)])
@pytest.mark.parametrize("field", ["chosen", "rejected", "completion", "messages"])
def test_an_answer_that_only_calls_a_tool_is_not_empty(field, said, empty):
    turn = {"role": "assistant", "content": "" if said == "call" else said}
    if said == "call":
        turn["tool_calls"] = [{"type": "function", "function": {"name": "look", "arguments": {}}}]
    asked = [{"role": "user", "content": "Look it up."}]
    full = {"role": "assistant", "content": "Well."}
    row = {
        "chosen": {"prompt": asked, "chosen": [turn], "rejected": [full]},
        "rejected": {"prompt": asked, "chosen": [full], "rejected": [turn]},
        "completion": {"prompt": asked, "completion": [turn], "label": True},
        "messages": {"messages": [*asked, turn]},
    }[field]
    other = {**row, "prompt": "Other."} if "prompt" in row else {"messages": [*asked, turn, turn]}
    signal = {"completion": "label", "messages": "demo"}.get(field, "pair")
    found = Data((row, other), signal).report().findings
    assert sum(finding.count for finding in found if finding.name == "empty") == 2 * empty
