"""Runs from a real kernel with real worker processes: interrupt, detach, attach, restart, and the live display."""

import json
import os
import signal
import time

import pytest
from rows import demos

pytest.importorskip("jupyter_client")

from live_kernel import started

import ft_magic as ft
from ft_magic import follow

CELL = """%%finetune {name} {options}
model: {model}
data: {data}
backend: fake
audit: off
name: {name}
max_steps: {steps}
save_steps: 1000
trainer:
  fake_step_s: 0.02
"""


@pytest.fixture
def cell(tiny, runs_folder, tmp_path):
    """Make the text of a cell that trains with the fake backend; stop what is left running at the end."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(demos()))

    def make(name, steps=3000, options=""):
        return CELL.format(name=name, model=tiny, data=rows, steps=steps, options=options)

    yield make
    for run in ft.runs():
        if run.folder.worker_alive():
            follow.stop_now(run.folder)


@pytest.fixture
def kernel(runs_folder):
    with started(runs_folder) as made:
        made.run("%load_ext ft_magic")
        yield made


def run_after_steps(name, count=3):
    """Return the run once it has told some steps."""
    deadline = time.monotonic() + 30
    while True:
        found = [run for run in ft.runs() if run.name == name]
        if found and sum(e.kind == "step" for e in found[0].events()) >= count:
            return found[0]
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)


def text_of(outputs):
    return "\n".join(part if isinstance(part, str) else part["data"]["text/plain"] for _, part in outputs)


def test_one_display_handle_shows_the_run_and_keeps_its_final_state(kernel, cell):
    outputs = kernel.outputs(kernel.start(cell("short", steps=60)))
    shown = [content for kind, content in outputs if kind in ("display_data", "update_display_data")]
    handles = {content["transient"]["display_id"] for content in shown if content.get("transient")}
    assert len(handles) == 1
    assert sum(kind == "display_data" for kind, _ in outputs) == 1
    # 60 steps of 20 ms are 1.2 s: twice a second, the first and the last make at most five.
    assert len(shown) <= 7
    last = shown[-1]["data"]
    assert set(last) == {"application/vnd.plotly.v1+json", "text/html", "text/plain"}
    assert "finished" in last["text/plain"]
    assert "data:image/svg+xml;base64," in last["text/html"]
    assert kernel.run("short.status") == [("execute_result", "'finished'")]


def test_the_first_interrupt_saves_and_returns_the_run(kernel, cell):
    sent = kernel.start(cell("long"))
    run_after_steps("long")
    kernel.manager.interrupt_kernel()
    outputs = kernel.outputs(sent)
    assert "Interrupt again to stop at once" in text_of(outputs)
    assert not [part for kind, part in outputs if kind == "error"]
    assert kernel.run("long.status") == [("execute_result", "'stopped'")]
    assert ft.open_run("long").folder.latest_checkpoint() is not None


def test_the_second_interrupt_ends_a_worker_in_the_middle_of_a_step(kernel, cell):
    sent = kernel.start(cell("stuck").replace("0.02", "600"))
    deadline = time.monotonic() + 30
    while not any(e.kind == "loaded" for run in ft.runs() for e in run.events()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kernel.manager.interrupt_kernel()
    time.sleep(1.0)
    kernel.manager.interrupt_kernel()
    assert "Interrupt again" in text_of(kernel.outputs(sent, timeout_s=20))
    assert kernel.run("stuck.status") == [("execute_result", "'stopped'")]


def test_a_detached_run_outlives_its_kernel_and_another_attaches(runs_folder, cell):
    with started(runs_folder) as first:
        first.run("%load_ext ft_magic")
        first.run(cell("free", steps=400, options="--detach"))
        run_after_steps("free")
    assert ft.open_run("free").status == "running"
    with started(runs_folder) as second:
        second.run("%load_ext ft_magic")
        outputs = second.outputs(second.start("%ft attach free"))
    assert "finished" in text_of(outputs)


def test_a_run_whose_kernel_is_restarted_saves_and_can_be_resumed(kernel, cell):
    kernel.start(cell("orphan", steps=150))
    run = run_after_steps("orphan")
    kernel.manager.shutdown_kernel(now=True)
    assert run.wait(20) == "stopped"
    saved = run.folder.latest_checkpoint()
    assert saved is not None
    assert run.resume(detach=True).wait(30) == "finished"


def test_a_killed_worker_is_two_clean_lines_and_the_log(kernel, cell):
    sent = kernel.start(cell("victim"))
    os.kill(run_after_steps("victim").pid, signal.SIGKILL)
    errors = [part for kind, part in kernel.outputs(sent) if kind == "error"]
    assert len(errors) == 1
    assert errors[0].startswith("RunError: the worker of run victim was killed")
    assert "%ft resume victim" in errors[0]
    assert "Traceback" not in errors[0]


def test_a_typing_error_is_one_clear_line_and_starts_nothing(kernel, cell):
    ((kind, text),) = kernel.outputs(kernel.start(cell("typo").replace("max_steps", "max_stpes")))
    assert kind == "error"
    assert text.splitlines()[0] == "SpecError: unknown key 'max_stpes'. Did you mean 'max_steps'?"
    assert len(ft.runs()) == 0
