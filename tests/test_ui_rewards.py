"""Charts of methods that work for a reward: the reward is the large panel, each reward and the KL have their own."""

import re

import pytest

from ft_magic.events import Event
from ft_magic.ui import live, panels, svg
from ft_magic.ui.headline import numbers_line
from ft_magic.ui.history import History


def told(kind, t, **data):
    return Event(kind, t, data)


@pytest.fixture
def history():
    events = [told("planned", 0.0, name="r", method="grpo", update="lora", total_steps=3, model="m")]
    for step in (1, 2, 3):
        metrics = {
            "reward": 0.1 * step, "reward_std": 0.05, "kl": 0.01 * step, "rewards/short/mean": 0.2,
            "rewards/correct/mean": 0.1, "entropy": 2.0, "step_time": 9.0,
        }  # fmt: skip
        events.append(told("step", step, step=step, total_steps=3, loss=0.0, metrics=metrics))
        events.append(
            told("eval", step, step=step, loss=None, metrics={"reward": 0.1 * step + 0.01, "kl": 0.02})
        )
    return History(events)


def test_the_reward_is_the_large_panel_with_its_spread_and_held_out_values(history):
    chart = panels.build(history)
    assert chart.loss.title == "reward"
    named = {curve.name: curve.y for curve in chart.loss.curves if curve.name}
    assert named["training"] == pytest.approx((0.1, 0.2, 0.3))
    assert named["held-out"] == pytest.approx((0.11, 0.21, 0.31))
    assert named["spread"] == pytest.approx((0.15, 0.25, 0.35))


def test_each_reward_and_the_kl_have_panels_with_plain_titles(history):
    small = {panel.title: [curve.name for curve in panel.curves] for panel in panels.build(history).method}
    assert small["each reward"] == ["short", "correct"]
    assert small["KL to the start, nats"] == ["", "held-out"]
    assert not any("step_time" in title for title in small)


def test_the_line_of_numbers_says_what_the_reward_did(history):
    chart = panels.build(history)
    assert "reward 0.110 → 0.310" in numbers_line(chart.summary)
    assert "loss" not in numbers_line(chart.summary)
    assert "reward" in svg.image(chart)


def test_the_heading_of_a_reward_run_shows_the_reward_and_no_empty_held_out_loss(history):
    shown = live.html_of(panels.build(history))
    assert "0.1100 \u2192 <b>0.3100</b>" in shown
    assert "held-out loss" not in shown


def test_a_held_out_loss_measured_once_is_not_shown_as_a_change():
    events = [
        told("planned", 0.0, name="r", method="sft", update="lora", total_steps=1, model="m"),
        told("step", 1.0, step=1, total_steps=1, loss=3.5),
        told("eval", 2.0, step=1, loss=2.5),
    ]
    chart = panels.build(History(events))
    assert "held-out 2.500" in numbers_line(chart.summary)
    assert "2.500 \u2192" not in live.html_of(chart)


def test_a_long_title_of_a_small_panel_leaves_room_for_its_value(history):
    drawn = svg.draw(panels.build(history))
    places = {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]+)</text>', drawn)}
    title = "KL to the start, nats"
    assert places["0.0300"] - svg._wide("0.0300") > places[title] + svg._wide(title)
