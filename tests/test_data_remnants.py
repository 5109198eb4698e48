"""Remnants: blanks, damaged characters, HTML; code and honest text stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_magic.data.report.remnants import has_blank, has_html, is_damaged, repaired, without_html


@pytest.mark.parametrize(
    "text",
    [
        "Hi {{name}}",
        "Best,\n[Your Name]",
        "on [insert date] at",
        "<your company>",
        "Lorem ipsum dolor sit amet",
    ],
)
def test_blanks(text):
    assert has_blank(text)


@pytest.mark.parametrize(
    "text",
    [
        "{x} {{}} [1] [NAME] [EMAIL]", "```jinja\n{{ user }}\n```", "use `{{name}}` here", "[Enter ALEXANDER]",
        "if x <your_value_is_big and y", "a[yours]", "The lorem ipsum text is Latin.",
    ],
)  # fmt: skip
def test_no_blanks(text):
    assert not has_blank(text)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("<p>One</p><p>Two</p>", "One\nTwo"),
        ("a<br/>b<br>\nc", "a\nb\nc"),
        ('See <a href="x?a=1&amp;b=2">this</a> &lt;now&gt;', "See this <now>"),
        ("5 &gt; 3 and a < b && c > d", "5 > 3 and a < b && c > d"),
        ("<ul><li>x</li><li>y</li></ul>", "x\ny"),
        ("<b>bold</b> and `<b>code</b>`\n```\n<i>x</i>\n```", "bold and `<b>code</b>`\n```\n<i>x</i>\n```"),
        ("caf&#233; &nbsp;noir<!-- note -->", "caf\u00e9  noir"),
        ("<Python> & <T> stay, <em>this</em> goes", "<Python> & <T> stay, this goes"),
    ],
)
def test_html_goes_and_code_stays(text, bare):
    assert has_html(text)
    assert without_html(text) == bare


@pytest.mark.parametrize(
    "text",
    [
        "```html\n<div>x</div>\n```", "Write `</p>`.", "a < b && c > d", "List<String> x; R&D; AT&T",
        "In HTML, <b>bold</b> is bold.", "<!DOCTYPE html><html><body><p>x</p></body></html>",
    ],
)  # fmt: skip
def test_text_about_html_and_code_are_no_remnants(text):
    assert not has_html(text)


@given(st.text(alphabet=st.sampled_from("ab <>&/\n.`")))
def test_text_without_tags_or_entities_stays_as_it_is(text):
    if (
        "<a" not in text.lower()
        and "</a" not in text.lower()
        and "<b" not in text.lower()
        and "</b" not in text.lower()
    ):
        assert without_html(text) == text


def test_halves_of_a_character_are_damage_and_two_become_one():
    assert is_damaged("\ud83d\ude00 and \ud83d")
    assert repaired("\ud83d\ude00 and \ud83d") == "\U0001f600 and \ufffd"


def test_damage_is_repaired_and_honest_text_kept():
    for right in (
        "caf\u00e9 na\u00efve",
        "It\u2019s \u201cfine\u201d",
        "\u041f\u0440\u0438\u0432\u0435\u0442",
    ):
        wrong = right.encode().decode("latin-1")
        assert is_damaged(wrong)
        assert repaired(wrong) == right
    for honest in ("S\u00c3O PAULO", "\u00c5ngstr\u00f6m", "\u201cquoted\u201d &amp; \ufb01ne"):
        assert not is_damaged(honest)
        assert repaired(honest) == honest
