from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ui_events import START_T, sample_run, step_fields

from ft_magic.events import Event, parse
from ft_magic.ui import charts
from ft_magic.ui.history import History
from ft_magic.ui.panels import build
from ft_magic.ui.thinning import POINTS, smooth, thin


def steps(losses, *, evals=(), start=1, **fields):
    made = [Event("started", START_T, {})]
    for i, loss in enumerate(losses):
        made.append(
            Event(
                "step", START_T + i, {"step": start + i, "total_steps": len(losses), "loss": loss, **fields}
            )
        )
    return made + [Event("eval", START_T, {"step": step, "loss": loss}) for step, loss in evals]


# -- the numbers


def test_steps_repeated_after_a_resume_replace_the_lost_ones():
    events = sample_run(60, resume_at=30, lost=7)
    repeated = [e for e in events if e.kind == "step" and e["step"] == 34]
    assert len(repeated) == 2
    history = History(events)
    assert list(history.steps) == list(range(1, 61))
    assert history.steps[34] is repeated[1]
    assert [m.step for m in history.marks if m.kind == "resume"] == [30]


def test_lost_steps_that_are_not_repeated_yet_are_forgotten():
    events = steps([3.0, 2.9, 2.8, 2.7, 2.6], evals=[(2, 2.5), (4, 2.4)])
    events += [Event("started", START_T + 90, {}), Event("step", START_T + 91, {"step": 3, "loss": 9.0})]
    found = charts.summary(events)
    assert (found.step, found.loss_last, found.eval_last) == (3, 9.0, 2.5)


def test_a_curve_asked_for_before_a_resume_is_the_same_as_one_asked_for_after_it():
    events = sample_run(60, resume_at=30, lost=7)
    grown = History()
    for event in events:
        grown.add([event])
        grown.curve("loss")
    assert grown.curve("loss") == History(events).curve("loss")


def test_the_time_between_two_sessions_does_not_count():
    events = steps([3.0, 2.0, 1.0])  # 0 s to 2 s
    events += [Event("started", START_T + 1000, {}), Event("step", START_T + 1005, {"step": 4, "loss": 0.9})]
    assert charts.summary(events).elapsed_s == pytest.approx(7.0)


def test_a_run_without_events_has_a_summary_and_a_chart():
    found = charts.summary([])
    assert (found.status, found.step, found.loss_last, found.verdict) == (
        "planned",
        0,
        None,
        "nothing trained yet",
    )
    assert charts.advice([]) == []
    assert all(trace["x"] == [] for trace in charts.spec([])["data"])


@pytest.mark.parametrize(("end", "status"), [(None, "running"), ("failed", "failed"), ("stopped", "stopped")])
def test_half_runs_and_failed_runs_have_a_status_and_no_time_left_unless_running(end, status):
    found = charts.summary(sample_run(end=end))
    assert found.status == status
    assert (found.eta_s is not None) == (status == "running")


def test_evaluating_after_the_end_leaves_the_status():
    events = [*sample_run(), Event("evaluated", START_T + 9999, {"loss_after": 1.0})]
    found = charts.summary(events)
    assert found.status == "finished"
    assert found.elapsed_s < 9999


def test_time_left_comes_from_the_median_step_where_the_worker_does_not_say():
    events = steps([1.0] * 4, step_s=3.0)
    events[-1].data["total_steps"] = 10
    assert charts.summary(events).eta_s == pytest.approx(18.0)


def test_best_held_out_loss_names_its_step():
    found = charts.summary(steps([1.0] * 9, evals=[(3, 2.0), (6, 1.5), (9, 1.7)]))
    assert (found.eval_first, found.eval_last, found.eval_best, found.eval_best_step) == (2.0, 1.7, 1.5, 6)


# -- advice


def test_a_healthy_run_gets_no_advice():
    assert charts.advice(sample_run(end="finished")) == []
    assert charts.summary(sample_run()).verdict == "learned"


@pytest.mark.parametrize("loss", [None, math.nan])
def test_a_loss_that_is_no_number_is_told_with_its_step(loss):
    events = steps([3.0, 2.0, loss, 1.0])
    assert "step 3" in charts.advice(events)[0]
    assert charts.summary(events).loss_last == 1.0
    assert json.dumps(charts.spec(events), allow_nan=False)


def test_held_out_loss_that_rises_while_training_loss_falls_is_overfitting():
    falling = [3 - 2.5 * i / 60 for i in range(60)]
    events = steps(falling, evals=[(20, 2.0), (40, 1.5), (60, 1.8)])
    assert charts.summary(events).verdict == "overfitting since step 40"
    assert "step 40" in charts.advice(events)[0]


def test_held_out_loss_that_rises_with_training_loss_is_not_called_overfitting():
    rising = [1 + 2 * i / 60 for i in range(60)]
    found = charts.advice(steps(rising, evals=[(20, 1.5), (40, 2.0), (60, 2.5)]))
    assert not any("by heart" in line for line in found)
    assert any("learning rate is likely too high" in line for line in found)


