"""What a person sees and does: the row browser and the review in JupyterLab, and what a saved notebook keeps."""

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
EVIL = (
    '<script>document.body.dataset.hacked = 1</script><img src=x onerror="document.body.dataset.hacked = 1">'
)
SETUP = f"""
import os, sys, tempfile; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
os.environ['FT_MAGIC_RUNS'] = @RUNS@
from pathlib import Path
import ft_magic as ft
from tiny_tokenizer import save
folder = str(save(Path(tempfile.mkdtemp()) / 'tiny'))
rows = [{{'prompt': f'Name colour {{i}}. ' + {EVIL!r}, 'completion': f'It is colour {{i}}.'}} for i in range(120)]
rows[7]['completion'] = rows[90]['completion'] = 'a long answer ' * 100
"""
CELLS = (SETUP, "ft.check_template(folder, rows, max_length_tokens=400)", "review = ft.review(rows)\nreview")
BOX = "document.querySelectorAll('.ftm-box')"
NUMBER = "Number(document.querySelectorAll('.ftm-number')[{}].value)"


def written(path, runs):
    """Write the notebook, unexecuted."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("anywidget")
    cells = [nbformat.v4.new_code_cell(cell.replace("@RUNS@", repr(str(runs)))) for cell in CELLS]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The notebook, run in JupyterLab."""
    from shot import opened

    runs = tmp_path_factory.mktemp("runs")
    notebook = written(tmp_path_factory.mktemp("notebook") / "widgets.ipynb", runs)
    with opened(notebook, run=True) as shown:
        shown.wait(f"{BOX}.length == 2")
        shown.runs = runs
        yield shown


def press(page, box, *keys):
    """Press keys in one of the widgets."""
    page.js(f"{BOX}[{box}].focus()")
    for key in keys:
        for kind in ("keyDown", "keyUp"):
            text = key if len(key) == 1 and kind == "keyDown" else ""
            page.call("Input.dispatchKeyEvent", type=kind, key=key, text=text)


def test_keys_page_through_the_rows_and_jump_to_findings(page):
    assert page.js(NUMBER.format(0)) == 7  # the first row with a finding
    press(page, 0, "j", "ArrowRight", "k")
    assert page.js(NUMBER.format(0)) == 8
    press(page, 0, "n")
    assert page.js(NUMBER.format(0)) == 90
    # JupyterLab's own j and k would have moved to another cell.
    assert page.js("document.activeElement.className") == "ftm-box"


def test_a_row_that_was_not_sent_along_comes_from_the_kernel(page):
    press(page, 0, "End")
    page.wait(f"{BOX}[0].querySelector('.ftm-tokens').textContent.includes('Name colour 119.')")


def test_trained_and_special_tokens_are_marked_and_ids_can_be_shown(page):
    press(page, 0, "Home")
    trained = f"[...{BOX}[0].querySelectorAll('.ftm-tokens .ftm-trained')].map(p => p.textContent).join('')"
    page.wait(f"{trained} == 'It is colour 0.<|im_end|>'")
    assert page.js(f"{BOX}[0].querySelector('.ftm-tokens .ftm-special').textContent") == "<|im_start|>"
    press(page, 0, "i")
    page.wait(f"{BOX}[0].querySelector('.ftm-id')?.textContent == '1'")
    press(page, 0, "i")


def test_markup_in_rows_is_text(page):
    press(page, 0, "Home")
    page.wait(f"{BOX}[0].querySelector('.ftm-tokens').textContent.includes({EVIL!r})")
    assert page.js("document.body.dataset.hacked ?? null") is None
    assert page.js(f"{BOX}[0].querySelectorAll('img, script').length") == 0


def test_decisions_are_written_while_one_clicks(page):
    import json

    press(page, 1, "a", "r", "e")
    page.wait(f"{BOX}[1].querySelectorAll('textarea').length == 2")
    page.js(f"{BOX}[1].querySelectorAll('textarea')[1].value = 'It is mauve.'")
    page.js(f"[...{BOX}[1].querySelectorAll('button')].find(b => b.textContent == 'save').click()")
    page.wait(f"{BOX}[1].textContent.includes('1 accepted, 1 edited, 1 rejected, 117 undecided')")
    page.wait(f"!{BOX}[1].textContent.includes('Not saved yet')")
    (file,) = (page.runs / "reviews").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["state"] for line in lines] == ["accepted", "rejected", "edited"]
    assert lines[2]["edited"]["completion"] == "It is mauve."
    # The table that stays in the saved notebook says the same.
    static = "[...document.querySelectorAll('.jp-OutputArea-output')].map(o => o.textContent).join('\\n')"
    page.wait(f"{static}.includes('Review of rows: 1 accepted, 1 edited, 1 rejected, 117 undecided')")


def test_a_refused_edit_says_why_and_the_row_stays_undecided(page):
    press(page, 1, "n", "e")
    page.wait(f"{BOX}[1].querySelectorAll('textarea').length == 2")
    page.js(f"{BOX}[1].querySelectorAll('textarea')[1].value = '  '")
    page.js(f"[...{BOX}[1].querySelectorAll('button')].find(b => b.textContent == 'save').click()")
    page.wait(f"{BOX}[1].querySelector('.ftm-problem')?.textContent.includes('would have no prompt')")


def test_a_notebook_run_by_a_machine_shows_card_and_table_and_no_widget(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    from shot import opened

    path = written(tmp_path / "saved.ipynb", tmp_path / "runs")
    made = nbformat.read(path, as_version=4)
    NotebookClient(made, timeout=120).execute()
    outputs = [output for cell in made.cells for output in cell.outputs]
    assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    nbformat.write(made, path)
    with opened(path, theme="dark") as page:
        page.wait("document.querySelectorAll('.jp-OutputArea-output').length >= 2")
        text = page.js("document.querySelector('.jp-Notebook').textContent")
        assert "special tokens" in text
        assert "120 undecided" in text
        assert page.js("document.body.dataset.hacked ?? null") is None
