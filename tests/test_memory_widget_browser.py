"""What a person sees and does: the memory widget in JupyterLab, and what a saved notebook keeps of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from ft_magic.memory.cards import CARDS
from ft_magic.memory.table import MODELS

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "browser"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium"),
]
EVIL = "<img src=x onerror=document.body.dataset.hacked=1>"
# The name of the model is a folder's, and a folder may be called anything.
SETUP = f"""
import os, sys, tempfile; sys.path[:0] = [{str(HERE.parent)!r}]
from pathlib import Path
os.chdir(tempfile.mkdtemp())
Path({EVIL!r}).mkdir()
Path({EVIL!r}, "config.json").write_text({json.dumps(dict(MODELS["7B"]))!r})
%load_ext ft_magic
"""
CELLS = (SETUP, f'%ft memory "{EVIL}" --gpu T4 --update qlora --max-length 1024 --micro-batch-size 2')
BOX = "document.querySelector('.ftm-memory')"
FIELD = BOX + ".querySelector('[data-field={}] {}')"
CELL = f"{BOX}.querySelector('.ftm-cell').textContent"
VERDICT = f"{BOX}.querySelector('.ftm-verdict')"
WIDTH = f"Number({BOX}.querySelector('rect[data-part=\"{{}}\"]')?.getAttribute('width') ?? 0)"


def written(path):
    """Write the notebook, unexecuted."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("anywidget")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The notebook, run in JupyterLab."""
    from shot import opened

    with opened(written(tmp_path_factory.mktemp("notebook") / "memory.ipynb"), run=True) as shown:
        shown.wait(f"{BOX}?.querySelector('.ftm-cell').textContent.includes('model:')")
        yield shown


@pytest.fixture
def page(lab):
    """The widget with the settings of its cell."""
    choose(lab, "gpu", "T4")
    choose(lab, "update", "qlora")
    choose(lab, "fill", "")
    choose(lab, "gradient_checkpointing", "true")
    write(lab, "max_length", 1024)
    write(lab, "micro_batch_size", 2)
    lab.wait(f"{CELL}.includes('max_length: 1024\\nmicro_batch_size: 2\\ngradient_checkpointing: true')")
    lab.wait(f"{VERDICT}.dataset.level == 'fits' && {CELL}.includes('update: qlora')")
    return lab


def choose(page, field, value):
    """Take an entry of a menu, or tick or clear a box."""
    put = f"f.checked = {value}" if value in ("true", "false") else f"f.value = '{value}'"
    place = FIELD.format(field, ":is(select, input)")
    page.js(f"(f => {{ {put}; f.dispatchEvent(new Event('change', {{bubbles: true}})); }})({place})")


def write(page, field, value):
    """Write a number beside a slider."""
    place = FIELD.format(field, "[type=number]")
    page.js(
        f"(f => {{ f.value = {value}; f.dispatchEvent(new Event('change', {{bubbles: true}})); }})({place})"
    )


def press(page, key, code, times=1):
    """Press a key in what has the focus."""
    for _ in range(times):
        for kind in ("keyDown", "keyUp"):
            page.call(
                "Input.dispatchKeyEvent",
                type=kind if kind == "keyUp" else "rawKeyDown",
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )


def test_a_slider_moved_by_keys_changes_bar_verdict_and_cell(page):
    before = page.js(WIDTH.format("activations")) / page.js(WIDTH.format("weights"))
    page.js(FIELD.format("max_length", "[type=range]") + ".focus()")
    press(page, "End", 35)  # 131,072 tokens
    page.wait(f"{CELL}.includes('max_length: 131072')")
    page.wait(f"{VERDICT}.dataset.level == 'over'")
    assert page.js(f"{VERDICT}.textContent").startswith("Does not fit the T4: needs ")
    assert page.js(WIDTH.format("activations")) / page.js(WIDTH.format("weights")) > 10 * before
    assert page.js(f"{BOX}.querySelector('.ftm-ways').textContent").startswith("What would make it fit")
    press(page, "ArrowLeft", 37, times=3)  # 65,536, 32,768, 24,576: the last question is the one that counts
    page.wait(f"{CELL}.includes('max_length: 24576')")
    # The keys moved the slider, not the notebook's cells.
    assert page.js("document.activeElement.type") == "range"


def test_the_limit_s_line_stands_where_the_card_ends(page):
    bar = f"{BOX}.querySelector('.ftm-chart')"
    for card in ("T4", "4090"):
        size = CARDS[card].memory_bytes
        choose(page, "gpu", card)
        page.wait(f"{bar}.textContent.includes('{size / 2**30:.2f} GiB')")
        line = page.js(f"Number({bar}.querySelector('[data-limit]').getAttribute('x1'))")
        # 7B in NF4: half a byte for each of 6,476,005,376 weights of the linear layers.
        unit = page.js(WIDTH.format("weights")) / (6_476_005_376 / 2)
        assert line / unit == pytest.approx(size, rel=0.01)


