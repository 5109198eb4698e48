from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.ui import show


def test_cells_are_escaped_unless_they_are_markup_already():
    made = show.table_html([["<script>x</script>", show.badge_html("a<b", show.GOOD)]], ["<h>"])
    assert "<script>" not in made
    assert "&lt;script&gt;" in made
    assert "<h>" not in made
    assert "<span" in made
    assert "a&lt;b" in made


def test_a_table_has_no_style_element_that_an_untrusted_notebook_would_drop():
    shown = show.shown_table([["a", 1]], ["x", "y"], title="t", notes=["n"])
    assert "<style" not in shown.html
    assert "class=" not in shown.html
    assert repr(shown) == "t\nx  y\n-  -\na  1\nn"


def test_columns_of_numbers_are_set_right_and_gaps_are_dashes():
    text = show.text_table([["a", 5], ["b", None], ["c", 12_345]], ["name", "n"]).splitlines()
    assert text == ["name       n", "----  ------", "a          5", f"b          {show.DASH}", "c     12,345"]


def test_wide_characters_take_two_columns():
    lines = show.text_table([["日本", "x"], ["abcd", "y"]]).splitlines()
    assert lines == ["日本  x", "abcd  y"]


@given(st.text(), st.integers(min_value=1, max_value=80))
def test_cut_text_is_one_line_that_fits(text, columns):
    line = show.cut(text, columns)
    assert "\n" not in line
    assert show._columns(line) <= columns


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (show.gib(0), "0 B"),
        (show.gib(3 * 2**29), "1.50 GiB"),
        (show.gib(96 * 2**20), "96.0 MiB"),
        (show.gib(None), show.DASH),
        (show.seconds(0.4), "0.4 s"),
        (show.seconds(59.6), "1 min 00 s"),
        (show.seconds(200), "3 min 20 s"),
        (show.seconds(7500), "2 h 05 min"),
        (show.seconds(100_000), "1 d 3 h"),
        (show.seconds(float("nan")), show.DASH),
        (show.count(12_345), "12,345"),
        (show.count(134_515_008), "134.5 M"),
        (show.number(2.1534), "2.153"),
        (show.number(12), "12.00"),
        (show.number(2e-4), "2e-4"),
        (show.number(1_234_567.0), "1.235e6"),
        (show.number(float("nan")), show.DASH),
        (show.number(float("-inf")), "-\u221e"),
    ],
)
def test_numbers_read_as_people_write_them(made, expected):
    assert made == expected


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e300))
def test_a_formatted_number_keeps_its_value(value):
    assert float(show.number(value).replace(",", "")) == pytest.approx(value, rel=1e-3)


def test_the_notebook_bundle_has_both_forms():
    bundle = (show.Shown("<p>a</p>", "a") + show.Shown("<p>b</p>", "b"))._repr_mimebundle_(
        include=None, exclude=None
    )
    assert bundle == {"text/html": "<p>a</p>\n<p>b</p>", "text/plain": "a\n\nb"}
