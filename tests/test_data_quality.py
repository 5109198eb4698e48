"""Report: each finding has a row that has it and data that has not."""

import pytest

from ft_magic.data import Data

GOOD = tuple({"prompt": f"Question number {i}?", "completion": f"Answer number {i}."} for i in range(120))
PAIRS = tuple(
    {"prompt": f"Question {i}?", "chosen": f"Good answer {i}.", "rejected": f"Poor answer {i}."}
    for i in range(120)
)


def findings(rows, signal="demo", tokenizer=None):
    return {finding.name: finding for finding in Data(tuple(rows), signal).report(tokenizer).findings}


def test_good_rows_give_no_findings():
    assert findings(GOOD) == {}
    assert findings(PAIRS, "pair") == {}
    assert findings([{"text": row["prompt"]} for row in GOOD[:3]], "text") == {}


@pytest.mark.parametrize(
    ("row", "name", "level"),
    [
        (GOOD[0], "duplicates", "warning"),
        ({"prompt": "Question number 0?", "completion": "Something else."}, "different_answers", "warning"),
        ({"prompt": "", "completion": "Answer number 0."}, "empty", "problem"),
        ({"prompt": "Hello {{name}}, who are you?", "completion": "I am."}, "placeholders", "warning"),
        ({"prompt": "A broken caf\u00c3\u00a9 here", "completion": "I am."}, "encoding", "warning"),
        ({"prompt": "A broken \ufffd sign", "completion": "I am."}, "encoding", "warning"),
        ({"prompt": "It\u00e2\u20ac\u2122s broken", "completion": "I am."}, "encoding", "warning"),
        ({"prompt": "A line<br>and another", "completion": "I am."}, "html", "info"),
        ({"prompt": "Fish &amp; chips now", "completion": "I am."}, "html", "info"),
        ({"prompt": "Long one", "completion": "word " * 400}, "long", "info"),
        ({"prompt": "?", "completion": "!"}, "short", "info"),
    ],
)
def test_one_bad_row_is_found_and_pointed_at(row, name, level):
    finding = findings([*GOOD, row])[name]
    assert finding.level == level
    assert 120 in finding.examples or name == "different_answers"
    assert finding.count == (2 if name == "different_answers" else 1)


@pytest.mark.parametrize(
    "text",
    [
        "Write `<br>` in HTML, or:\n```html\n<p>x</p>\n```",
        "café, naïve, Ångström, São, SÃO PAULO",
        "a < b && c > d",
        "{x} {{}}",
    ],
)
def test_honest_text_is_not_accused(text):
    assert findings([*GOOD, {"prompt": text, "completion": "Answer number 120."}]) == {}


def test_few_rows_are_told_what_to_do_instead():
    finding = findings(GOOD[:99])["few"]
    assert "prompt" in finding.fix
    assert "few" not in findings(GOOD[:100])


def test_pairs_without_a_difference_or_with_a_length_bias():
    same = {"prompt": "Question x?", "chosen": "Equal.", "rejected": "Equal."}
    assert findings([*PAIRS, same], "pair")["same_answers"].examples == (120,)
    longer = [dict(row, chosen=row["chosen"] * 2) for row in PAIRS]
    finding = findings(longer, "pair")["length_bias"]
    assert "2.06 times" in finding.message or "2." in finding.message
    assert "longer in 120 of 120" in finding.message


def test_lengths_are_tokens_where_a_tokenizer_is_given():
    class Words:
        def encode_batch(self, texts):
            return [text.split() for text in texts]

    report = Data(GOOD, "demo").report(Words())
    assert report.unit == "tokens"
    assert report.length_max == 6


def test_a_report_reads_as_lines_and_as_a_frame():
    report = Data((*GOOD, GOOD[0]), "demo").report()
    assert "warning: 1 row exactly equal" in str(report)
    assert "data.fix('duplicates')" in str(report)
    assert list(report.to_frame()["name"]) == ["duplicates"]
