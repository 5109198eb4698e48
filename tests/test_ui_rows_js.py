"""The widgets' own logic, run by node: which key does what, and where it leads."""

import json
import shutil
import subprocess

import pytest

from ft_magic.ui import widget

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@pytest.fixture(scope="module")
def js(tmp_path_factory):
    """Give a function that evaluates an expression beside the exports of a widget's module."""
    folder = tmp_path_factory.mktemp("js")

    def run(expression, asset="review.js"):
        (folder / "widget.mjs").write_text(widget.module_of(asset), encoding="utf-8")
        code = f'import * as w from "./widget.mjs"; console.log(JSON.stringify({expression}));'
        (folder / "test.mjs").write_text(code, encoding="utf-8")
        out = subprocess.run(["node", "test.mjs"], cwd=folder, capture_output=True, text=True, check=True)
        return json.loads(out.stdout)

    return run


def test_keys_page_and_jump_and_leave_other_keys_alone(js):
    keys = ["j", "ArrowRight", "k", "ArrowLeft", "n", "p", "Home", "End", "x", "Tab"]
    found = js(f"{json.dumps(keys)}.map((key) => w.action({{key}}) ?? null)")
    assert found[:4] == ["next", "next", "previous", "previous"]
    assert found[4:8] == ["next-marked", "previous-marked", "first", "last"]
    assert found[8:] == [None, None]


def test_keys_in_a_field_and_with_a_modifier_do_nothing(js):
    assert js(
        '[w.action({key: "j", typing: true}) ?? null, w.action({key: "j", ctrlKey: true}) ?? null]'
    ) == [None, None]


def test_a_widget_s_own_keys_come_first(js):
    assert js('[w.action({key: "a"}, {a: "accept"}), w.action({key: "j"}, {a: "accept"})]') == [
        "accept",
        "next",
    ]


@pytest.mark.parametrize(
    ("place", "what", "expected"),
    [
        (0, "next", 1),
        (9, "next", 9),
        (0, "previous", 0),
        (5, "first", 0),
        (5, "last", 9),
        (3, "next-marked", 7),
        (7, "next-marked", 2),
        (2, "previous-marked", 7),
        (5, "previous-marked", 2),
    ],
)
def test_paging_stops_at_the_ends_and_findings_go_round(js, place, what, expected):
    assert js(f'w.moved({place}, "{what}", 10, [2, 7])', "template.js") == expected


def test_without_findings_the_row_stays(js):
    assert js('w.moved(4, "next-marked", 10, [])', "template.js") == 4


def test_rows_at_hand_are_told_as_ranges(js):
    assert js("w.ranges([7, 0, 1, 2, 9, 10])") == "0 to 2, 7, 9 to 10"


def test_after_a_decision_comes_the_next_undecided_row(js):
    assert js('[w.next_open([..."auua"], 1), w.next_open([..."auaa"], 3), w.next_open([..."aaaa"], 2)]') == [
        2,
        1,
        2,
    ]


def test_decisions_are_counted(js):
    assert js('w.counted([..."aauer"])') == {"a": 2, "e": 1, "r": 1, "u": 1}