def test_a_menu_changes_colour_and_numbers(page):
    colours = {page.js(f"getComputedStyle({VERDICT}).color")}
    choose(page, "update", "full")
    page.wait(f"{VERDICT}.dataset.level == 'over'")
    assert page.js(WIDTH.format("adapter")) == 0
    assert page.js(FIELD.format("lora_r", "[type=range]") + ".closest('label').dataset.off") == "true"
    colours.add(page.js(f"getComputedStyle({VERDICT}).color"))
    choose(page, "gpu", "H200")
    page.wait(f"{VERDICT}.dataset.level == 'fits' && {VERDICT}.textContent.includes('H200')")
    assert len(colours) == 2


def test_a_suggestion_is_taken_with_one_press(page):
    choose(page, "gradient_checkpointing", "false")
    write(page, "micro_batch_size", 16)
    page.wait(f"{VERDICT}.dataset.level == 'over'")
    rows = f"[...{BOX}.querySelectorAll('.ftm-ways .ftm-row')]"
    page.wait(
        f"{rows}.some(r => r.textContent.includes('gradient_checkpointing: true') && r.textContent.includes(', fits'))"
    )
    page.js(
        f"{rows}.find(r => r.textContent.includes('gradient_checkpointing: true')).querySelector('button').click()"
    )
    page.wait(
        f"['fits', 'tight'].includes({VERDICT}.dataset.level) && {CELL}.includes('gradient_checkpointing: true')"
    )
    assert page.js(FIELD.format("gradient_checkpointing", "input") + ".checked")


def test_a_slider_can_follow_the_card(page):
    length = "Number(" + FIELD.format("max_length", "[type=number]") + ".value)"
    choose(page, "fill", "max_length")
    page.wait(f"{length} > 1024")
    on_t4 = page.js(length)
    assert page.js(FIELD.format("max_length", "[type=range]") + ".closest('label').dataset.filled") == "true"
    choose(page, "gpu", "A100-80")
    page.wait(f"{length} > 2 * {on_t4}")
    assert f"max_length: {page.js(length)}\n" in page.js(CELL)
    write(page, "micro_batch_size", 8)
    page.wait(f"{CELL}.includes('micro_batch_size: 8') && {length} < 60000")
    write(page, "max_length", 512)  # moved by hand, it follows no more
    page.wait(f"{FIELD.format('fill', 'select')}.value == '' && {CELL}.includes('max_length: 512')")


def test_what_cannot_be_is_refused_in_words_and_the_next_change_works(page):
    write(page, "max_length", 3)
    page.wait(f"{BOX}.querySelector('.ftm-waits').textContent.includes('whole number from 8')")
    write(page, "max_length", 2048)
    page.wait(f"{CELL}.includes('max_length: 2048')")
    assert page.js(f"{BOX}.querySelector('.ftm-waits').textContent") == ""


def test_a_model_s_name_is_text(page):
    assert EVIL in page.js(CELL)
    assert page.js("document.body.dataset.hacked ?? null") is None
    assert page.js(f"{BOX}.querySelectorAll('img, script').length") == 0


def test_above_the_widget_stands_plotly_s_chart_with_the_limit(page):
    page.wait("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 1")
    assert f"T4: {CARDS['T4'].memory_bytes / 2**30:.2f} GiB" in page.js(
        "document.querySelector('.js-plotly-plot').textContent"
    )


def test_a_notebook_run_by_a_machine_keeps_table_and_chart_and_no_widget(tmp_path):
    import nbformat
    from nbclient import NotebookClient
    from shot import opened

    path = written(tmp_path / "saved.ipynb")
    made = nbformat.read(path, as_version=4)
    NotebookClient(made, timeout=120).execute()
    bundles = [output.get("data", {}) for cell in made.cells for output in cell.outputs]
    assert not any("application/vnd.jupyter.widget-view+json" in bundle for bundle in bundles)
    for bundle in bundles:  # as front ends without plotly see it
        bundle.pop("application/vnd.plotly.v1+json", None)
    nbformat.write(made, path)
    with opened(path, theme="dark") as page:
        page.wait("document.querySelector('img[alt^=\"Peak memory\"]')?.naturalWidth > 0")
        assert "quantization constants" in page.js("document.querySelector('.jp-Notebook').textContent")
        assert page.js("document.body.dataset.hacked ?? null") is None