def test_a_loss_that_stays_is_told_and_a_noisy_falling_one_is_not():
    rng = random.Random(1)
    flat = [2.0 + rng.gauss(0, 0.001) for _ in range(60)]
    assert charts.summary(steps(flat)).verdict == "not learning"
    noisy = [2.0 - i / 100 + rng.gauss(0, 0.3) for i in range(60)]
    assert not any("stayed" in line for line in charts.advice(steps(noisy)))


def test_a_gradient_spike_is_told_with_its_step_and_warm_up_is_not_one():
    events = steps([3 - i / 30 for i in range(60)], grad_norm=1.0)
    events[1].data["grad_norm"] = 50.0
    assert charts.advice(events) == []
    events[40].data["grad_norm"] = 50.0
    assert "step 40" in charts.advice(events)[0]


def test_a_training_loss_near_zero_is_memorising_unless_held_out_rows_agree():
    events = steps([max(3 - i / 10, 0.01) for i in range(60)])
    assert charts.summary(events).verdict == "memorising"
    held_out_agrees = steps([max(3 - i / 10, 0.01) for i in range(60)], evals=[(30, 0.1), (60, 0.02)])
    assert charts.advice(held_out_agrees) == []


def test_pairs_won_no_better_than_by_guessing_are_told():
    events = steps([0.69 - i / 1000 for i in range(60)], metrics={"rewards/accuracies": 0.45})
    assert any("no more than by guessing" in line for line in charts.advice(events))


# -- curves


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(10, 300))
def test_thinning_keeps_ends_and_extremes_within_the_limit(values, points):
    x, y = thin(range(len(values)), values, points)
    assert len(x) == len(y) <= points
    assert list(x) == sorted(set(x))
    assert (x[0], x[-1]) == (0, len(values) - 1)
    assert (min(y), max(y)) == (min(values), max(values))
    assert all(values[i] == value for i, value in zip(x, y, strict=True))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_smoothing_starts_at_the_first_value_and_stays_between_the_extremes(values):
    out = smooth(values)
    assert out[0] == pytest.approx(values[0])
    margin = 1e-6 * max(1.0, *(abs(v) for v in values))
    assert all(min(values) - margin <= value <= max(values) + margin for value in out)


def test_raw_losses_fade_behind_a_smoothed_curve_from_31_points_on():
    assert [c.style for c in build(History(steps([1.0] * 30))).loss.curves] == ["line"]
    assert [c.style for c in build(History(steps([1.0] * 31))).loss.curves] == ["faint", "line"]


def test_a_long_run_keeps_every_trace_within_the_limit():
    made = charts.spec(sample_run(3000, method="dpo"))
    assert max(len(trace["x"]) for trace in made["data"]) <= POINTS
    assert len(json.dumps(made)) < 150_000


def test_method_metrics_get_panels_and_other_trainer_metrics_do_not():
    dpo = build(History(sample_run(method="dpo")))
    assert [panel.title for panel in dpo.method] == ["reward margin", "share of pairs won", "rewards"]
    events = sample_run()
    for event in events:
        if event.kind == "step":
            event.data["metrics"] = {"entropy": 1.0}
    assert build(History(events)).method == ()


def test_the_chart_says_nothing_that_a_browser_would_run():
    events = sample_run(name="<img src=x onerror=alert(1)>")
    events.insert(9, Event("warning", START_T, {"message": "<script>1</script>", "fix": "<b>"}))
    text = json.dumps(charts.spec(events))
    assert "<img" not in text
    assert "<script" not in text


def test_the_spec_needs_no_plotly():
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "from ui_events import sample_run; from ft_magic.ui import charts\n"
        "assert charts.spec(sample_run())['data']\n"
        "assert not {'numpy', 'pandas', 'torch', 'IPython'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=__file__.rsplit("/", 1)[0], timeout=60, env=_env()
    )


def _env():
    import os
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


def test_the_figure_is_valid_plotly_with_the_same_traces_and_a_clear_ground():
    plotly = pytest.importorskip("plotly.graph_objects")
    events = sample_run(method="dpo", end="stopped")
    made = charts.figure(events, title="t")
    assert isinstance(made, plotly.Figure)
    assert len(made.data) == len(charts.spec(events)["data"])
    assert made.layout.paper_bgcolor == "rgba(0,0,0,0)"
    # The default template would bring white grids back.
    assert made.layout.template.layout.plot_bgcolor is None
    assert {"checkpoint", "warning", "stop", "resume"} <= {trace.name for trace in made.data}


def test_a_figure_shown_in_a_notebook_carries_a_picture_for_exports(monkeypatch):
    pytest.importorskip("plotly")
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: shown.append(bundle))
    charts.figure(sample_run())._ipython_display_()
    assert "application/vnd.plotly.v1+json" in shown[0]
    assert shown[0]["text/html"].startswith('<img src="data:image/svg+xml;base64,')


def test_events_read_from_a_file_draw_as_those_in_memory():
    events = sample_run()
    again = [parse(event.to_json()) for event in events]
    assert charts.spec(again)["data"] == charts.spec(events)["data"]


def test_a_step_without_optional_fields_is_drawn():
    fields = step_fields(random.Random(0), 1, 10)
    bare = {key: fields[key] for key in ("step", "loss")}
    assert charts.spec([Event("step", START_T, bare)])["data"][0]["x"] == [1]
