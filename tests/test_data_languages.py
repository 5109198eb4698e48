"""Languages: the mix is told, rows unlike the rest are pointed at, doubtful ones are not accused."""

import pytest

from ft_magic.data import Data
from ft_magic.data.report import languages
from ft_magic.data.report.languages import mix_of

ENGLISH = "This is a plain English answer about the weather in the north of the country, number"
GERMAN = "Das ist eine ausführliche deutsche Antwort über das Wetter im Norden des Landes."


def english(count):
    return [{"prompt": f"q{i}", "completion": f"{ENGLISH} {i}."} for i in range(count)]


def finding(rows):
    found = [f for f in Data(tuple(rows), "demo").report().findings if f.name == "languages"]
    return found[0] if found else None


def test_a_row_in_another_language_is_pointed_at():
    found = finding([*english(9), {"prompt": "q", "completion": GERMAN}])
    assert (found.level, found.count, found.examples) == ("info", 1, (9,))
    assert "en 90.0 %, de 10.0 %" in found.message
    assert "data.fix('languages')" in found.fix


def test_a_mixture_is_told_and_nobody_accused():
    found = finding([*english(3), *({"prompt": f"q{i}", "completion": GERMAN} for i in range(3))])
    assert "several languages" in found.message
    assert found.fix == ""


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "42",
        "Amanda, James, John, Maria",
        "```\nfür alle in der Liste: gib aus\n```",
        "1. Java\n2. C++",
        "",
    ],
)
def test_names_numbers_and_code_belong_to_no_language(answer):
    assert finding([*english(9), {"prompt": "q", "completion": answer}]) is None


def test_the_answer_decides_not_the_question():
    assert finding([*english(9), {"prompt": GERMAN, "completion": f"{ENGLISH} 9."}]) is None


def test_of_many_rows_a_sample_evenly_spread_is_looked_at_and_the_finding_says_so(monkeypatch):
    monkeypatch.setattr(languages, "SAMPLE_ROWS", 10)
    rows = [*english(99), {"prompt": "q", "completion": GERMAN}]
    mix = mix_of(rows)
    assert list(mix.told) == list(range(0, 100, 10))
    assert mix_of(rows, every=True).foreign() == [99]
    rows[50] = rows[99]
    assert "looked at 10 of 100 rows" in finding(rows).message
