"""Near-duplicates: what is found equals what comparing every pair finds; the frame of the data does not count."""

import random

import pytest

from ft_magic.data import Data
from ft_magic.data.report.near_duplicates import near_duplicates, near_matches
from ft_magic.data.report.shingles import words_of
from ft_magic.errors import DataError

WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvxz"]
STORY = (
    "The old mill by the river was quiet in the morning and the miller slept while his cat watched the water go by "
    "under the wooden wheel until the baker came with his cart to ask for flour and found nobody there so he sat down "
    "on the steps and ate an apple while the sun rose above the hills and the bells of the village called everyone to "
    "church and only then the door opened"
)


def report_of(rows, signal="demo"):
    return {finding.name: finding for finding in Data(tuple(rows), signal).report().findings}


def story(**changes):
    text = STORY
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def runs(text):
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(first, second):
    """Share of common five-word runs, counted the plain way."""
    return len(first & second) / len(first | second)


def test_what_is_found_equals_what_comparing_every_pair_finds():
    rng = random.Random(7)
    texts = []
    for _ in range(200):
        if texts and rng.random() < 0.5:
            words = rng.choice(texts).split()
            for _ in range(rng.randint(1, 3)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(rng.choices(WORDS, k=80)))
    rows = [{"text": text} for text in texts]
    sets = [runs(text) for text in texts]
    expected = {
        row for row in range(200) if any(jaccard(sets[row], sets[like]) >= 0.8 for like in range(row))
    }
    found = near_duplicates(rows)
    assert 30 < len(expected) < 150  # the case is neither empty nor trivial
    assert {match.row for match in found} == expected
    for match in found:
        assert match.similarity == pytest.approx(jaccard(sets[match.row], sets[match.like]))


def test_the_finding_names_the_row_it_resembles_and_the_fix_keeps_the_earlier_one():
    rows = [
        {"prompt": "Tell a story.", "completion": story()},
        {"prompt": "Name a river.", "completion": "Rhine."},
    ]
    rows.append({"prompt": "Tell a story.", "completion": story(slept="dreamt")})
    finding = report_of(rows)["near_duplicates"]
    assert finding.examples == (2,)
    assert "2 resembles 0 by" in finding.message
    fixed = Data(tuple(rows), "demo").fix("near_duplicates")
    assert list(fixed) == rows[:2]
    assert fixed.repairs[0].removed == (2,)
    assert "resembles row 0" in fixed.repairs[0].reasons[0][1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            {"prompt": "What is 12 + 30?", "completion": "42"},
            {"prompt": "What is 12 + 31?", "completion": "43"},
        ),
        ({"prompt": "Is 3 < 4?", "completion": "yes"}, {"prompt": "Is 3 > 4?", "completion": "no"}),
        # one story, two questions about it answered differently: two lessons
        (
            {"prompt": story() + " Is it happy?", "completion": "positive"},
            {"prompt": story() + " Is it happy?", "completion": "negative"},
        ),
        (
            {"prompt": story(), "completion": "good", "label": True},
            {"prompt": story(), "completion": "good", "label": False},
        ),
        # chosen and rejected the other way round: a contradiction, no repetition
        (
            {"prompt": "Go on.", "chosen": story(), "rejected": " ".join(WORDS[:40])},
            {"prompt": "Go on.", "chosen": " ".join(WORDS[:40]), "rejected": story()},
        ),
    ],
)
def test_rows_that_look_alike_and_say_different_things_are_kept(first, second):
    assert near_duplicates([first, second]) == []


def test_the_answer_decides_among_several_rows_that_look_alike():
    def asked(extra, answer):
        return {"prompt": f"{story()} {extra}", "completion": answer}

    rows = [asked("one", "positive"), asked("two", "negative"), asked("one", "negative")]
    assert [(match.row, match.like) for match in near_duplicates(rows)] == [(2, 1)]


def test_case_punctuation_and_spaces_make_no_difference():
    rows = [{"text": "Hello, world!"}, {"text": "hello   world"}, {"text": "hello brave world"}]
    assert [(match.row, match.like) for match in near_duplicates(rows)] == [(1, 0)]


def test_texts_without_spaces_are_compared_by_characters():
    text = "敏捷的棕色狐狸跳过了懒惰的狗然后跑进了森林深处寻找食物和水源直到天黑才回到自己的洞穴里休息"
    rows = [{"text": text}, {"text": text.replace("棕色", "红色")}, {"text": text[::-1]}]
    assert [match.row for match in near_duplicates(rows)] == [1]
    assert words_of("naïve café, déjà-vu") == ["naïve", "café", "déjà-vu"]


def test_a_system_prompt_or_a_long_instruction_in_every_row_is_no_likeness():
    rules = " ".join(WORDS[:150])
    rows = [
        {
            "messages": [
                {"role": "system", "content": rules},
                {
                    "role": "user",
                    "content": f"Sort this. {rules} {' '.join(WORDS[5 * i % 200 : 5 * i % 200 + 8])} {i}",
                },
                {"role": "assistant", "content": f"{WORDS[i]} {WORDS[i + 9]}"},
            ]
        }
        for i in range(60)
    ]
    assert near_duplicates(rows) == []


def test_a_thousand_rows_alike_are_all_found():
    rows = [{"text": f"{story()} {WORDS[i % len(WORDS)]} {i}"} for i in range(1_000)]
    other = [{"text": " ".join(random.Random(i).choices(WORDS, k=60))} for i in range(6_000)]
    assert {match.row for match in near_duplicates([*rows, *other])} == set(range(1, 1_000))


def test_other_rows_are_compared_whatever_the_answers():
    train = [{"prompt": story(), "completion": "positive"}, {"prompt": "Short one", "completion": "x"}]
    held = [
        {"prompt": "Else", "completion": "y"},
        {"prompt": story(slept="dreamt"), "completion": "negative"},
    ]
    (match,) = near_matches(train, held)
    assert (match.row, match.like) == (0, 1)


def test_without_the_package_the_report_says_what_it_did_not_look_at_and_the_fix_says_what_to_install(
    monkeypatch,
):
    monkeypatch.setattr("ft_magic.data.report.near_duplicates.find_spec", lambda _: None)
    rows = tuple({"prompt": f"Question {i}?", "completion": story()} for i in range(120))
    (finding,) = Data(rows[:1] * 2, "demo").fix().report().findings[-1:]
    assert finding.name == "not_looked_at"
    assert "near-duplicates (rensa is not installed)" in finding.message
    with pytest.raises(DataError, match="rensa"):
        Data(rows, "demo").fix("near_duplicates")


def test_a_split_keeps_near_duplicates_together_where_asked_and_says_where_not():
    rng = random.Random(3)
    rows = []
    for i in range(20):
        words = rng.choices(WORDS, k=60)
        for letter in "abcd":  # each is like the next one, the first and the last less so
            words = [*words[1:], f"{letter}{i}"]
            rows.append({"prompt": " ".join(words), "completion": letter})
    data = Data(tuple(rows), "demo")
    for seed in range(5):
        train, held = data.split(0.3, seed=seed, near=True)
        assert near_matches(train.rows, held.rows) == []
        assert len(train) + len(held) == 80
    assert "near-duplicates together" in train.lineage[-1]
    train, held = data.split(0.3)
    assert near_matches(train.rows, held.rows)
    assert "near-duplicates not looked at" in train.lineage[-1]
