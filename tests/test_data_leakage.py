"""Leakage: rows that are also, or nearly, held out."""

from ft_magic.data import Data
from ft_magic.data.report.leakage import leaks

LONG = " ".join(f"word{i}" for i in range(80))
ROWS = tuple({"prompt": f"Question number {i}?", "completion": f"Answer number {i}."} for i in range(120))
HELD = (
    {"prompt": "Something else entirely?", "completion": "Yes."},
    ROWS[4],
    {"prompt": "Question number 7?", "completion": "Another answer."},
    {"prompt": "Read.", "completion": LONG.replace("word40", "other")},
)


def test_equal_rows_equal_prompts_and_near_rows_are_leaks():
    train = (*ROWS, {"prompt": "Read.", "completion": LONG})
    found = {leak.row: (leak.like, leak.how) for leak in leaks(train, HELD[:3])}
    assert found == {4: (1, "equal"), 7: (2, "prompt")}
    other = {"prompt": "Read it.", "completion": LONG}
    assert [(leak.row, leak.like, leak.how) for leak in leaks((other,), HELD)] == [(0, 3, "near")]


def test_the_report_names_them_and_the_fix_takes_them_out_of_the_training_side():
    data, held = Data(ROWS, "demo"), Data(HELD, "demo")
    finding = next(f for f in data.report(heldout=held).findings if f.name == "leakage")
    assert (finding.level, finding.examples) == ("problem", (4, 7))
    assert "1 equal rows, 1 with an equal prompt" in finding.message
    fixed = data.fix("leakage", heldout=held)
    assert len(fixed) == 118
    assert fixed.repairs[0].reasons == (
        (4, "equal to held-out row 1"),
        (7, "has the prompt of held-out row 2"),
    )
    assert not [f for f in fixed.report(heldout=held).findings if f.name == "leakage"]
    assert len(held) == 4


def test_one_prompt_for_all_rows_is_no_leak():
    train = [{"prompt": "Write a line.", "completion": f"Line {i}."} for i in range(10)]
    held = [{"prompt": "Write a line.", "completion": f"Verse {i}."} for i in range(4)]
    assert leaks(train, held) == []
    assert [leak.row for leak in leaks(train, [*held, train[2]])] == [2]


def test_a_split_of_ours_leaks_nothing():
    train, held = Data(ROWS, "demo").split(0.1)
    assert train.report(heldout=held).findings == ()
