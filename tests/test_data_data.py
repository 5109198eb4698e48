"""Data: slices, fixes, splits, round trips, digests and how it shows itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.data import Data, load_data
from ft_magic.errors import DataError

TEXT = st.text(min_size=1, max_size=30).filter(lambda text: text.strip())
DEMOS = st.lists(st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}), min_size=2, max_size=40)


def demos(count, prompts=None):
    return Data(
        tuple(
            {"prompt": f"p{index % (prompts or count)}", "completion": f"c{index}"} for index in range(count)
        ),
        "demo",
    )


def test_slices_are_data_and_single_rows_are_dicts():
    data = demos(10)
    assert data[3] == {"prompt": "p3", "completion": "c3"}
    assert [row["completion"] for row in data[2:6:2]] == ["c2", "c4"]
    assert data[2:6:2].lineage == ("rows 2:6:2 of 10",)
    assert [row["completion"] for row in data[-2:]] == ["c8", "c9"]
    assert len(list(data)) == len(data) == 10


def test_fixes_remove_what_they_name_and_say_so():
    row = {"prompt": "a", "completion": "b"}
    data = Data((row, dict(row), {"prompt": "a", "completion": " "}), "demo")
    fixed = data.fix("duplicates", "empty")
    assert fixed.rows == (row,)
    assert fixed.lineage == ("fix duplicates: 1 rows removed", "fix empty: 1 rows removed")
    assert len(data) == 3
    with pytest.raises(DataError, match="Did you mean 'duplicates'"):
        data.fix("duplicate")
    with pytest.raises(DataError, match="would leave no row"):
        Data(({"text": ""},), "text").fix("empty")


@given(DEMOS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_loses_nothing_leaks_no_prompt_and_repeats(rows, fraction, seed):
    data = Data(tuple(rows), "demo")
    if len({(row["prompt"], row["completion"]) for row in rows}) < 2:
        with pytest.raises(DataError, match="fewer than two different"):
            data.split(fraction, seed)
        return
    train, held = data.split(fraction, seed)
    assert len(train) >= 1
    assert len(held) >= 1
    assert sorted(map(str, [*train, *held])) == sorted(map(str, rows))
    assert data.split(fraction, seed) == (train, held)
    if len({row["prompt"] for row in rows}) > 1:
        assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}


def test_a_split_has_the_asked_size_where_prompts_differ():
    train, held = demos(200).split(0.1, seed=3)
    assert (len(train), len(held)) == (180, 20)
    assert held.rows != demos(200).split(0.1, seed=4)[1].rows


def test_rows_that_share_one_prompt_are_split_by_whole_row():
    data = demos(10, prompts=1)
    train, held = data.split(0.3)
    assert (len(train), len(held)) == (7, 3)
    assert "equal rows together" in held.lineage[-1]


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 2])
def test_a_split_needs_a_fraction(fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        demos(10).split(fraction)


@given(DEMOS)
def test_rows_survive_the_way_through_a_file(tmp_path_factory, rows):
    data = Data(tuple(rows), "demo")
    folder = tmp_path_factory.mktemp("rows")
    again = Data.from_jsonl(data.to_jsonl(folder / "a.jsonl"))
    assert again.rows == data.rows
    assert again.sha256 == data.sha256
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


def test_the_digest_depends_on_content_and_order():
    data = demos(3)
    assert data.sha256 == demos(3).sha256
    assert Data(data.rows[::-1], "demo").sha256 != data.sha256
    assert (
        Data(({"completion": "b", "prompt": "a"},), "demo").sha256
        == Data(({"prompt": "a", "completion": "b"},), "demo").sha256
    )


def test_files_of_unnormalised_rows_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="normalised rows"):
        Data.from_jsonl(path)


def test_the_card_escapes_what_it_shows_and_loads_nothing():
    evil = "<script>alert(1)</script>"
    data = load_data([{evil: evil, "b": evil}], columns={"prompt": evil, "completion": "b"})
    for shown in (data._repr_html_(), data.report()._repr_html_()):
        assert "<script" not in shown
        assert "http" not in shown
    assert "&lt;script&gt;" in data._repr_html_()


def test_the_text_form_is_one_line():
    data = load_data([{"question": "a", "answer": "b"}, {"question": "a", "answer": ""}])
    assert repr(data) == "Data(rows: 1 demo rows, shape question and answer, 1 source rows dropped)"


def test_frames_hold_the_rows():
    frame = demos(3).to_frame()
    assert list(frame["completion"]) == ["c0", "c1", "c2"]
