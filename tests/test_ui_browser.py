"""What a person sees: the live chart in JupyterLab, in an untrusted notebook, in an export, and the report."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ui_events import write_run

from ft_magic.ui.report import write_report

sys.path.insert(0, str(Path(__file__).parent / "browser"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium"),
]
HERE = Path(__file__).parent
SETUP = f"""
import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
from ui_events import sample_run
from ft_magic.ui.live import Live
from ft_magic.ui.charts import figure
"""
LIVE = """
with Live('run') as live:
    for event in sample_run(method='dpo'):
        live.update([event])
"""
# Half of the run, then time to look at it, then the rest.
HALVES = """
import time
with Live('run') as live:
    events = sample_run(method='dpo')
    half = next(i for i, event in enumerate(events) if event.get('step') == 30)
    live.update(events[:1])
    time.sleep(1)
    live.update(events[1:half + 1])
    time.sleep(5)
    live.update(events[half + 1:])
"""
CELLS = (SETUP, LIVE, "figure(sample_run())", HALVES)
IMAGES = "[...document.querySelectorAll('img[alt^=\"Training chart\"]')]"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook with a live chart and a figure, executed."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(made, timeout=120).execute()
    # Without it JupyterLab asks which kernel to take.
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path_factory.mktemp("notebook") / "live.ipynb"
    nbformat.write(made, path)
    return path


def test_a_live_chart_leaves_one_output_with_its_final_state(notebook):
    import nbformat

    outputs = nbformat.read(notebook, as_version=4).cells[1].outputs
    assert len(outputs) == 1
    assert "finished" in outputs[0].data["text/plain"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_jupyterlab_draws_the_interactive_chart_on_a_clear_ground(notebook, theme):
    from shot import opened

    with opened(notebook, theme=theme) as page:
        page.wait("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2")
        ground = page.js(
            "getComputedStyle(document.querySelector('.js-plotly-plot .main-svg')).backgroundColor"
        )
        assert ground.replace(" ", "") in ("rgba(0,0,0,0)", "transparent")


def test_a_chart_run_in_jupyterlab_is_updated_in_place(notebook):
    from shot import opened

    with opened(notebook, run=True) as page:
        page.wait("document.querySelectorAll('.js-plotly-plot').length == 3")
        # The front end draws the last update a moment after the cell has ended.
        page.wait("document.querySelector('.js-plotly-plot').textContent.includes('finished')", 20)


def test_jupyterlab_shows_every_step_while_the_cell_still_runs(notebook):
    from shot import opened

    with opened(notebook, run=True, ended=False) as page:
        page.wait(f"{IMAGES}.some(image => image.alt.includes('step 30 of 60'))", 60)
        assert page.js("document.querySelectorAll('.js-plotly-plot').length") == 2
        page.wait("document.querySelectorAll('.js-plotly-plot').length == 3", 60)


def test_an_untrusted_notebook_without_plotly_shows_picture_and_numbers(notebook, tmp_path):
    import nbformat
    from shot import opened

    plain = nbformat.read(notebook, as_version=4)
    for cell in plain.cells:
        for output in cell.outputs:
            output.data.pop("application/vnd.plotly.v1+json", None)
    nbformat.write(plain, tmp_path / "plain.ipynb")
    with opened(tmp_path / "plain.ipynb") as page:
        page.wait(f"{IMAGES}.length == 3 && {IMAGES}.every(i => i.complete && i.naturalWidth > 0)")
        assert "60 of 60" in page.js(
            "document.querySelector('.jp-OutputArea-output table').parentNode.textContent"
        )


def test_an_exported_notebook_keeps_the_pictures(notebook, tmp_path):
    from shot import Browser

    command = [
        sys.executable,
        "-m",
        "jupyter",
        "nbconvert",
        "--to",
        "html",
        "--output-dir",
        str(tmp_path),
        notebook,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Browser() as page:
        page.open((tmp_path / "live.html").as_uri())
        page.wait(f"{IMAGES}.length == 3 && {IMAGES}.every(i => i.complete && i.naturalWidth > 0)")


def test_the_report_follows_the_reader_s_theme_and_fits_its_width(tmp_path):
    from shot import Browser

    report = write_report(write_run(tmp_path / "run"))
    grounds = []
    with Browser() as page:
        for dark in (False, True):
            page.open(report.as_uri(), dark=dark)
            page.wait("document.querySelector('img').naturalWidth > 0")
            grounds.append(page.js("getComputedStyle(document.body).backgroundColor"))
            assert page.js("document.documentElement.scrollWidth <= innerWidth")
        page.size(400, 900)
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
    assert len(set(grounds)) == 2
