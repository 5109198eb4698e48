"""Lengths: per role, in tokens or characters, with what would be cut."""

import pytest

from ft_magic.data import Data
from ft_magic.data.report.lengths import lengths_of, outliers
from ft_magic.errors import DataError

CHAT = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "four"},
        {"role": "tool", "content": "5"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "a b c d e f g h i j"},
    ]
}


class Words:
    def encode_batch(self, texts):
        return [text.split() for text in texts]


def by_role(rows, tokenizer=None):
    return {role.role: role for role in lengths_of(rows, tokenizer).by_role()}


def test_each_role_of_a_conversation_is_counted():
    roles = by_role([CHAT], Words())
    assert list(roles) == ["system", "user", "assistant", "tool"]
    assert (roles["user"].count, roles["user"].median, roles["user"].max) == (2, 1.5, 3)
    assert (roles["assistant"].count, roles["assistant"].max) == (2, 10)
    assert lengths_of([CHAT], Words()).rows[0] == 2 + 3 + 1 + 1 + 0 + 10
    assert by_role([CHAT])["tool"].max == 1


def test_plain_fields_and_the_two_answers_of_a_pair_are_told_apart():
    turns = [{"role": "assistant", "content": "good"}]
    row = {
        "prompt": [{"role": "user", "content": "why"}],
        "chosen": turns,
        "rejected": [dict(turns[0], content="no")],
    }
    assert {name: role.max for name, role in by_role([row]).items()} == {
        "user": 3,
        "chosen": 4,
        "rejected": 2,
    }
    assert list(by_role([{"prompt": "a", "completion": "b"}])) == ["prompt", "completion"]


def test_bins_double_and_hold_every_length():
    role = by_role([{"text": "x" * length} for length in (0, 1, 2, 3, 4, 7, 8, 100)])["text"]
    assert role.bins == (2, 2, 2, 1, 0, 0, 1)
    assert role.range_of_bins == (0, 127)
    assert role.p90 == 100
    assert by_role([{"text": "x" * length} for length in range(1, 11)])["text"].p90 == 9


def test_rows_beyond_a_length_are_counted_the_longest_first():
    rows = [{"prompt": "p " * size, "completion": "c"} for size in (1, 9, 10, 30)]
    finding = next(f for f in Data(tuple(rows), "demo").report(Words(), 10).findings if f.name == "truncated")
    assert (finding.count, finding.examples) == (2, (3, 2))
    assert "10 tokens" in finding.message
    assert not any(f.name == "truncated" for f in Data(tuple(rows), "demo").report(Words(), 31).findings)
    with pytest.raises(DataError, match="without a tokenizer"):
        Data(tuple(rows), "demo").report(max_length=10)


def test_outliers_are_far_from_the_rest_in_both_directions():
    lengths = [100, 110, 120, 130, 90, 95, 105, 115, 9_000, 2, 0]
    assert outliers(lengths) == ([8], [9])
    assert outliers([100, 9_000]) == ([], [])


def test_the_card_shows_a_picture_for_each_role_and_loads_nothing():
    data = Data((CHAT,) * 3, "demo")
    for shown in (data.report()._repr_html_(), data._repr_html_()):
        assert shown.count("<img") == 4
        assert "http" not in shown
        assert "<svg" not in shown
    text = str(data.report())
    assert "assistant: 6 x, median" in text


def test_a_role_with_markup_in_its_name_is_escaped():
    row = {"messages": [{"role": "<script>", "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert "<script" not in Data((row,), "demo").report()._repr_html_()


def test_long_documents_are_counted_in_whole_numbers():
    report = Data(({"text": "word " * 300_000}, {"text": "word " * 300_000}), "text").report()
    assert "median 1500000, longest 1500000 characters" in str(report)
    assert "e+0" not in str(report) + report._repr_html_()
