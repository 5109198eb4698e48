"""The row browser of an audit: what it is sent, and what stays without it."""

import json
import re

import pytest
from tiny_tokenizer import save

import ft_magic as ft
from ft_magic.ui import template_view, widget

EVIL = "<script>alert(1)</script>"


def chat(answer):
    return {
        "messages": [{"role": "user", "content": f"Say it {EVIL}."}, {"role": "assistant", "content": answer}]
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def sent(monkeypatch):
    """Give a function that returns the first state of an audit's widget and its answers to messages."""

    def of(audit):
        made = {}
        monkeypatch.setattr(
            widget, "make", lambda _asset, state, answer: made.update(state=state, answer=answer)
        )
        audit.widget()
        return made["state"], made["answer"]

    return of


@pytest.fixture
def audit(folder):
    rows = [chat(f"Word {i}.") for i in range(80)]
    rows[70] = chat("very long " * 60)
    return ft.check_template(str(folder), rows, max_length_tokens=300)


def test_the_pieces_of_a_row_are_its_tokens_with_what_is_trained_and_special(folder):
    audit = ft.check_template(str(folder), [chat("hello né")])
    view = template_view.row_view(audit, 0)
    side = view["sides"][0]
    rendered = audit.render(0)
    assert [token for _, ids, _ in side["pieces"] for token in ids] == rendered.ids
    trained = "".join(text for text, _, flags in side["pieces"] if flags & 1)
    assert trained == "hello né<|im_end|>"
    assert [text for text, _, flags in side["pieces"] if flags & 2][-1] == "<|im_end|>"
    assert (side["tokens"], side["trained"], side["cut"]) == (len(rendered.ids), sum(rendered.mask), 0)


def test_it_begins_at_a_row_with_a_finding_and_sends_first_rows_and_findings(audit, sent):
    state, _ = sent(audit)
    assert state["first"] == 70
    assert state["marked"] == [70]
    assert {"70", "0", "49"} <= state["rows"].keys()
    assert "79" not in state["rows"]
    levels = [why[0] for why in state["rows"]["70"]["why"]]
    assert "warning" in levels
    assert state["rows"]["0"]["why"] == []


def test_other_rows_come_on_demand(audit, sent):
    _, answer = sent(audit)
    assert [row["index"] for row in answer({"kind": "rows", "want": [79, 80, -3]})["rows"]] == [79]


def test_the_first_state_stays_small_with_long_rows(folder, sent):
    rows = [chat("some words " * 900) for _ in range(60)]
    state, _ = sent(ft.check_template(str(folder), rows))
    # 1 MB a second is what jupyter_server lets through.
    assert 1 <= len(state["rows"]) < 50
    assert len(json.dumps(state)) < 1_000_000


def test_a_row_longer_than_a_page_says_how_much_is_not_shown(folder):
    audit = ft.check_template(str(folder), [chat("x" * 5000)])
    side = template_view.row_view(audit, 0)["sides"][0]
    assert side["more"] == len(template_view.pieces_of(audit.tokenizer, audit.render(0))) - len(
        side["pieces"]
    )
    assert side["more"] > 0


def test_both_sides_of_a_pair_are_sent(folder):
    audit = ft.check_template(str(folder), [{"prompt": "Say A.", "chosen": "A", "rejected": "B"}])
    assert [side["name"] for side in template_view.row_view(audit, 0)["sides"]] == ["chosen", "rejected"]


def test_a_row_that_cannot_be_rendered_says_why(folder, tmp_path):
    strict = save(tmp_path / "strict", template="{{ raise_exception('no such role') }}")
    audit = ft.check_template(str(strict), [chat("A")])
    view = template_view.row_view(audit, 0)
    assert view["sides"] == []
    assert "no such role" in view["error"]


def test_what_stays_in_a_saved_notebook_is_escaped(audit):
    html = audit._repr_html_()
    assert "<script" not in html
    assert EVIL in re.sub(r"<[^>]*>", "", html).replace("&lt;", "<").replace("&gt;", ">")


def test_without_a_person_or_a_notebook_the_card_alone_is_shown(audit, monkeypatch):
    monkeypatch.setattr(widget, "has_kernel", lambda: False)
    with pytest.raises(NotImplementedError):
        audit._ipython_display_()


def test_the_card_and_the_widget_stand_in_outputs_of_their_own(audit, monkeypatch):
    display = pytest.importorskip("IPython.display")
    pytest.importorskip("anywidget")
    shown = []
    monkeypatch.setattr(widget, "drawable", lambda: True)
    monkeypatch.setattr(display, "display", lambda bundle, **how: shown.append((bundle, how)))
    audit._ipython_display_()
    card, drawn = shown
    assert "text/html" in card[0]
    assert card[1]["display_id"] is True
    assert "application/vnd.jupyter.widget-view+json" in drawn[0]
    assert "text/html" not in drawn[0]
    assert EVIL not in card[0]["text/html"]


def test_the_widgets_load_nothing_and_build_no_markup_from_data():
    for asset in ("template.js", "review.js"):
        code = widget.module_of(asset)
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "http:",
            "https:",
            "import(",
            "fetch(",
            "eval(",
        ):
            assert word not in code
    style = (widget._ASSETS / widget._STYLE).read_text()
    assert "url(" not in style
    assert "@import" not in style
