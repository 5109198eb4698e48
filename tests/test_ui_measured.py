"""What a preflight and a shortage of memory look like: on the chart, in words, in the plan and in the report."""

import json

import pytest
from situations import situation

from ft_magic import events
from ft_magic.events import Event
from ft_magic.planning import decide
from ft_magic.spec import parse
from ft_magic.ui import svg
from ft_magic.ui.charts import figure
from ft_magic.ui.headline import numbers_line
from ft_magic.ui.history import History
from ft_magic.ui.panels import build
from ft_magic.ui.plan import plan_text
from ft_magic.ui.report import page

GIB = 2**30


def told(*, steps=4, eta_steps=0):
    planned = {
        "name": "r", "method": "sft", "update": "lora", "total_steps": 8, "model": "m", "eta_s": 300.0,
        "eta_steps": eta_steps, "memory_bytes": 2 * GIB, "memory_limit_bytes": 12 * GIB,
    }  # fmt: skip
    tried = {
        "measured_bytes": 3 * GIB, "step_bytes": 3 * GIB, "eval_bytes": GIB, "planned_bytes": 2 * GIB,
        "limit_bytes": 12 * GIB, "step_s": 5.0, "eta_s": 40.0,
        "message": "the longest rows take 3.00 GiB, 2.00 GiB were estimated, 12.00 GiB are there.",
    }  # fmt: skip
    found = [Event("planned", 1.0, planned), Event("started", 2.0, {}), Event("preflight", 3.0, tried)]
    for step in range(1, steps + 1):
        fields = {
            "step": step,
            "total_steps": 8,
            "loss": 2 / step,
            "memory_bytes": int(2.5 * GIB),
            "step_s": 1.0,
        }
        found.append(Event("step", 3.0 + step, fields))
    return found


SHORT = Event(
    "oom_retry",
    9.0,
    {"step": 3, "message": "out of memory after step 3: micro-batch 4 -> 2.", "fix": "The batch stays."},
)


def test_both_have_a_sign_of_their_own_on_both_kinds_of_chart():
    chart = build(History([*told(), SHORT]))
    kinds = {sign.mark.kind: sign.mark for sign in chart.signs}
    assert kinds["preflight"].step == 0
    assert "3.00 GiB, 2.00 GiB were estimated" in kinds["preflight"].text
    assert kinds["out of memory"].step == 3
    drawn = svg.draw(chart)
    assert ">preflight<" in drawn
    assert ">out of memory<" in drawn
    names = {trace.name for trace in figure([*told(), SHORT]).data}
    assert {"preflight", "out of memory"} <= names


def test_the_memory_panel_shows_the_estimate_and_the_preflight_beside_the_steps():
    chart = build(History(told()))
    (panel,) = (panel for panel in chart.side if panel.title == "memory, GiB")
    levels = {curve.name: curve.y[0] for curve in panel.curves if curve.name}
    assert levels == {"planned": 2.0, "preflight": 3.0}


def test_the_line_of_numbers_names_what_was_planned():
    assert "2.50 GiB (2.00 GiB planned)" in numbers_line(build(History(told())).summary)


@pytest.mark.parametrize(("eta_steps", "left_s"), [(0, 40.0), (12, 299.0)])
def test_before_the_first_step_time_left_is_the_preflights_or_an_earlier_runs(eta_steps, left_s):
    summary = build(History(told(steps=0, eta_steps=eta_steps))).summary
    assert summary.eta_s == pytest.approx(left_s)  # since the run began one second has passed
    assert summary.memory_bytes == 3 * GIB


def test_a_shortage_is_among_the_notes_with_what_was_done():
    notes = build(History([*told(), SHORT])).notes
    assert any("micro-batch 4 -> 2" in note and "The batch stays." in note for note in notes)


def test_the_report_tells_estimate_preflight_and_steps_side_by_side(tmp_path):
    text = "".join(event.to_json() + "\n" for event in [*told(), SHORT])
    (tmp_path / "events.jsonl").write_text(text)
    html = page(tmp_path)
    for said in (
        "estimated by the plan",
        "training step on the longest rows",
        "2.50 GiB",
        "micro-batch 4 -&gt; 2",
    ):
        assert said in html


def test_a_runs_plan_shows_what_was_measured(tmp_path):
    from ft_magic.run import Run

    plan = decide.make(parse({"model": "demo", "data": "rows.json", "max_steps": 8}), situation())
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    (tmp_path / "run.json").write_text("{}")
    writer = events.Writer(tmp_path / "events.jsonl")
    for event in told():
        writer.emit(event.kind, **event.data)
    shown = plan_text(Run(tmp_path).plan)
    assert "measured" in shown
    assert "3.00 GiB" in shown
    assert "% of the estimate" in shown
