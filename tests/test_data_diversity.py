"""Diversity: distinct-2 by hand, answers that begin or are all alike, and labels that repeat by right."""

import random

from ft_magic.data import Data
from ft_magic.data.report.diversity import diversity_of

WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvxz"]


def rows_of(answers):
    return tuple(
        {"prompt": f"Question number {i}?", "completion": answer} for i, answer in enumerate(answers)
    )


def names(answers):
    return {finding.name for finding in Data(rows_of(answers), "demo").report().findings}


def test_distinct_2_is_the_share_of_different_neighbours():
    # pairs: a b, b a, a b | a b, b c -> 3 different of 5
    found = diversity_of([{"text": "a b a b"}, {"text": "A b, c"}])
    assert found.distinct_2 == 3 / 5
    assert found.words == 7
    assert diversity_of([{"text": ""}]) is None


def test_answers_that_begin_alike_are_a_warning():
    rng = random.Random(0)
    said = [" ".join(rng.choices(WORDS, k=15)) for _ in range(120)]
    alike = [f"Sure, I can help with {text}" if i % 10 < 6 else text for i, text in enumerate(said)]
    assert "openings" not in names(said)
    finding = next(f for f in Data(rows_of(alike), "demo").report().findings if f.name == "openings")
    assert "60 % of answers begin 'sure i can help with'" in finding.message
    assert finding.examples == (0, 1, 2)


def test_answers_from_one_template_are_a_warning_and_varied_ones_are_none():
    rng = random.Random(1)
    template = "{} went to the market and bought a large basket of fresh apples for the whole family today"
    alike = [template.format(" ".join(rng.choices(WORDS, k=2))) for _ in range(200)]
    assert "diversity" in names(alike)
    varied = [" ".join(rng.choices(WORDS, k=20)) for _ in range(200)]
    assert "diversity" not in names(varied)


def test_labels_and_json_repeat_by_right():
    assert names(["positive" if i % 2 else "negative" for i in range(200)]) == set()
    form = '{"intent": "question", "order": null, "reply": "Thank you for writing to us, number %d is on its way"}'
    assert names([form % i for i in range(200)]) == set()
