"""The form of an advice in JupyterLab: what a person chooses decides at once, and the saved tables follow."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "browser"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium"),
]
EVIL = "<img src=x onerror='document.body.dataset.hacked = 1'>"
SETUP = f"""
import sys; sys.path[:0] = [{str(HERE.parent)!r}]
%load_ext ft_magic
evil = {EVIL!r}
rows = [{{'prompt': f'Room {{i}}? ' + evil, 'completion': f'In that room sits Ada{{i}}, phone {{7000 + i}}. ' + evil}}
        for i in range(60)]
"""
CELLS = (SETUP, "%ft advise demo $rows --no-measure -o told")
BOX = "document.querySelector('.ftm-box')"
OUTPUTS = "[...document.querySelectorAll('.jp-OutputArea-output')].map(o => o.textContent).join('\\n')"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The notebook, run in JupyterLab."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("anywidget")
    from shot import opened

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path_factory.mktemp("notebook") / "advise.ipynb"
    nbformat.write(made, path)
    with opened(path, run=True) as shown:
        shown.wait(f"{BOX} !== null")
        yield shown


def choose(page, place, word):
    """Choose an answer in one of the menus, as a person does."""
    menu = f"{BOX}.querySelectorAll('select')[{place}]"
    page.js(f"{menu}.value = {word!r}; {menu}.dispatchEvent(new Event('change'))")


def test_three_questions_stand_there_unanswered(page):
    assert (
        page.js(f"[...{BOX}.querySelectorAll('select')].map(m => m.selectedOptions[0].textContent)")
        == ["not answered"] * 3
    )
    assert page.js(f"{BOX}.textContent.includes('depends. Nobody has answered')")


def test_answers_decide_at_once_and_the_tables_that_stay_follow(page):
    choose(page, 0, "facts")
    choose(page, 1, "daily")
    page.wait(f"{BOX}.textContent.includes('do not fine-tune. ')")
    page.wait(f'{BOX}.textContent.includes(\'told.answer(needs="facts", facts_change="daily")\')')
    page.wait(f"{OUTPUTS}.includes('demo on rows: do not fine-tune')")
    choose(page, 1, "never")
    page.wait(f"{BOX}.textContent.includes('retrieval. ')")


def test_markup_in_rows_is_text(page):
    assert page.js("document.body.dataset.hacked ?? null") is None
