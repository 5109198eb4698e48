from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ui_events import sample_run

from ft_magic.events import Event
from ft_magic.ui import svg
from ft_magic.ui.history import History
from ft_magic.ui.panels import build

SVG = "{http://www.w3.org/2000/svg}"


def chart(events, **more):
    return build(History(events), **more)


def words(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def test_the_picture_is_well_formed_and_names_its_axes_and_curves():
    root = ET.fromstring(svg.draw(chart(sample_run(method="dpo"))))
    found = words(root)
    for expected in (
        "step",
        "loss",
        "training",
        "held-out",
        "learning rate",
        "gradient norm",
        "tokens/s",
        "resume",
    ):
        assert expected in found
    assert "run \u00b7 dpo \u00b7 lora \u00b7 SmolLM2-135M-Instruct" in found


def test_every_point_lies_inside_the_picture():
    root = ET.fromstring(svg.draw(chart(sample_run(300, method="dpo"))))
    width, height = float(root.get("width")), float(root.get("height"))
    for line in root.iter(f"{SVG}polyline"):
        for pair in line.get("points").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_the_largest_picture_stays_under_60_kb():
    image = svg.image(chart(sample_run(5000, resume_at=None, method="dpo")))
    assert len(image) < 60_000


def test_the_alternative_text_holds_the_numbers_and_nothing_runs():
    image = svg.image(chart(sample_run(name='"><script>')))
    alt = re.search(r'alt="([^"]*)"', image)[1]
    assert "step 60 of 60" in alt
    assert "learned" in alt
    assert "<script" not in image
    data = re.search(r"base64,([^\"]*)", image)[1]
    assert b"<script" not in base64.b64decode(data)


@pytest.mark.parametrize(
    "events", [[], sample_run(1, resume_at=None), [Event("step", 1.0, {"step": 1, "loss": 0.0})]]
)
def test_runs_of_no_and_one_step_are_drawn(events):
    ET.fromstring(svg.draw(chart(events)))


def test_without_heading_the_picture_is_shorter_and_has_no_title():
    full, short = (ET.fromstring(svg.draw(chart(sample_run()), heading=h)) for h in (True, False))
    assert float(short.get("height")) < float(full.get("height"))
    assert "learned" not in words(short)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 6))
def test_ticks_are_round_few_and_inside(low, span, wanted):
    high = low + span
    if high - low < abs(low) * 1e-9:
        return  # the two ends are the same number as far as floats can tell
    ticks = svg.ticks_of(low, high, wanted)
    assert len(ticks) <= wanted + 1
    assert all(low - span * 1e-3 <= tick <= high + span * 1e-3 for tick in ticks)
